"""``outmask predict`` on good and bad inputs: exit code, standard error, and what is on disk afterwards."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from outmask.app.cli import main

RNG = np.random.default_rng(0)
OUTPUTS = ("_overlay.jpg", "_score.npy", "_score.png")


def write(path: Path, size: tuple[int, int] = (12, 9), **options: Any) -> Path:
    """An RGB picture of ``size`` (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(RNG.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).save(path, **options)
    return path


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def outputs(*stems: str) -> list[str]:
    return sorted([f"{stem}{ending}" for stem in stems for ending in OUTPUTS] + ["results.json"])


def results(folder: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return values


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def run(segmenter: Any, out: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs ``outmask predict ... --out OUT``; gives the exit code and standard error's lines."""

    def run(*arguments: Any) -> tuple[int, list[str]]:
        code = main(["predict", *map(str, arguments), "--out", str(out)])
        return code, capsys.readouterr().err.splitlines()

    return run


def test_a_folder_is_predicted_below_its_own_paths(run: Any, out: Path, tmp_path: Path) -> None:
    for name in ("in/a.jpg", "in/town/a.png", "in/town/b.png"):
        write(tmp_path / name)
    assert run(tmp_path / "in") == (0, [])
    assert names(out) == outputs("a", "town/a", "town/b")
    assert np.load(out / "town/a_score.npy").shape == (9, 12)
    values = results(out)
    assert {key: values[key] for key in ("model", "task", "score", "threshold")} == {
        "model": "street",
        "task": "anomaly",
        "score": "eam",
        "threshold": None,
    }
    assert [entry["status"] for entry in values["images"]] == ["done"] * 3
    for entry in values["images"]:
        assert all((out / output).is_file() for output in entry["outputs"])


def test_files_and_globs_are_predicted(run: Any, out: Path, tmp_path: Path) -> None:
    for name in ("x/a.jpg", "x/b.jpg", "y/a.jpg"):
        write(tmp_path / name)
    assert run(tmp_path / "x/a.jpg", f"{tmp_path}/*/a.jpg") == (0, [])
    assert names(out) == outputs("x/a", "y/a")


def test_equal_stems_in_one_folder_stay_apart(run: Any, out: Path, tmp_path: Path) -> None:
    write(tmp_path / "in/a.jpg")
    write(tmp_path / "in/a.png", size=(5, 4))
    assert run(tmp_path / "in") == (0, [])
    assert names(out) == outputs("a.jpg", "a.png")
    assert np.load(out / "a.png_score.npy").shape == (4, 5)


def test_the_score_is_the_one_asked_for(run: Any, out: Path, tmp_path: Path, segmenter: Any) -> None:
    image = write(tmp_path / "a.png")
    assert run(image, "--score", "am")[0] == 0
    np.testing.assert_array_equal(np.load(out / "a_score.npy"), segmenter.predict(image, score="am").score)


def test_semantic_writes_labels(run: Any, out: Path, tmp_path: Path) -> None:
    image = write(tmp_path / "a.png")
    assert run(image, "--task", "semantic", "--threshold", "-0.5") == (0, [])
    assert names(out) == sorted([*outputs("a"), "a_labels.png", "a_open_labels.png"])
    labels, open_labels = (np.asarray(Image.open(out / f"a_{what}.png")) for what in ("labels", "open_labels"))
    unknown = np.load(out / "a_score.npy") > -0.5
    assert (open_labels[unknown] == 2).all()
    np.testing.assert_array_equal(open_labels[~unknown], labels[~unknown])
    assert results(out)["images"][0]["unknown_share"] == pytest.approx(unknown.mean())


def test_thresholds_in_scientific_notation_are_numbers(run: Any, out: Path, tmp_path: Path) -> None:
    assert run(write(tmp_path / "a.png"), "--threshold", "-3e-05") == (0, [])
    assert results(out)["threshold"] == -3e-05


def test_semantic_without_a_threshold_is_bad_usage(run: Any, out: Path, tmp_path: Path) -> None:
    code, err = run(write(tmp_path / "a.png"), "--task", "semantic")
    assert (code, len(err)) == (2, 1)
    assert "needs a threshold" in err[0]


def grey(path: Path) -> None:
    Image.new("L", (7, 5), 77).save(path)


def sixteen_bits(path: Path) -> None:
    cv2.imwrite(str(path), RNG.integers(0, 65536, (5, 7), dtype=np.uint16))


def cmyk(path: Path) -> None:
    Image.new("CMYK", (7, 5), (9, 99, 0, 50)).save(path)


def rgba(path: Path) -> None:
    Image.new("RGBA", (7, 5), (1, 2, 3, 128)).save(path)


def rotated(path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (5, 7)).save(path, exif=exif)


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("a.png", grey),
        ("a.png", sixteen_bits),
        ("a.tif", sixteen_bits),
        ("a.jpg", cmyk),
        ("a.png", rgba),
        ("a.jpg", rotated),
    ],
)
def test_unusual_images_are_done_silently(run: Any, out: Path, tmp_path: Path, name: str, make: Any) -> None:
    make(tmp_path / name)
    assert run(tmp_path / name) == (0, [])
    assert names(out) == outputs("a")
    assert np.load(out / "a_score.npy").shape == (5, 7)


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1)])
def test_tiny_and_thin_images_are_done(run: Any, out: Path, tmp_path: Path, size: tuple[int, int]) -> None:
    write(tmp_path / "a.png", size=size)
    assert run(tmp_path / "a.png") == (0, [])
    assert np.load(out / "a_score.npy").shape == size[::-1]


