"""Submission files: what float16 costs, what the kits read, what is refused."""

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import combinations
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import outmask
from outmask.errors import OutmaskError
from outmask.evaluation import submission
from outmask.evaluation.submission import (
    Float16Map,
    Frame,
    ScoreSample,
    read_score,
    submit,
    tie_share,
    write_fishyscapes,
    write_smiyc,
)
from outmask.metrics import PixelMetrics
from outmask.types import MaskPrediction

Arrays = tuple[np.ndarray, np.ndarray]
LEVELS = 15_361  # float16 values from 0 to 1: the bits 0 to 0x3C00


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def make(kind: str, count: int, share: float, rng: np.random.Generator) -> Arrays:
    """Scores and labels, ``share`` of them anomalies, distributed as this project's scores are."""
    label = (rng.random(count) < share).astype(np.uint8)

    def either(anomaly: tuple[float, float], known: tuple[float, float]) -> np.ndarray:
        return np.where(label == 1, rng.normal(*anomaly, count), rng.normal(*known, count))

    def overlap(frequency: float) -> np.ndarray:
        """What a second mask over the pixel adds to a sum of masks."""
        return np.where(rng.random(count) < frequency, sigmoid(rng.normal(-2, 2.5, count)), 0)

    score = {
        "am": lambda: -sigmoid(either((3.5, 2.5), (9, 1.5))),
        "am of a well trained model": lambda: -sigmoid(either((6, 4), (14, 3))),
        "eam": lambda: -sigmoid(either((2, 2), (8, 2))) - overlap(0.55),
        "m2a": lambda: 1 - sigmoid(either((3.5, 2.5), (9, 1.5))) - overlap(0.3),
        "unclaimed": lambda: -np.log1p(np.exp(either((1.5, 2.5), (7, 2)))),
        "energy": lambda: either((-8, 3), (-15, 2.5)),
        "smooth": lambda: either((1.5, 1), (0, 1)),
        "constant": lambda: np.full(count, -1.0),
    }[kind]()
    return score.astype(np.float32), label


KINDS = ["am", "am of a well trained model", "eam", "m2a", "unclaimed", "energy", "smooth", "constant"]


def sampled(*images: np.ndarray, **options: int) -> ScoreSample:
    sample = ScoreSample(**options)
    for image in images:
        sample.add(image)
    return sample


def measured(score: np.ndarray, label: np.ndarray) -> tuple[float, float]:
    metrics = PixelMetrics(budget=None)
    metrics.update(score, label)
    values = metrics.compute()
    return values["AP"], values["FPR95"]


# --- what float16 costs


@pytest.mark.parametrize("share", [0.02, 0.0005])
@pytest.mark.parametrize("kind", KINDS)
def test_the_map_keeps_ap_and_fpr95_to_two_in_ten_thousand(kind: str, share: float) -> None:
    """0.02 percent; a false-positive rate can move by one step, which holds at most 2 / 15,360 = 0.013 percent."""
    score, label = make(kind, 300_000, share, np.random.default_rng(1))
    mapped = Float16Map.fit(sampled(score))(score)
    assert measured(mapped, label) == pytest.approx(measured(score, label), abs=0.02)


def test_plain_float16_and_the_logarithm_cost_more_on_saturated_scores() -> None:
    """The case of docs/submitting.md: 2 M pixels, known -sigmoid(N(9, 1.5)), anomalies -sigmoid(N(3.5, 2.5)), 2 %."""
    score, label = make("am", 2_000_000, 0.02, np.random.default_rng(3))
    before = measured(score, label)
    assert before == pytest.approx((81, 17.9), abs=0.2)

    def cost(values: np.ndarray) -> tuple[float, float]:
        after = measured(values, label)
        return after[0] - before[0], after[1] - before[1]

    plain = score.astype(np.float16)
    logarithm = np.log(1 + 1e-6 + score).astype(np.float16)
    assert cost(plain) == pytest.approx((-0.9, 14.5), abs=0.2)
    assert cost(logarithm) == pytest.approx((-0.02, 0.05), abs=0.01)
    assert cost(Float16Map.fit(sampled(score))(score)) == pytest.approx((0, 0), abs=0.01)


