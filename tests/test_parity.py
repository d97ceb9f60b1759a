"""transformers' Mask2Former against every way that its weights are run here: logits, and the scores made of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.checkpoints.conftest import build_peer
from torch import Tensor, nn
from torch.nn import functional as F

from outmask import scores
from outmask.checkpoints.bundle import ModelBundle, plain_taxonomy
from outmask.checkpoints.huggingface import convert
from outmask.export import Format, export, open_exported
from outmask.models import Mask2Former, pixel_decoder
from outmask.models.deformable import DeformableAttention
from outmask.models.inference import prepare_for_inference
from outmask.openset.windows import windowed
from outmask.preprocessing import Preprocessing
from outmask.types import MaskPrediction

SIZE = (75, 101)
NAMES = ("eam", "aem")
# Mask logits reach 8 after some forty layers of float32, summed in another order: 1.3e-5 as loaded.
LOGITS: dict[str, Any] = {"atol": 1e-4, "rtol": 0}
# One resize, sigmoid and sum over five masks of given logits.
SCORES: dict[str, Any] = {"atol": 1e-5, "rtol": 0}


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    """One image, smooth like images are."""
    coarse = torch.randn(1, 3, 9, 12, generator=torch.Generator().manual_seed(3))
    return F.interpolate(coarse, SIZE, mode="bicubic")


@pytest.fixture(scope="module")
def peer(pixels: Tensor) -> nn.Module:
    return build_peer("resnet", pixels, encoder_layers=1, decoder_layers=4, num_queries=5)


@pytest.fixture(scope="module")
def logits(peer: nn.Module, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """The peer's, of classes and of masks."""
    with torch.no_grad():
        output = peer(pixels)
    return output.class_queries_logits, output.masks_queries_logits


@pytest.fixture
def model(peer: nn.Module) -> Mask2Former:
    return convert(peer, "peer").eval()  # type: ignore[arg-type]


def plain_scores(class_logits: Tensor, mask_logits: Tensor) -> dict[str, Tensor]:
    """M2F-EAM eq. 6 and 7, written down in float64."""
    masks = F.interpolate(mask_logits.double(), SIZE, mode="bilinear", align_corners=False).sigmoid()
    classes = class_logits.double().softmax(-1)[..., :-1]
    return {
        "eam": -torch.einsum("bqhw,bq->bhw", masks, classes.amax(-1)).float(),
        "aem": -torch.einsum("bqhw,bqk->bkhw", masks, classes).amax(1).float(),
    }


@pytest.fixture(autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


def test_the_peer_hides_nothing(model: Mask2Former, pixels: Tensor, logits: tuple[Tensor, Tensor]) -> None:
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms) > 10
    assert all(norm.running_mean.std() > 0.1 for norm in norms)  # type: ignore[union-attr]
    assert all(norm.running_var.std() > 0.05 for norm in norms)  # type: ignore[union-attr]
    class_logits, mask_logits = logits
    assert class_logits.std() > 0.3
    inside = (mask_logits > 0).float().mean((0, 2, 3))
    assert 0.3 < inside.min() <= inside.max() < 0.7
    assert mask_logits.std(1).mean() > 0.1  # no two queries' masks alike
    for map_ in plain_scores(*logits).values():
        assert map_.std() > 0.02

    decided: list[Tensor] = []
    for layer in model.mask_decoder.layers:
        layer.register_forward_pre_hook(lambda layer, arguments: decided.append(arguments[4].flatten()))
    model(pixels)
    decisions = torch.cat(decided)
    assert 0.2 < (decisions >= 0).float().mean() < 0.8
    # What a query sees is decided by signs: none is near enough to zero for rounding to turn it.
    assert decisions.abs().min() > 20 * LOGITS["atol"]


def as_loaded(model: Mask2Former, patch: pytest.MonkeyPatch, folder: Path) -> nn.Module:
    return model