def test_of_an_animation_the_first_picture_is_done_with_a_note(run: Any, out: Path, tmp_path: Path) -> None:
    frames = [Image.new("RGB", (7, 5), color) for color in ("red", "lime")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    code, err = run(tmp_path / "a.gif")
    assert (code, err) == (0, [f"outmask: {tmp_path / 'a.gif'} holds 2 pictures: only the first is used"])
    assert names(out) == outputs("a")


def missing(path: Path) -> None:
    """No file at all."""


def truncated(path: Path) -> None:
    write(path, size=(64, 48), quality=95)
    path.write_bytes(path.read_bytes()[:2000])


def text(path: Path) -> None:
    path.write_text("not an image\n")


def empty_folder(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize("make", [missing, truncated, text, empty_folder])
def test_a_bad_input_is_named_and_the_others_are_done(run: Any, out: Path, tmp_path: Path, make: Any) -> None:
    good, bad = write(tmp_path / "good.png"), tmp_path / "bad.jpg"
    make(bad)
    code, err = run(bad, good)
    assert (code, len(err)) == (1, 1)
    assert err[0].startswith(f"outmask: {bad}")
    stems = [name for name in names(out) if name.endswith(OUTPUTS)]
    assert stems == sorted(name for name in outputs("good") if name != "results.json")
    failed, done = sorted(results(out)["images"], key=lambda entry: entry["status"], reverse=True)
    assert (failed["file"], failed["status"], done["status"]) == (str(bad), "failed", "done")
    assert f"outmask: {failed['error']}" == err[0]


@pytest.mark.parametrize("make", [missing, empty_folder])
def test_nothing_to_do_is_bad_usage_and_writes_nothing(run: Any, out: Path, tmp_path: Path, make: Any) -> None:
    make(tmp_path / "bad.jpg")
    for arguments in ([tmp_path / "bad.jpg"], [tmp_path / "bad.jpg", tmp_path / "*.png"]):
        code, err = run(*arguments)
        assert (code, len(err)) == (2, 1)
        assert str(tmp_path / "bad.jpg") in err[0]
    assert not out.exists()


@pytest.mark.parametrize("make", [truncated, text])
def test_a_single_bad_image_fails(run: Any, out: Path, tmp_path: Path, make: Any) -> None:
    make(tmp_path / "bad.jpg")
    code, err = run(tmp_path / "bad.jpg")
    assert (code, len(err)) == (1, 1)
    assert names(out) == ["results.json"]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--model", "none"], "none"),
        (["--model", "text.pkl"], "text.pkl"),
        (["--score", "best"], "best"),
        (["--task", "panoptics"], "panoptics"),
        (["--threshold", "high"], "high"),
        (["--fast"], "--fast"),
    ],
)
def test_bad_options_are_one_line_and_write_nothing(
    run: Any, out: Path, tmp_path: Path, arguments: list[str], named: str
) -> None:
    code, err = run(write(tmp_path / "a.png"), *arguments)
    assert (code, len(err)) == (2, 1)
    assert named in err[0]
    assert not out.exists()


def test_an_output_folder_that_is_a_file_is_one_line(run: Any, out: Path, tmp_path: Path) -> None:
    out.write_text("mine")
    code, err = run(write(tmp_path / "a.png"))
    assert (code, len(err)) == (2, 1)
    assert str(out) in err[0]
    assert out.read_text() == "mine"


def test_resume_does_what_is_missing(run: Any, out: Path, tmp_path: Path, segmenter: Any) -> None:
    for name in ("a.png", "b.png", "c.png"):
        write(tmp_path / "in" / name)
    assert run(tmp_path / "in")[0] == 0
    (out / "b_score.png").unlink()
    before = results(out)
    segmenter.calls = 0
    assert run(tmp_path / "in", "--resume") == (0, [])
    assert segmenter.calls == 1
    assert names(out) == outputs("a", "b", "c")
    assert results(out) == before
    assert run(tmp_path / "in")[0] == 0
    assert segmenter.calls == 4


def test_resume_with_another_score_is_refused(run: Any, tmp_path: Path) -> None:
    image = write(tmp_path / "a.png")
    assert run(image)[0] == 0
    code, err = run(image, "--resume", "--score", "am")
    assert (code, len(err)) == (2, 1)
    assert "score 'eam'" in err[0]


def test_results_among_the_inputs_are_no_inputs(run: Any, out: Path, tmp_path: Path, segmenter: Any) -> None:
    write(tmp_path / "a.png")
    assert run(tmp_path)[0] == 0
    assert run(tmp_path)[0] == 0
    assert segmenter.calls == 2
    assert names(out) == outputs("a")


def test_an_interrupt_leaves_whole_files_and_a_record(run: Any, out: Path, tmp_path: Path, segmenter: Any) -> None:
    for name in ("a.png", "b.png", "c.png"):
        write(tmp_path / "in" / name)

    def interrupt(call: int) -> None:
        if call == 1:
            raise KeyboardInterrupt

    segmenter.before_each = interrupt
    code, err = run(tmp_path / "in")
    assert code == 130
    assert err == ["outmask: interrupted after 1 of 3 images; the same command with --resume goes on"]
    assert names(out) == outputs("a")
    assert [entry["status"] for entry in results(out)["images"]] == ["done"]
    segmenter.before_each = lambda call: None
    assert run(tmp_path / "in", "--resume") == (0, [])
    assert names(out) == outputs("a", "b", "c")


def test_a_defect_is_not_hidden(run: Any, out: Path, tmp_path: Path, segmenter: Any) -> None:
    def fail(call: int) -> None:
        if call == 1:
            raise RuntimeError("a defect")

    for name in ("a.png", "b.png"):
        write(tmp_path / "in" / name)
    segmenter.before_each = fail
    with pytest.raises(RuntimeError, match="a defect"):
        run(tmp_path / "in")
    assert [entry["status"] for entry in results(out)["images"]] == ["done"]