def test_rare_anomalies_keep_their_order_though_the_sample_holds_few_of_them() -> None:
    """2 M pixels, 400 of them anomalies; a uniform sample of 32,768 pixels would see 7."""
    rng = np.random.default_rng(2)
    images = [make("eam", 200_000, 2e-4, rng) for _ in range(10)]
    mapping = Float16Map.fit(sampled(*(score for score, _ in images), size=1 << 15, top=1 << 13))
    score, label = (np.concatenate(parts) for parts in zip(*images, strict=True))
    assert measured(mapping(score), label) == pytest.approx(measured(score, label), abs=0.02)


@pytest.mark.parametrize("kind", KINDS[:-1])
def test_a_step_is_small_in_share_and_in_relative_rank(kind: str) -> None:
    """The rule of the map, literally: unless it is a single score, a step holds at most 2 / 15,360 of the pixels, and
    ``log(1 + t / 1e-5)`` of the share t that scores higher grows by at most 2 / 15,360 of its whole range."""
    score, _ = make(kind, 200_000, 0.02, np.random.default_rng(4))
    mapped = Float16Map.fit(sampled(score))(score)
    distinct = np.unique(np.stack([score, mapped.astype(np.float32)]), axis=1)[1]
    values, scores_of_step = np.unique(distinct, return_counts=True)
    assert len(values) >= min(15_000, len(distinct))  # the steps are used
    pixels = np.unique(mapped, return_counts=True)[1]
    reached = np.cumsum(pixels[::-1])[::-1] / len(score)  # share from this step upwards
    above = reached - pixels / len(score)
    share_grows = reached - above
    logarithm_grows = np.log1p(reached / 1e-5) - np.log1p(above / 1e-5)
    heaviest = np.unique(score, return_counts=True)[1].max() / len(score)  # steps end between scores, not inside one
    several = scores_of_step > 1
    assert (share_grows[several] <= 2 / 15_360 + heaviest).all()
    # The topmost score of a step straddles its boundary; below the first 2,000 pixels one score is little.
    low = several & (above > 2_000 / len(score))
    assert (logarithm_grows[low] <= 2 / 15_360 * np.log1p(1e5) + heaviest / above[low]).all()


def test_a_frequent_score_takes_one_step_and_leaves_the_others_to_the_rest() -> None:
    rng = np.random.default_rng(5)
    score = np.where(rng.random(300_000) < 0.6, -1, -rng.random(300_000)).astype(np.float32)
    assert len(Float16Map.fit(sampled(score)).edges) > 15_000


@pytest.mark.parametrize("count", [1, 2, 3, 256, LEVELS])
def test_up_to_15361_distinct_scores_are_kept_apart(count: int) -> None:
    score = np.random.default_rng(6).permutation(np.linspace(-3, 1, count).astype(np.float32).repeat(3))
    mapped = Float16Map.fit(sampled(score))(score)
    assert len(np.unique(mapped)) == len(np.unique(score)) == count
    assert tie_share(score, mapped) == 0


def test_scores_that_were_float16_before_stay_as_they_are_ordered() -> None:
    """A submission can be made from another project's files without a loss."""
    before = np.arange(LEVELS, dtype=np.uint16).view(np.float16)
    mapping = Float16Map.fit(sampled(before.astype(np.float32)))
    np.testing.assert_array_equal(mapping(before).view(np.uint16), before.view(np.uint16))


FLOATS = st.floats(width=32, allow_nan=False)


@given(st.lists(FLOATS, min_size=1, max_size=50), st.lists(FLOATS, min_size=1, max_size=50))
@settings(max_examples=200, deadline=None)
def test_the_map_takes_any_score_and_never_reverses_an_order(fitted: list[float], scores: list[float]) -> None:
    mapping = Float16Map.fit(sampled(np.array(fitted, np.float32)))
    ordered = mapping(np.sort(np.array(fitted + scores, np.float32)))
    assert ordered.dtype == np.float16
    assert (np.diff(ordered.astype(np.float64)) >= 0).all()
    assert ordered.min() == 0
    assert ordered.max() == (1 if len(mapping.edges) else 0)


