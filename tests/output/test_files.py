"""Files of a result: complete or absent, and saying what the result says."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from outmask.errors import OutmaskError
from outmask.output.files import (
    RunFile,
    is_output,
    output_paths,
    output_stems,
    replacing,
    save_result,
    write_image,
    write_json,
)
from outmask.types import OpenSetResult, Taxonomy


def make_result(threshold: float | None = None, size: tuple[int, int] = (6, 9), classes: int = 2) -> OpenSetResult:
    score = np.linspace(-1, 0, size[0] * size[1], dtype=np.float32).reshape(size)
    labels = (np.arange(size[0] * size[1]).reshape(size) % classes).astype(np.int32)
    names = tuple(f"class {index}" for index in range(classes))
    return OpenSetResult(
        image=np.full((*size, 3), 90, np.uint8),
        score=score,
        labels=labels,
        taxonomy=Taxonomy(names, ((9, 9, 9),) * classes, void_id=classes + 1),
        score_name="eam",
        display_range=(-1.0, 0.0),
        threshold=threshold,
        open_labels=None if threshold is None else np.where(score > threshold, classes, labels).astype(np.int32),
        source=Path("somewhere/road.jpg"),
    )


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_a_result_is_three_files(tmp_path: Path) -> None:
    result = make_result()
    paths = save_result(result, tmp_path / "new")
    assert sorted(paths) == sorted(output_paths(tmp_path / "new", "road"))
    assert names(tmp_path / "new") == ["road_overlay.jpg", "road_score.npy", "road_score.png"]
    score = np.load(tmp_path / "new/road_score.npy")
    assert score.dtype == np.float32
    np.testing.assert_array_equal(score, result.score)
    with Image.open(tmp_path / "new/road_score.png") as picture:
        assert (picture.format, picture.size, picture.mode) == ("PNG", (9, 6), "RGB")
    with Image.open(tmp_path / "new/road_overlay.jpg") as picture:
        assert (picture.format, picture.size) == ("JPEG", (9, 6))


def test_a_result_saves_itself_as_the_command_does(tmp_path: Path) -> None:
    make_result().save(tmp_path / "a")
    save_result(make_result(), tmp_path / "b")
    assert names(tmp_path / "a") == names(tmp_path / "b")


def test_a_stem_may_lie_below_folders(tmp_path: Path) -> None:
    save_result(make_result(), tmp_path, "town/frame.0001")
    assert names(tmp_path) == [f"town/frame.0001{ending}" for ending in ("_overlay.jpg", "_score.npy", "_score.png")]


@pytest.mark.parametrize(("classes", "dtype"), [(2, np.uint8), (300, np.uint16)])
def test_labels_are_written_as_ids(tmp_path: Path, classes: int, dtype: type) -> None:
    result = make_result(threshold=-0.5, size=(20, 30), classes=classes)
    save_result(result, tmp_path, labels=True)
    for name, expected in (("road_labels.png", result.labels), ("road_open_labels.png", result.open_labels)):
        stored = np.asarray(Image.open(tmp_path / name))
        assert stored.dtype == dtype
        np.testing.assert_array_equal(stored, expected)


def test_an_interrupted_write_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("before")

    def interrupted() -> None:
        with replacing(path) as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "before"
    assert names(tmp_path) == ["a.txt"]


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutmaskError, match="cannot write") as error:
        save_result(make_result(), tmp_path / "file")
    assert "\n" not in str(error.value)


def test_files_get_the_users_permissions(tmp_path: Path) -> None:
    mask = os.umask(0o027)
    try:
        write_json(tmp_path / "a.json", {})
    finally:
        os.umask(mask)
    assert (tmp_path / "a.json").stat().st_mode & 0o777 == 0o640


def test_a_jpeg_beyond_the_formats_limit_is_scaled_down(tmp_path: Path) -> None:
    write_image(tmp_path / "long.jpg", np.zeros((2, 70_000, 3), np.uint8))
    write_image(tmp_path / "long.png", np.zeros((2, 70_000, 3), np.uint8))
    assert Image.open(tmp_path / "long.jpg").size == (65_500, 2)
    assert Image.open(tmp_path / "long.png").size == (70_000, 2)


def test_equal_stems_get_names_of_their_own() -> None:
    images = [Path(name) for name in ("a/x.jpg", "b/x.jpg", "a/x.png", "y.jpg", "y.jpg.png", "z.1.jpg", "Z.1.PNG")]
    stems = output_stems(images)
    assert stems == ["a/x.jpg", "b/x", "a/x.png", "y", "y.jpg.png", "z.1.jpg", "Z.1.PNG"]


def test_outputs_are_recognised_by_their_names(tmp_path: Path) -> None:
    written = save_result(make_result(threshold=-0.5), tmp_path, labels=True)
    assert [path.suffix for path in written if not is_output(path)] == [".npy"]
    assert not is_output(Path("road.jpg"))


def test_run_file_says_what_was_done(tmp_path: Path) -> None:
    run = RunFile(tmp_path, {"model": "street", "score": "eam"})
    result = make_result(threshold=-0.5)
    run.done(Path("in/a.jpg"), result, save_result(result, tmp_path, "a"))
    run.failed("in/b.jpg", OutmaskError("in/b.jpg: no such file"))
    run.write()
    values = json.loads((tmp_path / "results.json").read_text())
    assert (values["model"], values["score"]) == ("street", "eam")
    done, failed = values["images"]
    assert done["outputs"] == ["a_open_labels.png", "a_score.npy", "a_score.png", "a_overlay.jpg"]
    assert (done["file"], done["status"], done["width"], done["height"]) == ("in/a.jpg", "done", 9, 6)
    assert done["score_max"] == 0
    assert done["score_mean"] == pytest.approx(-0.5)
    assert done["unknown_share"] == pytest.approx(0.5)
    assert failed == {"file": "in/b.jpg", "status": "failed", "error": "in/b.jpg: no such file"}


def test_a_resumed_run_keeps_its_entries(tmp_path: Path) -> None:
    settings = {"model": "street", "score": "eam"}
    first = RunFile(tmp_path, settings)
    first.done(Path("a.jpg"), make_result(), [])
    first.failed("b.jpg", OutmaskError("no"))
    first.write()
    second = RunFile(tmp_path, settings, resume=True)
    second.skipped(Path("a.jpg"))
    second.done(Path("b.jpg"), make_result(), [])
    second.write()
    a, b = json.loads((tmp_path / "results.json").read_text())["images"]
    assert a["score_max"] == 0
    assert b["status"] == "done"
    assert "error" not in b


def test_a_run_is_not_resumed_with_other_settings(tmp_path: Path) -> None:
    RunFile(tmp_path, {"model": "street", "score": "eam"}).write()
    with pytest.raises(OutmaskError, match=r"is of a run with score 'eam': resume with the same"):
        RunFile(tmp_path, {"model": "street", "score": "am"}, resume=True)
    RunFile(tmp_path, {"model": "street", "score": "am"}).write()
    (tmp_path / "results.json").write_text("[]")
    with pytest.raises(OutmaskError, match="no results file"):
        RunFile(tmp_path, {"model": "street"}, resume=True)


def test_infinite_scores_have_no_json_number(tmp_path: Path) -> None:
    result = make_result()
    result.score[0, 0] = np.inf
    run = RunFile(tmp_path, {})
    run.done(Path("a.jpg"), result, [])
    run.write()
    assert json.loads((tmp_path / "results.json").read_text())["images"][0]["score_max"] is None
