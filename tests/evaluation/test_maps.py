"""Where score maps come from: a model, files, and the folder that keeps them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from outmask import scores
from outmask.errors import OutmaskError
from outmask.evaluation import CachedMaps, ModelMaps, PredictionFiles, Record
from outmask.evaluation.maps import ImageMaps, Size
from outmask.types import MaskPrediction, Taxonomy

IMAGE = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)


ONE = (Record("x/y/z", IMAGE), Record("b/a", IMAGE))


class Segmenter:
    """One mask whose logit is the image's red channel, scaled."""

    name = "red"
    taxonomy = Taxonomy(("road", "sky"), ((0, 0, 0), (1, 1, 1)))

    def maps(self, image: NDArray[np.uint8], names: Sequence[str], size: Size, *options: Any) -> dict[str, Tensor]:
        self.options = options
        logits = (torch.from_numpy(image[..., 0]).float() - 128) / 32
        return scores.evaluate(MaskPrediction(torch.tensor([[[4.0, 0.0, 0.0]]]), logits[None, None]), names, size)


class Counting:
    """A source that counts what it is asked for."""

    name = "counting"

    def __init__(self) -> None:
        self.asked: list[str] = []

    def maps(self, record: Record, names: Sequence[str], size: Size | None) -> ImageMaps:
        self.asked.append(record.name)
        score = np.full((2, 3), len(self.asked) / 7, np.float32)
        return ImageMaps(dict.fromkeys(names, score), np.array([[0, 1, 2]] * 2, np.uint8), resized_from=(1, 2))


def test_a_models_maps_have_the_size_that_is_asked_for() -> None:
    source = ModelMaps(Segmenter())
    own = source.maps(Record("a", IMAGE), ["am", "eam"], None)
    assert own.scores["am"].shape == own.scores["eam"].shape == (6, 8)
    np.testing.assert_allclose(
        own.scores["am"], -1 / (1 + np.exp(-(IMAGE[..., 0].astype(float) - 128) / 32)), rtol=1e-5
    )
    assert own.labels is not None
    assert own.labels.dtype == np.uint8
    double = source.maps(Record("a", IMAGE), ["am"], (12, 16))
    logits = (torch.from_numpy(IMAGE[None, None, ..., 0]).float() - 128) / 32
    logits = F.interpolate(logits, (12, 16), mode="bilinear")[0, 0]  # before the sigmoid
    np.testing.assert_allclose(double.scores["am"], -logits.sigmoid().numpy(), rtol=1e-5)
    assert double.resized_from is None  # the mask logits were resized, not the score
    with pytest.raises(OutmaskError, match=r"^a: the label of 6x12 pixels does not fit the image of 8x6 pixels$"):
        source.maps(Record("a", IMAGE), ["am"], (12, 6))


def test_what_is_done_to_a_models_scores_is_passed_on() -> None:
    segmenter = Segmenter()
    ModelMaps(segmenter).maps(Record("a", IMAGE), ["am"], None)
    assert segmenter.options == (None, False, "stuff")
    ModelMaps(segmenter, segmenter.taxonomy, True, "things").maps(Record("a", IMAGE), ["am"], None)
    assert segmenter.options == (segmenter.taxonomy, True, "things")


@pytest.mark.parametrize("name", ["x/y/z_score.npy", "y/z.npy", "z_score.npy", "x/y/z.hdf5"])
def test_prediction_files_are_found_below_any_part_of_the_name(tmp_path: Path, name: str) -> None:
    score = np.random.default_rng(1).normal(size=(4, 5)).astype(np.float32)
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, score)
    else:
        import h5py

        with h5py.File(path, "w") as file:
            file["value"] = score
    maps = PredictionFiles(tmp_path, ONE).maps(Record("x/y/z", IMAGE), ["mine"], (4, 5))
    np.testing.assert_array_equal(maps.scores["mine"], score)
    assert (maps.labels, maps.resized_from) == (None, None)


def test_prediction_files_of_another_resolution_are_resized(tmp_path: Path) -> None:
    np.save(tmp_path / "a_score.npy", np.array([[0.0, 4.0], [4.0, 8.0]], np.float32))
    maps = PredictionFiles(tmp_path, ONE).maps(Record("a", IMAGE), ["s"], (4, 4))
    assert maps.resized_from == (2, 2)
    np.testing.assert_allclose(maps.scores["s"][0], [0, 1, 3, 4])  # bilinear between pixel centres
    with pytest.raises(OutmaskError, match="does not fit the score of 2x2"):
        PredictionFiles(tmp_path, ONE).maps(Record("a", IMAGE), ["s"], (4, 20))


