"""SegmentMeIfYouCan's submission: what the kit reads, what it cost, what is refused."""

import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from outmask.errors import OutmaskError
from outmask.evaluation import submission
from outmask.evaluation.float16 import Float16Map, ScoreSample, tie_share
from outmask.evaluation.score_files import read_hdf5
from outmask.evaluation.submission import Frame, submit, write_smiyc
from outmask.metrics import PixelMetrics

Arrays = tuple[np.ndarray, np.ndarray]

# --- files


def test_a_frame_is_written_as_the_kit_reads_it(tmp_path: Path) -> None:
    """road_anomaly_benchmark: ``outputs/anomaly_p/METHOD/DATASET/FID.hdf5``, dataset ``value``; FIDs may have dots."""
    values = np.arange(0x3C01, dtype=np.uint16).view(np.float16).reshape(1, -1)
    path = write_smiyc(tmp_path, "ours", "ObstacleTrack-all", "snowstorm1_00_16_02.578", values)
    assert path == tmp_path / "anomaly_p" / "ours" / "ObstacleTrack-all" / "snowstorm1_00_16_02.578.hdf5"
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == [path]
    with h5py.File(path, "r") as file:
        assert list(file) == ["value"]
        stored = file["value"]
        assert (stored.compression, stored.compression_opts, stored.dtype) == ("gzip", 9, np.float16)
        np.testing.assert_array_equal(stored[:].view(np.uint16), values.view(np.uint16))
    assert path.read_bytes() == write_smiyc(tmp_path, "ours", "d", "n", values).read_bytes()  # repeatable


def test_a_file_that_reads_back_differently_does_not_take_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, other = np.zeros((2, 3), np.float16), np.ones((2, 3), np.float16)
    path = write_smiyc(tmp_path, "m", "d", "n", good)
    encode = submission._encode
    monkeypatch.setattr(submission, "_encode", lambda values: encode(other))
    with pytest.raises(OutmaskError, match="n.hdf5 reads back differently"):
        write_smiyc(tmp_path, "m", "d", "n", good)
    np.testing.assert_array_equal(read_hdf5(path), good)
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == [path]


def test_a_truncated_file_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encode = submission._encode
    monkeypatch.setattr(submission, "_encode", lambda values: encode(values)[:-100])
    with pytest.raises(OutmaskError, match="no readable HDF5 file"):
        write_smiyc(tmp_path, "m", "d", "n", np.zeros((2, 3), np.float16))
    assert not [file for file in tmp_path.rglob("*") if file.is_file()]


@pytest.mark.parametrize("values", [np.zeros((2, 3), np.float32), np.zeros(3, np.float16), np.zeros((1, 2, 3), "f2")])
def test_other_values_are_not_written(tmp_path: Path, values: np.ndarray) -> None:
    with pytest.raises(OutmaskError, match="must be \\(H, W\\) float16"):
        write_smiyc(tmp_path, "m", "d", "n", values)


@pytest.mark.parametrize("names", [("", "d", "n"), ("m", "..", "n"), ("m", "d", "a/b"), ("m", "d", "a\\b")])
def test_names_that_are_no_file_names_are_refused(tmp_path: Path, names: tuple[str, str, str]) -> None:
    with pytest.raises(OutmaskError, match="without slashes"):
        write_smiyc(tmp_path, *names, np.zeros((2, 3), np.float16))


# --- a submission


def frames_of(images: list[Arrays], labelled: int) -> list[Frame]:
    return [
        Frame(f"validation_{i}", lambda score=score: score, (lambda label=label: label) if i < labelled else None)
        for i, (score, label) in enumerate(images)
    ]


@pytest.fixture
def images(make_scores: Any) -> list[Arrays]:
    rng = np.random.default_rng(9)
    return [tuple(part.reshape(100, 200) for part in make_scores("saturated", 20_000, 0.05, rng)) for _ in range(5)]