def prepared(model: Mask2Former, patch: pytest.MonkeyPatch, folder: Path) -> nn.Module:
    return prepare_for_inference(model)


def in_pieces(model: Mask2Former, patch: pytest.MonkeyPatch, folder: Path) -> nn.Module:
    patch.setattr(pixel_decoder, "_CPU_TOKENS", 7)
    return prepare_for_inference(model)


def by_grid_sample(model: Mask2Former, patch: pytest.MonkeyPatch, folder: Path) -> nn.Module:
    for module in model.modules():
        if isinstance(module, DeformableAttention):
            module.exportable = True
    return model


def compiled(model: Mask2Former, patch: pytest.MonkeyPatch, folder: Path) -> nn.Module:
    torch._dynamo.reset()
    run: nn.Module = torch.compile(prepare_for_inference(model), fullgraph=True, backend="aot_eager")  # type: ignore[assignment]
    return run


def in_onnxruntime(model: Mask2Former, patch: pytest.MonkeyPatch, folder: Path) -> nn.Module:
    return _exported(model, folder / "peer.onnx", "onnx", "onnx", "onnxruntime")


def in_openvino(model: Mask2Former, patch: pytest.MonkeyPatch, folder: Path) -> nn.Module:
    return _exported(model, folder / "peer.xml", "openvino", "onnx", "openvino")


def _exported(model: Mask2Former, path: Path, format_: Format, *libraries: str) -> nn.Module:
    for library in libraries:
        pytest.importorskip(library, reason=f"{library} is not installed: pip install 'outmask[export]'")
    taxonomy = plain_taxonomy([f"class {index}" for index in range(model.config.num_classes)])
    bundle = ModelBundle(model, taxonomy, Preprocessing(short_side=None), "none; for tests", {}, "peer")
    export(bundle, path, format_, NAMES)
    return open_exported(path)


@pytest.mark.parametrize("way", [as_loaded, prepared, in_pieces, by_grid_sample, compiled, in_onnxruntime, in_openvino])
def test_every_way_gives_the_peers_logits_and_scores(
    way: Callable[[Mask2Former, pytest.MonkeyPatch, Path], nn.Module],
    model: Mask2Former,
    pixels: Tensor,
    logits: tuple[Tensor, Tensor],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    run = way(deepcopy(model), monkeypatch, tmp_path)
    found = run(pixels)
    torch.testing.assert_close(found.class_logits, logits[0], **LOGITS)
    torch.testing.assert_close(found.mask_logits, logits[1], **LOGITS)

    own = plain_scores(found.class_logits, found.mask_logits)
    theirs = plain_scores(*logits)
    for name, map_ in scores.evaluate(found, NAMES, SIZE).items():
        if name in NAMES:
            torch.testing.assert_close(map_, own[name], **SCORES)
            torch.testing.assert_close(map_, theirs[name], **LOGITS)
    if way in (in_onnxruntime, in_openvino):  # what the file itself says of them
        for name, map_ in run.outputs(pixels, NAMES).items():  # type: ignore[operator]
            torch.testing.assert_close(map_, own[name], **SCORES)


@pytest.mark.parametrize("window", [SIZE, (200, 101)])
def test_scores_of_the_peers_logits_are_the_equations(logits: tuple[Tensor, Tensor], window: tuple[int, int]) -> None:
    prediction, expected = MaskPrediction(*logits), plain_scores(*logits)
    seen: list[tuple[int, ...]] = []

    def maps(part: np.ndarray) -> dict[str, Tensor]:
        seen.append(part.shape)
        return scores.evaluate(prediction, NAMES, part.shape[:2])

    whole = scores.evaluate(prediction, NAMES, SIZE)
    through = windowed(maps, np.zeros((*SIZE, 3), np.uint8), window)
    assert seen == [(*SIZE, 3)]
    for name in NAMES:
        torch.testing.assert_close(whole[name], expected[name], **SCORES)
        assert torch.equal(through[name], whole[name])
