"""The segmenter: any image in, one result at its own size out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import outmask
from outmask.app.scene import draw_scene
from outmask.checkpoints import ModelBundle, save_folder
from outmask.errors import OutmaskError
from outmask.models import Mask2Former, Mask2FormerConfig
from outmask.openset.panoptic import open_set_panoptic
from outmask.openset.unknown_objects import Components, Finder
from outmask.preprocessing import Preprocessing
from outmask.segmenter import Segmenter
from outmask.types import Taxonomy, Unknown


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    torch.manual_seed(0)
    config = Mask2FormerConfig(
        2, "mobilenet_v2", dim=64, num_heads=2, encoder_layers=1, encoder_levels=1, num_queries=4, decoder_layers=1
    )
    taxonomy = Taxonomy(("road", "car"), ((0, 0, 0), (0, 0, 255)))
    return Segmenter(Mask2Former(config).eval(), taxonomy, Preprocessing(short_side=32), "tiny")


def image(height: int = 40, width: int = 56) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_the_result_has_the_images_size(segmenter: Segmenter) -> None:
    result = segmenter.predict(image())
    assert result.score.shape == result.labels.shape == (40, 56)
    assert result.score.dtype == np.float32
    assert result.labels.dtype == np.int32
    assert result.score_name == "eam"
    assert result.open_labels is None
    assert result.panoptic is None


def test_path_pil_and_array_give_the_same(segmenter: Segmenter, tmp_path: Path) -> None:
    array = image()
    Image.fromarray(array).save(tmp_path / "a.png")
    results = segmenter.predict([str(tmp_path / "a.png"), tmp_path / "a.png", Image.fromarray(array), array])
    assert isinstance(results, list)
    assert len(results) == 4
    assert results[1].source == tmp_path / "a.png"
    for result in results[1:]:
        np.testing.assert_array_equal(result.score, results[0].score)


def test_the_score_is_the_engines(segmenter: Segmenter) -> None:
    array = image()
    prediction = segmenter.model(segmenter.preprocess(array))
    expected = outmask.score(prediction, "rba", size=(40, 56))[0].detach().numpy()
    np.testing.assert_allclose(segmenter.predict(array, score="rba").score, expected, atol=1e-6)


def test_a_threshold_opens_the_labels(segmenter: Segmenter) -> None:
    closed = segmenter.predict(image())
    threshold = float(np.median(closed.score))
    result = segmenter.predict(image(), task="semantic", threshold=threshold)
    assert result.open_labels is not None
    np.testing.assert_array_equal(result.open_labels == 2, closed.score > threshold)
    np.testing.assert_array_equal(
        result.open_labels[closed.score <= threshold], closed.labels[closed.score <= threshold]
    )


def test_an_operating_point_is_the_default_threshold(segmenter: Segmenter) -> None:
    calibrated = Segmenter(
        segmenter.model,
        segmenter.taxonomy,
        segmenter.preprocessing,
        "calibrated",
        {"eam": {"threshold": -0.25, "origin": "a test"}},
    )
    assert calibrated.predict(image()).threshold == -0.25
    assert calibrated.predict(image(), threshold=-0.5).threshold == -0.5
    assert calibrated.predict(image(), score="am").threshold is None


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (33, 31)])
def test_any_size_is_done(segmenter: Segmenter, size: tuple[int, int]) -> None:
    assert segmenter.predict(image(*size)).score.shape == size


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"score": "ema"}, "eam"),
        ({"task": "panoptics"}, "anomaly, semantic, panoptic"),
        ({"task": "semantic"}, "threshold"),
        ({"task": "panoptic"}, "task 'panoptic' needs a threshold"),
        ({"task": "panoptic", "unknown": "mining"}, "needs to know things from stuff"),
        ({"unknown": "minning"}, "preferred_mask, mining, components"),
    ],
)
def test_bad_requests_are_refused(segmenter: Segmenter, arguments: dict[str, str], message: str) -> None:
    with pytest.raises(OutmaskError, match=message):
        segmenter.predict(image(), **arguments)  # type: ignore[call-overload]


def test_public_names_are_there() -> None:
    for name in outmask.__all__:
        assert getattr(outmask, name) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = outmask.no_such_name


def test_a_mirrored_image_has_the_mirrored_average(segmenter: Segmenter) -> None:
    array = image(32, 64)  # no resizing, no padding
    straight = segmenter.predict(array, flip=True).score
    mirrored = segmenter.predict(np.ascontiguousarray(array[:, ::-1]), flip=True).score
    np.testing.assert_allclose(straight, mirrored[:, ::-1], atol=1e-5)
    assert np.abs(straight - segmenter.predict(array).score).max() > 1e-3


def test_several_models_are_an_ensemble(segmenter: Segmenter, tmp_path: Path) -> None:
    folders = []
    for seed in range(2):
        torch.manual_seed(seed)
        bundle = ModelBundle(
            Mask2Former(segmenter.model.config),  # type: ignore[arg-type]
            segmenter.taxonomy,
            segmenter.preprocessing,
            "none",
            {},
            "",
            {"eam": {"threshold": -0.5}},
        )
        folders.append(str(tmp_path / f"m{seed}"))
        save_folder(bundle, folders[-1])
    ensemble = outmask.load(folders, device="cpu")
    assert isinstance(ensemble, outmask.Ensemble)
    assert ensemble.name == "m0 + m1"
    single = [outmask.load(folder, device="cpu").predict(image()) for folder in folders]
    assert [result.threshold for result in single] == [-0.5, -0.5]
    result = ensemble.predict([image()])[0]
    np.testing.assert_allclose(result.score, (single[0].score + single[1].score) / 2, atol=1e-6)
    assert result.threshold is None  # the members' is for another score
    with pytest.raises(OutmaskError, match="at least two"):
        outmask.load(folders[:1])


def test_refinement_needs_a_taxonomy_with_things(segmenter: Segmenter) -> None:
    with pytest.raises(OutmaskError, match="needs to know things from stuff"):
        segmenter.predict(image(), refine=True)


@pytest.mark.parametrize("unknown", ["preferred_mask", "mining", "components", Components(minimum_area=5)])
def test_the_panoptic_task_gives_segments(segmenter: Segmenter, unknown: Unknown | Finder) -> None:
    taxonomy = Taxonomy(("road", "car"), ((0, 0, 0), (0, 0, 255)), (False, True))
    panoptic = Segmenter(segmenter.model, taxonomy, segmenter.preprocessing, "tiny")
    result = panoptic.predict(image(), task="panoptic", threshold=-1.0, unknown=unknown)
    assert result.panoptic is not None
    assert result.segments is not None
    np.testing.assert_array_equal(result.score, segmenter.predict(image()).score)
    expected = open_set_panoptic(panoptic.prediction(image()), taxonomy, result.score, -1.0, unknown)  # type: ignore[arg-type]
    np.testing.assert_array_equal(result.panoptic, expected.ids)
    assert result.segments == expected.segments
    assert unknown == "mining" or any(segment.is_unknown for segment in result.segments)


def test_half_precision_lowers_the_model_and_not_the_scores() -> None:
    full, half = (outmask.load("street", device="cpu", dtype=dtype) for dtype in (torch.float32, torch.bfloat16))
    street = draw_scene((96, 192)).image
    assert (full.dtype, half.dtype) == (torch.float32, torch.bfloat16)
    assert half.preprocess(street).dtype == torch.bfloat16
    expected, result = full.predict(street), half.predict(street)
    assert result.score.dtype == np.float32
    assert (result.labels == expected.labels).mean() > 0.9
    # Computed in bfloat16, scores close to -1 would have 8 bits of resolution: a handful of values.
    assert len(np.unique(result.score)) > 1000


def test_an_exported_file_has_its_own_precision(tmp_path: Path) -> None:
    with pytest.raises(OutmaskError, match="leave the dtype out"):
        outmask.load(tmp_path / "street.onnx", dtype=torch.float16)