def test_labels_are_taken_where_they_are(tmp_path: Path) -> None:
    ids = np.array([[0, 1], [2, 3]], np.uint8)
    Image.fromarray(ids).save(tmp_path / "a_labels.png")
    source = PredictionFiles(tmp_path, ONE)
    np.testing.assert_array_equal(source.maps(Record("b/a", IMAGE), [], (2, 2)).labels, ids)
    with pytest.raises(OutmaskError, match="labels of 2x2 pixels, expected 4x4"):
        source.maps(Record("a", IMAGE), [], (4, 4))


def test_a_missing_prediction_is_named(tmp_path: Path) -> None:
    with pytest.raises(OutmaskError, match=r"no prediction of t5/a: expected t5/a_score.npy, t5/a.npy or t5/a.hdf5"):
        PredictionFiles(tmp_path, ONE).maps(Record("t5/a", IMAGE), ["s"], None)
    with pytest.raises(OutmaskError, match="no such folder"):
        PredictionFiles(tmp_path / "none", ONE)


def test_the_end_of_a_name_that_several_records_share_is_no_name(tmp_path: Path) -> None:
    np.save(tmp_path / "0_score.npy", np.zeros((4, 5), np.float32))
    records = (Record("t5/0", IMAGE), Record("t6/0", IMAGE))
    with pytest.raises(OutmaskError, match="no prediction of t6/0"):
        PredictionFiles(tmp_path, records).maps(records[1], ["s"], None)
    assert PredictionFiles(tmp_path, records[1:]).maps(records[1], ["s"], None).scores["s"].shape == (4, 5)


def test_resizing_keeps_infinities_apart(tmp_path: Path) -> None:
    np.save(tmp_path / "a_score.npy", np.array([[-np.inf, -np.inf], [0, np.inf]], np.float32))
    score = PredictionFiles(tmp_path, ONE).maps(Record("b/a", IMAGE), ["s"], (4, 4)).scores["s"]
    assert np.isfinite(score).all()
    assert score[0, 0] < score[2, 0] < score[3, 3]


@pytest.mark.parametrize("damage", [lambda data: data[:40], lambda data: b"", lambda data: b"x" * 100])
def test_damaged_maps_are_made_again(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    made, record = Counting(), Record("a", IMAGE)
    source = CachedMaps(made, tmp_path, {}, resume=False)
    source.maps(record, ["s"], (2, 3))
    path = tmp_path / "maps/a.npz"
    path.write_bytes(damage(path.read_bytes()))
    assert source.maps(record, ["s"], (2, 3)).scores["s"].shape == (2, 3)
    assert made.asked == ["a", "a"]
    source.maps(record, ["s"], (2, 3))
    assert made.asked == ["a", "a"]
    source.maps(record, ["s"], (4, 6))  # the label has another size now
    assert made.asked == ["a"] * 3


def test_kept_maps_are_made_once_and_come_back_equal(tmp_path: Path) -> None:
    made = Counting()
    source = CachedMaps(made, tmp_path, {"model": "m"}, resume=False)
    record = Record("t5/a", IMAGE)
    first = source.maps(record, ["s"], (2, 3))
    for again in (source.maps(record, ["s"], (2, 3)),
                  CachedMaps(made, tmp_path, {"model": "m"}, resume=True).maps(record, ["s"], (2, 3))):  # fmt: skip
        np.testing.assert_array_equal(again.scores["s"], first.scores["s"])
        np.testing.assert_array_equal(again.labels, first.labels)
        assert again.resized_from == first.resized_from == (1, 2)
    assert made.asked == ["t5/a"]
    assert source.name == "counting"


def test_a_folder_of_another_evaluation_is_refused(tmp_path: Path) -> None:
    CachedMaps(Counting(), tmp_path, {"model": "m", "scores": ["a"]}, resume=False)
    with pytest.raises(OutmaskError, match="already holds an evaluation: go on with --resume"):
        CachedMaps(Counting(), tmp_path, {"model": "m", "scores": ["a"]}, resume=False)
    with pytest.raises(OutmaskError, match="with another scores:"):
        CachedMaps(Counting(), tmp_path, {"model": "m", "scores": ["b"]}, resume=True)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(OutmaskError, match="is damaged"):
        CachedMaps(Counting(), tmp_path, {"model": "m"}, resume=True)


def test_resuming_nothing_starts_anew(tmp_path: Path) -> None:
    made = Counting()
    CachedMaps(made, tmp_path / "new", {}, resume=True).maps(Record("a", IMAGE), ["s"], None)
    assert made.asked == ["a"]