@given(st.integers(0, 1 << 30), st.integers(20_000, 60_000), st.sampled_from([0.0, 0.3, 2.0]))
@settings(max_examples=15, deadline=None)
def test_more_scores_than_steps_never_reverse_an_order(seed: int, count: int, rounding: float) -> None:
    rng = np.random.default_rng(seed)
    score = rng.standard_t(2, count).astype(np.float32)
    score[: count // 4] = np.round(score[: count // 4] * rounding)
    mapping = Float16Map.fit(sampled(score))
    ordered = mapping(np.sort(score)).astype(np.float64)
    assert len(mapping.edges) < LEVELS
    assert (np.diff(mapping.edges) > 0).all()
    assert (np.diff(ordered) >= 0).all()
    assert (ordered[0], ordered[-1]) == (0, 1)


def test_scores_beyond_the_fitted_ones_join_the_outermost() -> None:
    mapping = Float16Map.fit(sampled(np.array([-0.5, 0.0, 0.5], np.float32)))
    outside = np.array([-np.inf, -1e30, -0.5, 0.5, 1e30, np.inf], np.float32)
    np.testing.assert_array_equal(mapping(outside), [0, 0, 0, 1, 1, 1])


def test_infinite_scores_are_apart_from_all_finite_ones() -> None:
    score = np.array([-np.inf, -1e30, 0, 1e30, np.inf], np.float32)
    mapping = Float16Map.fit(sampled(score))
    assert len(set(mapping(score).tolist())) == 5
    json.dumps(mapping.to_json(), allow_nan=False)


def test_the_description_reproduces_the_map() -> None:
    score, _ = make("eam", 50_000, 0.02, np.random.default_rng(7))
    mapping = Float16Map.fit(sampled(score))
    described = json.loads(json.dumps(mapping.to_json()))
    edges = np.array(described["edges"])
    below = np.array([(edges <= value).sum() for value in score[:500].astype(np.float64)])
    bits = np.round(15_360 * below / len(edges)).astype(np.uint16)
    np.testing.assert_array_equal(bits.view(np.float16), mapping(score[:500]))


@pytest.mark.parametrize(
    ("score", "message"),
    [(np.array([0.0, np.nan]), "NaN at 1 pixels"), (np.zeros(3, int), "floating-point score, got int64")],
)
def test_what_is_no_score_is_refused(score: np.ndarray, message: str) -> None:
    with pytest.raises(OutmaskError, match=message):
        ScoreSample().add(score)
    with pytest.raises(OutmaskError, match=message):
        Float16Map(np.zeros(1, np.float32))(score)


# --- the sample


def test_a_sample_holds_all_pixels_while_they_fit() -> None:
    images = [np.round(np.random.default_rng(i).normal(size=(20, 30)), 1).astype(np.float32) for i in range(5)]
    values, weights = sampled(*images).distribution()
    expected = np.unique(np.stack(images), return_counts=True)
    np.testing.assert_array_equal(values, expected[0])
    np.testing.assert_array_equal(weights, expected[1])


def test_a_sample_is_bounded_repeatable_and_exact_at_the_top() -> None:
    images = [np.random.default_rng(i).normal(size=5_000).astype(np.float32) for i in range(40)]
    sample = sampled(*images, size=4_000, top=500)
    assert 1_500 < len(sample.values()) <= 4_000  # halved when full, at the latest
    values, weights = sample.distribution()
    highest = np.sort(np.concatenate(images))[-499:]  # of the 500 kept the lowest stands for what is below
    np.testing.assert_array_equal(values[-499:], highest)
    np.testing.assert_array_equal(weights[-499:], 1)
    # Each of 200,000 pixels counts 64 with a chance of 1 / 64: a standard deviation of 3,550.
    assert weights.sum() == pytest.approx(200_000, abs=4 * 3_550)
    again = sampled(*images, size=4_000, top=500)
    np.testing.assert_array_equal(again.values(), sample.values())


SMALL = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 1)), max_size=12)


@given(SMALL)
def test_tie_share_counts_pairs(pixels: list[tuple[int, int]]) -> None:
    """Against all pairs; a map gives equal scores equal values."""
    values = dict(pixels)
    scores = [score for score, _ in pixels]
    pairs = [(a, b) for a, b in combinations(scores, 2) if a != b]
    tied = [(a, b) for a, b in pairs if values[a] == values[b]]
    expected = len(tied) / len(pairs) if pairs else 0
    mapped = np.array([values[score] for score in scores], np.float16)
    assert tie_share(np.array(scores, np.float32), mapped) == pytest.approx(expected, abs=1e-12)


# --- files


def test_a_frame_is_written_as_the_kit_reads_it(tmp_path: Path) -> None:
    """road_anomaly_benchmark: ``outputs/anomaly_p/METHOD/DATASET/FID.hdf5``, dataset ``value``; FIDs may have dots."""
    values = np.arange(LEVELS, dtype=np.uint16).view(np.float16).reshape(1, -1)
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
    np.testing.assert_array_equal(read_score(path), good)
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


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_scores_are_read_from_both_kinds_of_file(tmp_path: Path, dtype: type) -> None:
    score = np.random.default_rng(8).normal(size=(4, 5)).astype(dtype)
    np.save(tmp_path / "a.npy", score)
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        file["value"] = score
    for path in (tmp_path / "a.npy", str(tmp_path / "a.hdf5")):
        read = read_score(path)
        assert read.dtype == np.float32
        np.testing.assert_array_equal(read, score.astype(np.float32))


