"""``outmask predict`` on good and bad inputs: exit code, standard error, and what is on disk afterwards."""

import json
import logging
import re
import signal
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from weakref import ref

import cv2
import numpy as np
import pytest
from PIL import Image

from outmask.app import pipeline
from outmask.app import predict as predict_module
from outmask.app.cli import main
from outmask.errors import ImageError

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


PATIENCE = 100.0
"""Seconds that a test waits for what must come; only a defect takes so long."""


def test_images_are_read_and_written_while_the_model_works(
    run: Any, out: Path, tmp_path: Path, segmenter: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "abc":
        write(tmp_path / f"in/{name}.png")
    was_read = {name: threading.Event() for name in "abc"}
    was_written = {name: threading.Event() for name in "abc"}
    read_image, save_result = predict_module.read_image, predict_module.save_result

    def read(path: Path) -> Any:
        was_read[path.stem].set()
        return read_image(path)

    def save(result: Any, folder: Path, stem: str, labels: bool) -> list[Path]:
        outputs = save_result(result, folder, stem, labels)
        was_written[stem].set()
        return outputs

    def wait(call: int) -> None:
        assert was_read["abc"[min(call + 1, 2)]].wait(PATIENCE)  # of the next image
        assert call == 0 or was_written["abc"[call - 1]].wait(PATIENCE)  # of the last one

    monkeypatch.setattr(predict_module, "read_image", read)
    monkeypatch.setattr(predict_module, "save_result", save)
    segmenter.before_each = wait
    assert run(tmp_path / "in") == (0, [])
    assert names(out) == outputs("a", "b", "c")


def test_messages_and_entries_come_in_the_order_of_the_inputs(
    run: Any, out: Path, tmp_path: Path, segmenter: Any
) -> None:
    frames = [Image.new("RGB", (7, 5), color) for color in ("red", "lime")]
    named, told = [], []
    for index in range(24):
        path = tmp_path / f"in/{index}.gif"
        named.append(str(path))
        if index % 3 == 0:
            text(write(path))
            told.append(f"outmask: {path} is not an image that can be read; expected JPEG, PNG, WebP, TIFF or BMP")
        elif index % 3 == 1:
            path.parent.mkdir(parents=True, exist_ok=True)
            frames[0].save(path, save_all=True, append_images=frames[1:])
            told.append(f"outmask: {path} holds 2 pictures: only the first is used")
        else:
            write(path)
    assert run(tmp_path / "in") == (1, told)
    entries = results(out)["images"]
    assert [entry["file"] for entry in entries] == named
    assert [entry["status"] for entry in entries] == ["failed", "done", "done"] * 8


def test_of_an_interrupted_run_nothing_is_told_that_was_only_read_ahead(
    run: Any, tmp_path: Path, segmenter: Any
) -> None:
    write(tmp_path / "in/a.png")
    text(tmp_path / "in/b.png")

    def interrupt(call: int) -> None:
        raise KeyboardInterrupt

    segmenter.before_each = interrupt
    code, err = run(tmp_path / "in")
    assert (code, len(err)) == (130, 1)
    assert "interrupted after 0 of 2 images" in err[0]


def test_what_is_said_of_every_image_alike_is_told_once(run: Any, tmp_path: Path, segmenter: Any) -> None:
    for name in "abc":
        write(tmp_path / f"in/{name}.png")
    segmenter.before_each = lambda call: logging.getLogger("outmask.test").warning("images of %dx9 pixels", 12)
    assert run(tmp_path / "in") == (0, ["outmask: images of 12x9 pixels"])


def test_a_full_disk_ends_the_run_with_one_line(
    run: Any, out: Path, tmp_path: Path, small_disk: Callable[[int], AbstractContextManager[None]]
) -> None:
    for index in range(6):
        write(tmp_path / f"in/{index}.png", size=(64, 64) if index == 2 else (8, 8))
    with small_disk(8_000):  # a score of 64 x 64 takes 16 kB
        code, err = run(tmp_path / "in")
    assert code == 2
    assert err == [f"outmask: cannot write {out / '2_score.npy'}: File too large"]
    written = [name.removesuffix("_overlay.jpg") for name in names(out) if name.endswith("_overlay.jpg")]
    assert {"0", "1"} <= set(written) <= {"0", "1", "3"}  # what was given before the failure was seen
    assert names(out) == outputs(*written)
    assert [Path(entry["file"]).stem for entry in results(out)["images"]] == written


_INTERRUPTED = """
import signal, sys, time
import outmask
from outmask.app import cli
from tests.app.conftest import FakeSegmenter

fake = FakeSegmenter("street")

def before_each(call):
    print(call, flush=True)
    time.sleep(0.05)

fake.before_each = before_each
outmask.load = lambda name, runtime=None: fake
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have its background jobs ignore it
sys.exit(cli.main())
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_leave_whole_files_and_a_true_record(
    tmp_path: Path, out: Path, number: signal.Signals, code: int
) -> None:
    for index in range(100):
        write(tmp_path / f"in/{index:02}.png", size=(300, 200))
    command = [sys.executable, "-c", _INTERRUPTED, "predict", str(tmp_path / "in"), "--out", str(out)]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        while process.stdout.readline().strip() != "3":
            assert process.poll() is None
        process.send_signal(number)
        _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == code
    done = [Path(entry["file"]).stem for entry in results(out)["images"]]
    assert 3 <= len(done) < 100
    assert done == [f"{index:02}" for index in range(len(done))]
    assert names(out) == outputs(*done)
    if number == signal.SIGINT:
        assert err.splitlines() == [
            f"outmask: interrupted after {len(done)} of 100 images; the same command with --resume goes on"
        ]


def test_no_result_is_kept_beyond_those_being_written(
    run: Any, tmp_path: Path, segmenter: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    side, images = 64, 40
    for index in range(images):
        write(tmp_path / f"in/{index}.png", size=(side, side))
    made: list[ref[Any]] = []
    alive, memory = [], []
    predict = segmenter.predict

    def watched(*arguments: Any, **options: Any) -> Any:
        alive.append(sum(result() is not None for result in made))
        memory.append(tracemalloc.get_traced_memory()[0])
        result = predict(*arguments, **options)
        made.append(ref(result))
        return result

    monkeypatch.setattr(segmenter, "predict", watched)
    tracemalloc.start()
    try:
        assert run(tmp_path / "in") == (0, [])
    finally:
        tracemalloc.stop()
    # Those that are unfinished, and what each worker has noted but is yet to let go.
    assert max(alive) <= 2 * pipeline._WORKERS
    assert len(made) == images
    assert all(result() is None for result in made)
    # Later images find the memory as earlier ones did, but for entries of results.json, each far smaller than a map.
    growth = min(memory[-10:]) - min(memory[5:15])
    assert growth < 25 * side * side


def test_windows_are_asked_for_by_height_and_width(run: Any, out: Path, tmp_path: Path, segmenter: Any) -> None:
    image = write(tmp_path / "a.png")
    assert run(image, "--window", "200x300")[0] == 0
    assert segmenter.window == (200, 300)
    assert results(out)["window"] == [200, 300]
    for other in ([], ["--window", "300"]):
        code, err = run(image, "--resume", *other)
        assert (code, len(err)) == (2, 1)
        assert "of a run with window [200, 300]" in err[0]
    assert run(image, "--resume", "--window", "200x300")[0] == 0
    assert run(image, "--window", "300")[0] == 0
    assert segmenter.window == (300, 300)
    assert run(image)[0] == 0
    assert segmenter.window is None


@pytest.mark.parametrize("window", ["0", "300x", "x", "300x0", "3e2", "-5", "1x2x3", ""])
def test_a_window_that_is_none_is_bad_usage(run: Any, out: Path, tmp_path: Path, window: str) -> None:
    code, err = run(write(tmp_path / "a.png"), f"--window={window}")
    assert (code, len(err)) == (2, 1)
    assert "expected pixels, such as 1024, or HEIGHTxWIDTH, such as 512x1024" in err[0]
    assert not out.exists()


def test_an_image_that_the_model_refuses_is_named_and_the_others_are_done(
    run: Any, out: Path, tmp_path: Path, segmenter: Any
) -> None:
    for name in "abc":
        write(tmp_path / f"in/{name}.png")

    refusals = iter([False, True, False])

    def refuse(call: int) -> None:
        if next(refusals):
            raise ImageError("too large for segments")

    segmenter.before_each = refuse
    refused = f"{tmp_path / 'in/b.png'}: too large for segments"
    assert run(tmp_path / "in") == (1, [f"outmask: {refused}"])
    assert names(out) == outputs("a", "c")
    entries = results(out)["images"]
    assert [entry["status"] for entry in entries] == ["done", "failed", "done"]
    assert entries[1]["error"] == refused


def test_the_end_says_how_busy_the_model_was(
    run: Any, tmp_path: Path, segmenter: Any, capsys: pytest.CaptureFixture[str], out: Path
) -> None:
    image = write(tmp_path / "a.png")
    assert main(["predict", str(image), "--out", str(out)]) == 0
    assert re.fullmatch(rf"1 done in \d+ s \(model busy \d+ %\): {out} \(see results.json\)\n", capsys.readouterr().out)
    assert main(["predict", str(image), "--out", str(out), "--resume"]) == 0
    assert re.fullmatch(rf"0 done in 0 s, 1 there already: {out} \(see results.json\)\n", capsys.readouterr().out)
