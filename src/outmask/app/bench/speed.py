"""The whole model against transformers', and against its own exports, at equal logits."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, ResNetConfig, SwinConfig
from transformers.models.mask2former.image_processing_pil_mask2former import Mask2FormerImageProcessorPil

from outmask import scores
from outmask.app.bench.comparison import Comparison, Report, Values, compare, comparison_report, seconds
from outmask.app.terminal import tell
from outmask.checkpoints import ModelBundle
from outmask.checkpoints.huggingface import convert
from outmask.data.taxonomies import CITYSCAPES
from outmask.export import FORMATS, RUNTIMES, ExportedModel, export, open_exported
from outmask.models import Mask2Former, build_architecture
from outmask.models.backbones import PRESETS, STAGES
from outmask.models.counting import count_multiply_adds
from outmask.models.inference import prepare_for_inference
from outmask.preprocessing import Preprocessing

_SIZE = (512, 1024)
_CLASSES = 19
_REPEATS = {"resnet50": 7, "swin-large": 3}
_PEER = "transformers Mask2Former, same weights"


@torch.inference_mode()
def speed() -> Report:
    """Forward pass, and with full-resolution scores, of Mask2Former with random weights; its exports; the roofline.

    Raises:
        OutmaskError: where onnxruntime or OpenVINO is not installed.
    """
    comparisons: list[Comparison] = []
    notes = []
    rooflines = {}
    for backbone, repeats in _REPEATS.items():
        theirs = peer_model(backbone)
        ours = prepare_for_inference(convert(theirs, "transformers"))
        pixels = torch.randn(1, 3, *_SIZE)
        comparisons += _against_transformers(backbone, ours, theirs, pixels, repeats)
        if backbone == "resnet50":
            comparisons += _against_exports(backbone, ours, pixels, repeats)
        rooflines[backbone] = roofline(ours, backbone, pixels, repeats)
        notes.append(rooflines[backbone]["line"])
    return comparison_report(comparisons, "of any logit or score", notes, roofline=rooflines)


def peer_model(backbone: str) -> Mask2FormerForUniversalSegmentation:
    """transformers' model of a backbone of ours, in eval mode, with random weights, the same in every run.

    As a trained one, and unlike a fresh one, it has BatchNorm that does something, and masks with an inside.
    """
    torch.manual_seed(0)
    preset = {key: value for key, value in PRESETS[backbone].items() if key != "model_type"}
    config = {"resnet50": ResNetConfig, "swin-large": SwinConfig}[backbone](out_features=STAGES, **preset)
    model = Mask2FormerForUniversalSegmentation(Mask2FormerConfig(backbone_config=config, num_labels=_CLASSES)).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    embedder = model.model.transformer_module.decoder.mask_predictor.mask_embedder
    last = [module for module in embedder.modules() if isinstance(module, nn.Linear)][-1]
    nn.init.normal_(last.weight, std=0.05)
    nn.init.normal_(last.bias, std=0.5)
    return model


def _against_transformers(
    backbone: str, ours: Mask2Former, theirs: Mask2FormerForUniversalSegmentation, pixels: Tensor, repeats: int
) -> list[Comparison]:
    processor = Mask2FormerImageProcessorPil()

    def forward() -> Values:
        prediction = ours(pixels)
        return {"class": prediction.class_logits, "mask": prediction.mask_logits}

    def peer_forward() -> Values:
        output = theirs(pixel_values=pixels)
        return {"class": output.class_queries_logits, "mask": output.masks_queries_logits}

    def scored() -> Values:
        return {"score": scores.evaluate(ours(pixels), ["aem"], _SIZE)["aem"]}

    def peer_scored() -> Values:
        (processed,) = processor.post_process_semantic_segmentation(
            theirs(pixel_values=pixels), target_sizes=[_SIZE], return_segmentation_scores=True
        )
        return {"its own score": -processed.segmentation_scores.amax(0)[None]}

    what = f"Mask2Former, {backbone}, {_SIZE[0]}x{_SIZE[1]}"
    return [
        compare(f"forward of {what}", _PEER, forward, peer_forward, repeats),
        compare(
            f"{what}: forward, AEM and labels at full resolution",
            f"{_PEER}, and its post-processing, which resizes to 384x384 first: other scores",
            scored,
            peer_scored,
            repeats,
        ),
    ]


def _against_exports(backbone: str, model: Mask2Former, pixels: Tensor, repeats: int) -> list[Comparison]:
    bundle = ModelBundle(model, CITYSCAPES, Preprocessing(), "none: random weights", {}, backbone)

    def forward() -> Values:
        prediction = model(pixels)
        return {"class_logits": prediction.class_logits, "mask_logits": prediction.mask_logits}

    comparisons = []
    with tempfile.TemporaryDirectory() as folder:
        for runtime, format_ in RUNTIMES.items():
            file = Path(folder) / f"model{FORMATS[format_]}"
            tell(f"bench: exporting for {runtime}")
            export(bundle, file, format_)
            exported = open_exported(file)

            def run(exported: ExportedModel = exported) -> Values:
                return exported.outputs(pixels, ["class_logits", "mask_logits"])

            what = f"forward of Mask2Former, {backbone}, {_SIZE[0]}x{_SIZE[1]}"
            comparisons.append(compare(what, f"{runtime}, our export of it", forward, run, repeats))
    return comparisons


def roofline(model: Mask2Former, backbone: str, pixels: Tensor, repeats: int) -> dict[str, Any]:
    """The model's counted FLOPs a second over the best rate at which this machine multiplies matrices.

    That rate is the better one of torch's ``mm`` and of a 1x1 convolution, of matrices with a side of 2048; taken in
    turns with the model.
    """
    side = 2048
    left, right = torch.randn(side, side), torch.randn(side, side)
    channels_last = left.view(1, 32, 64, side).permute(0, 3, 1, 2)
    products: list[Callable[[], object]] = [
        lambda: left @ right,
        lambda: F.conv2d(channels_last, right[:, :, None, None]),
    ]
    flops = 2 * count_multiply_adds(
        lambda: build_architecture({"num_classes": _CLASSES, "backbone": backbone}), (pixels.shape[2], pixels.shape[3])
    )
    products_taken, taken = [], []
    for _ in range(repeats):
        taken.append(seconds(lambda: model(pixels)))
        products_taken += [seconds(product) for product in products for _ in range(3)]
    peak, reached = 2 * side**3 / min(products_taken), flops / sorted(taken)[len(taken) // 2]
    return {
        "gflop": flops / 1e9,
        "matrix_product_gflops": peak / 1e9,
        "share": reached / peak,
        "line": f"roofline  {backbone}: {flops / 1e9:.0f} GFLOP counted, this machine multiplies matrices at "
        f"{peak / 1e9:.0f} GFLOP/s at best; the median forward pass reaches {reached / peak:.0%} of that",
    }