def broken_files(folder: Path) -> dict[str, Callable[[Path], object]]:
    def hdf5(**content: object) -> Callable[[Path], object]:
        def write(path: Path) -> None:
            with h5py.File(path, "w") as file:
                for name, value in content.items():
                    if value is None:
                        file.create_group(name)
                    else:
                        file[name] = value

        return write

    return {
        "text.npy": lambda path: path.write_text("no array"),
        "empty.npy": lambda path: path.write_bytes(b""),
        "pickle.npy": lambda path: np.save(path, np.array([[None, {}]], object)),
        "cube.npy": lambda path: np.save(path, np.zeros((1, 2, 3))),
        "integers.npy": lambda path: np.save(path, np.zeros((2, 3), np.uint8)),
        "text.hdf5": lambda path: path.write_text("no HDF5"),
        "other.hdf5": hdf5(score=np.zeros((2, 3))),
        "group.hdf5": hdf5(value=None),
        "line.hdf5": hdf5(value=np.zeros(3)),
        "scalar.hdf5": hdf5(value=0.5),
        "heat.png": lambda path: Image.new("L", (2, 2)).save(path),
        "missing.npy": lambda path: None,
    }


@pytest.mark.parametrize("name", list(broken_files(Path())))
def test_what_is_no_score_file_is_refused_by_name(tmp_path: Path, name: str) -> None:
    broken_files(tmp_path)[name](tmp_path / name)
    with pytest.raises(OutmaskError, match=name) as raised:
        read_score(tmp_path / name)
    assert "\n" not in str(raised.value)


# --- a submission


def frames_of(images: list[Arrays], labelled: int) -> list[Frame]:
    return [
        Frame(f"validation_{i}", lambda score=score: score, (lambda label=label: label) if i < labelled else None)
        for i, (score, label) in enumerate(images)
    ]


def images_of(count: int) -> list[Arrays]:
    rng = np.random.default_rng(9)
    return [tuple(part.reshape(100, 200) for part in make("am", 20_000, 0.05, rng)) for _ in range(count)]


def test_a_submission_has_every_frame_through_one_map_and_says_what_it_cost(tmp_path: Path) -> None:
    images = images_of(5)
    report = submit(frames_of(images, labelled=3), tmp_path, "ours", "AnomalyTrack-all")
    folder = tmp_path / "anomaly_p" / "ours" / "AnomalyTrack-all"
    assert report.files == tuple(folder / f"validation_{i}.hdf5" for i in range(5))
    stored = [h5py.File(path, "r")["value"][:] for path in report.files]
    mapping = Float16Map.fit(sampled(*(score for score, _ in images)))
    for values, (score, _) in zip(stored, images, strict=True):
        np.testing.assert_array_equal(values, mapping(score))

    scores, values = np.stack([score for score, _ in images]), np.stack(stored)
    label = np.stack([label for _, label in images[:3]])
    assert report.labelled == 3
    assert (report.before["AP"], report.before["FPR95"]) == measured(scores[:3], label)
    assert (report.after["AP"], report.after["FPR95"]) == measured(values[:3], label)
    assert report.tie_share == tie_share(scores.ravel(), values.ravel())
    assert 0 < report.tie_share < 2 / 15_360  # no step holds more than this share of the pixels

    written = json.loads((tmp_path / "ours_AnomalyTrack-all.json").read_text())
    assert written["frames"] == 5
    assert written["before"]["AP"] == report.before["AP"]
    assert written["map"]["edges"] == report.map.edges.tolist()


def test_without_labels_the_cost_is_the_share_of_pairs_that_became_ties(tmp_path: Path) -> None:
    report = submit(frames_of(images_of(5), labelled=0), tmp_path, "ours", "d")
    assert (report.labelled, report.before, report.after) == (0, {}, {})
    assert report.tie_share > 0


def test_a_label_without_anomalies_is_undefined_not_zero(tmp_path: Path) -> None:
    score = np.linspace(0, 1, 6, dtype=np.float32).reshape(2, 3)
    submit([Frame("a", lambda: score, lambda: np.zeros((2, 3), np.uint8))], tmp_path, "m", "d")
    assert json.loads((tmp_path / "m_d.json").read_text())["before"]["AP"] is None