def measured(scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    metrics = PixelMetrics(budget=None)
    metrics.update(scores, labels)
    return metrics.compute()


def test_a_submission_has_every_frame_through_one_map_and_says_what_it_cost(
    images: list[Arrays], tmp_path: Path
) -> None:
    report = submit(frames_of(images, labelled=3), tmp_path, "ours", "AnomalyTrack-all")
    folder = tmp_path / "anomaly_p" / "ours" / "AnomalyTrack-all"
    assert report.files == tuple(folder / f"validation_{i}.hdf5" for i in range(5))
    stored = [h5py.File(path, "r")["value"][:] for path in report.files]
    sample = ScoreSample()
    for score, _ in images:
        sample.add(score)
    mapping = Float16Map.fit(sample)
    for values, (score, _) in zip(stored, images, strict=True):
        np.testing.assert_array_equal(values, mapping(score))

    scores, values = np.stack([score for score, _ in images]), np.stack(stored)
    label = np.stack([label for _, label in images[:3]])
    assert report.labelled == 3
    assert report.before == measured(scores[:3], label)
    assert report.after == measured(values[:3], label)
    assert report.tie_share == tie_share(scores.ravel(), values.ravel())
    assert 0 < report.tie_share < 2 / 15_360  # no step holds more than this share of the pixels

    written = json.loads((tmp_path / "ours_AnomalyTrack-all.json").read_text())
    assert written["frames"] == 5
    assert written["before"]["AP"] == report.before["AP"]
    assert written["map"]["edges"] == report.map.edges.tolist()


def test_without_labels_the_cost_is_the_share_of_pairs_that_became_ties(images: list[Arrays], tmp_path: Path) -> None:
    report = submit(frames_of(images, labelled=0), tmp_path, "ours", "d")
    assert (report.labelled, report.before, report.after) == (0, {}, {})
    assert report.tie_share > 0


def test_a_label_without_anomalies_is_undefined_not_zero(tmp_path: Path) -> None:
    score = np.linspace(0, 1, 6, dtype=np.float32).reshape(2, 3)
    submit([Frame("a", lambda: score, lambda: np.zeros((2, 3), np.uint8))], tmp_path, "m", "d")
    assert json.loads((tmp_path / "m_d.json").read_text())["before"]["AP"] is None


def test_frames_are_read_one_at_a_time_in_two_passes(images: list[Arrays], tmp_path: Path) -> None:
    passes: list[list[str]] = []

    def progress(frames: Iterable[Frame]) -> Iterator[Frame]:
        passes.append([])
        for frame in frames:
            passes[-1].append(frame.name)
            yield frame

    submit(frames_of(images, labelled=0), tmp_path, "m", "d", progress)
    assert passes == [[f"validation_{i}" for i in range(5)]] * 2


@pytest.mark.parametrize(
    ("score", "label", "message"),
    [
        (np.array([[0.0, np.nan]]), None, "frame b: the score has NaN at 1"),
        (np.zeros((1, 2), int), None, "frame b: expected a floating"),
        (np.zeros(2), None, "frame b: a submission's frame must be \\(H, W\\)"),
        (np.zeros((1, 2)), np.zeros((2, 1), np.uint8), "frame b: score and label must have the same shape"),
    ],
)
def test_an_error_names_its_frame(tmp_path: Path, score: np.ndarray, label: np.ndarray | None, message: str) -> None:
    frames = [Frame("a", lambda: np.zeros((1, 2))), Frame("b", lambda: score, None if label is None else lambda: label)]
    with pytest.raises(OutmaskError, match=message):
        submit(frames, tmp_path, "m", "d")


def test_a_submission_without_frames_or_with_repeated_names_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutmaskError, match="at least one frame"):
        submit([], tmp_path, "m", "d")
    with pytest.raises(OutmaskError, match="2 frames of the submission are called 'a'"):
        submit([Frame("a", lambda: np.zeros((1, 2)))] * 2, tmp_path, "m", "d")


def test_without_h5py_one_sentence_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)

    def unread() -> np.ndarray:
        raise AssertionError("nothing is to be read for a submission that cannot be written")

    with pytest.raises(OutmaskError, match="pip install outmask\\[submit\\]"):
        submit([Frame("a", unread)], tmp_path, "m", "d")
