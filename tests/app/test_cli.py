"""The command line as a whole: help, usage errors, dispatch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import outmask.app.cli
from outmask.app.cli import main
from outmask.errors import OutmaskError


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "expected a command: demo, predict"),
        (["predicts"], "invalid choice: 'predicts'"),
        (["predict"], "PATH, --out; see outmask predict --help"),
        (["predict", "a.jpg"], "required: --out"),
        (["predict", "a.jpg", "--out"], "--out"),
        (["predict", "a.jpg", "--out", "o", "--threshold", "high"], "argument --threshold: expected float, got high"),
        (["evaluate", "--benchmark", "folder"], "required: --root"),
        (["evaluate", "--benchmark", "b", "--root", "r", "--anomaly-id", "1.5"], "--anomaly-id: expected int, got 1.5"),
        (["list"], "what to list"),
        (["list", "colours"], "'colours'"),
        (["demo", "now"], "now"),
    ],
)
def test_bad_usage_is_one_line_and_code_2(capsys: pytest.CaptureFixture[str], arguments: list[str], named: str) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("outmask: ")
    assert named in line


@pytest.mark.parametrize("command", ["", "demo", "predict", "evaluate", "calibrate", "submit", "bench", "list"])
def test_every_command_has_help(capsys: pytest.CaptureFixture[str], command: str) -> None:
    with pytest.raises(SystemExit) as stop:
        main([*command.split(), "--help"])
    assert stop.value.code == 0
    assert "usage: outmask" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["--help"], ["predict", "--help"], ["list", "models"]])
def test_help_and_the_list_of_models_wait_for_nothing_heavy(arguments: list[str]) -> None:
    code = f"import sys; from outmask.app.cli import main\ntry: main({arguments})\nexcept SystemExit: pass\n"
    code += "print(sorted({name.partition('.')[0] for name in sys.modules}))"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    imported = set(ast.literal_eval(output.splitlines()[-1]))
    assert {"outmask", "jsonargparse"} <= imported
    heavy = {"torch", "transformers", "lightning", "kornia", "cv2", "numpy", "scipy", "PIL", "matplotlib", "sklearn"}
    heavy |= {"huggingface_hub", "safetensors", "onnx", "onnxruntime", "openvino", "triton", "gradio", "ray", "h5py"}
    assert heavy & imported == set()


@pytest.mark.parametrize(
    ("what", "named"), [("scores", "eam"), ("benchmarks", "road_anomaly"), ("models", "OWNER/NAME"), ("recipes", "")]
)
def test_list_says_what_there_is(capsys: pytest.CaptureFixture[str], what: str, named: str) -> None:
    assert main(["list", what]) == 0
    assert named in capsys.readouterr().out


def test_train_gets_its_arguments_unread(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import outmask.training.run

    seen: list[str] = []

    def train(arguments: list[str]) -> Path:
        seen.extend(arguments)
        return Path("runs/model")

    monkeypatch.setattr(outmask.training.run, "main", train)
    assert main(["train", "--config", "recipe.yaml", "--model.dim", "64"]) == 0
    assert seen == ["--config", "recipe.yaml", "--model.dim", "64"]
    assert "runs/model" in capsys.readouterr().out


def test_errors_and_interrupts_of_any_command_are_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def raising(error: BaseException) -> None:
        def run(what: str) -> int:
            raise error

        monkeypatch.setitem(outmask.app.cli._COMMANDS, "list", run)

    raising(OutmaskError("two\nlines"))
    assert main(["list", "scores"]) == 2
    assert capsys.readouterr().err == "outmask: two lines\n"
    raising(KeyboardInterrupt())
    assert main(["list", "scores"]) == 130
    assert capsys.readouterr().err == "outmask: interrupted\n"


def test_the_package_runs_as_a_module() -> None:
    found = subprocess.run([sys.executable, "-m", "outmask", "list"], capture_output=True, text=True, check=False)
    assert found.returncode == 2
    assert found.stderr.startswith("outmask: ")