def test_frames_are_read_one_at_a_time_in_two_passes(tmp_path: Path) -> None:
    passes: list[list[str]] = []

    def progress(frames: Iterable[Frame]) -> Iterator[Frame]:
        passes.append([])
        for frame in frames:
            passes[-1].append(frame.name)
            yield frame

    submit(frames_of(images_of(3), labelled=0), tmp_path, "m", "d", progress)
    assert passes == [[f"validation_{i}" for i in range(3)]] * 2


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
    np.save(tmp_path / "a.npy", np.zeros((1, 2)))
    assert read_score(tmp_path / "a.npy").shape == (1, 2)


# --- Fishyscapes


class Model:
    """Masks made of the image's own values."""

    name = "a test's model"

    def __init__(self, classes: int = 19) -> None:
        self.classes = classes

    def prediction(self, image: np.ndarray) -> MaskPrediction:
        grey = torch.tensor(image[::4, ::4].mean(axis=2) / 32 - 4)
        random = torch.Generator().manual_seed(0)
        class_logits = 3 * torch.randn(1, 6, self.classes + 1, generator=random)
        return MaskPrediction(class_logits, grey * torch.linspace(-1, 1, 6).reshape(1, 6, 1, 1))


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    """As Fishyscapes mounts it, out of order; beside the images what its validation folder also holds."""
    folder = tmp_path / "input"
    folder.mkdir()
    rng = np.random.default_rng(10)
    for name, size in (("0010_b_rgb.png", (20, 12)), ("0002_a_rgb.png", (16, 8)), ("0000_c_rgb.jpg", (5, 7))):
        Image.fromarray(rng.integers(0, 256, (*size[::-1], 3), np.uint8)).save(folder / name)
    Image.new("L", (16, 8)).save(folder / "0002_a_labels.png")
    (folder / "0003_notes.txt").write_text("no image")
    Image.new("L", (16, 8)).save(folder / "readme.png")
    return folder


def test_each_input_becomes_a_score_and_a_segmentation_of_its_size(inputs: Path, tmp_path: Path) -> None:
    output, model = tmp_path / "output", Model()
    files = write_fishyscapes(inputs, output, model, "eam")
    assert sorted(output.iterdir()) == sorted(files)
    assert [path.name for path in files] == [
        f"{number}_{what}.npy" for number in ("0000", "0002", "0010") for what in ("anomaly", "segmentation")
    ]
    image = np.array(Image.open(inputs / "0002_a_rgb.png"))
    maps = outmask.scores.evaluate(model.prediction(image), ["eam"], (8, 16))
    score, segmentation = np.load(output / "0002_anomaly.npy"), np.load(output / "0002_segmentation.npy")
    assert (score.dtype, segmentation.dtype) == (np.float32, np.int32)
    np.testing.assert_array_equal(score, maps["eam"][0])
    np.testing.assert_array_equal(segmentation, maps["labels"][0])
    assert np.load(output / "0000_anomaly.npy").shape == np.load(output / "0000_segmentation.npy").shape == (7, 5)


def test_a_model_of_other_classes_is_used_with_one_warning(
    inputs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_fishyscapes(inputs, tmp_path / "output", Model(classes=11))
    assert [record.getMessage().split(":")[0] for record in caplog.records] == [
        "the model has 11 classes, Cityscapes has 19"
    ]
    caplog.clear()
    write_fishyscapes(inputs, tmp_path / "output", Model(classes=19))
    assert not caplog.records


def test_what_a_container_cannot_do_is_said_in_one_line(inputs: Path, tmp_path: Path) -> None:
    output = tmp_path / "output"
    with pytest.raises(OutmaskError, match="unknown score 'eem'"):
        write_fishyscapes(inputs, output, Model(), "eem")
    with pytest.raises(OutmaskError, match="nowhere: no such folder"):
        write_fishyscapes(tmp_path / "nowhere", output, Model())
    (tmp_path / "empty").mkdir()
    with pytest.raises(OutmaskError, match="empty holds no input; expected images called NUMBER_"):
        write_fishyscapes(tmp_path / "empty", output, Model())
    assert not output.exists()
    (inputs / "0002_d_rgb.png").write_bytes((inputs / "0002_a_rgb.png").read_bytes())
    with pytest.raises(OutmaskError, match="share a number"):
        write_fishyscapes(inputs, output, Model())
