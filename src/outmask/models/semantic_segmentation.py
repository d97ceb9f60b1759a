"""Any semantic segmentation model of transformers (SegFormer, UperNet, BEiT, MobileNetV2 ...) as one of ours."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForSemanticSegmentation, PretrainedConfig

from outmask.errors import OutmaskError
from outmask.types import PixelPrediction

# A multiple of every stride and patch of these models, and of the largest patch that SegFormer's attention reduces.
_MULTIPLE = 32
# Their decoders fold the patches back into a square.
_ONE_SIZE = ("data2vec-vision", "dpt")
# Entries of a transformers configuration that are not the architecture, or that this module sets.
_NOT_ARCHITECTURE = ("architectures", "dtype", "id2label", "label2id", "transformers_version", "_name_or_path")


@dataclass(frozen=True)
class SemanticSegmentationConfig:
    """The architecture.

    Attributes:
        num_classes: K known classes.
        network: a transformers configuration with its ``model_type``, such as ``{"model_type": "segformer"}``.
        outlier_head: also give outlier logits, for the outlier-aware losses: one more label of the network's.

    Raises:
        OutmaskError: without any class or ``model_type``, or where the network takes one image size only.
    """

    num_classes: int
    network: Mapping[str, Any]
    outlier_head: bool = False

    def __post_init__(self) -> None:
        if self.num_classes < 1:
            raise OutmaskError(f"num_classes must be at least 1, got {self.num_classes}")
        if "model_type" not in self.network:
            raise OutmaskError("network needs transformers' 'model_type', such as segformer or upernet")
        if self.network["model_type"] in _ONE_SIZE:
            raise OutmaskError(
                f"transformers' {self.network['model_type']} takes square images of one size only: "
                "choose segformer or upernet"
            )

    def to_json(self) -> dict[str, Any]:
        """The architecture as the ``architecture`` entry of a model's ``config.json``."""
        return asdict(self)


class SemanticSegmentationModel(nn.Module):
    """The model: ``(B, 3, H, W)`` normalised pixels -> :class:`PixelPrediction` at the network's own stride.

    Images are padded at the right and bottom to multiples of 32, and the logits cut back: sides that are such multiples
    give exactly what transformers gives, any others a prediction too. BatchNorm stays frozen, statistics and affine.
    Auxiliary heads are left out. Float32 and bfloat16, CPU and CUDA.

    Raises:
        OutmaskError: where transformers has no semantic segmentation model of this type, or the settings are not its.
    """

    def __init__(self, config: SemanticSegmentationConfig) -> None:
        super().__init__()
        self.config = config
        settings = dict(config.network)
        model_type = settings.pop("model_type")
        try:
            network_config = AutoConfig.for_model(
                model_type, **settings, num_labels=config.num_classes + config.outlier_head
            )
            if hasattr(network_config, "use_auxiliary_head"):
                network_config.use_auxiliary_head = False
            self.network = AutoModelForSemanticSegmentation.from_config(network_config)
        except (TypeError, ValueError) as error:
            raise OutmaskError(f"no semantic segmentation model {model_type!r}: {str(error).splitlines()[0]}") from None
        for module in self._batch_norms():
            module.requires_grad_(False)

    @classmethod
    def from_pretrained(cls, source: str, num_classes: int | None = None, outlier_head: bool = False) -> Self:
        """A model with the weights of a transformers folder or hub id, in eval mode.

        Args:
            source: where ``save_pretrained`` wrote, or a hub id.
            num_classes: K, to train on other classes: what the source lacks or has of another shape, such as the
                classifier, starts from nothing. By default the source's own classes, all weights trained.
            outlier_head: add an outlier logit, untrained, to the classes.

        Raises:
            OutmaskError: where there is no such model, or it lacks weights and ``num_classes`` is not given.
        """
        try:
            donor, report = AutoModelForSemanticSegmentation.from_pretrained(source, output_loading_info=True)
        except (OSError, RuntimeError, ValueError) as error:
            raise OutmaskError(f"no semantic segmentation model at {source!r}: {str(error).splitlines()[0]}") from None
        if num_classes is None and report["missing_keys"]:
            raise OutmaskError(
                f"{source!r} lacks weights such as {sorted(report['missing_keys'])[0]}: "
                "give num_classes to train them, or choose a model that is trained to segment"
            )
        count = donor.config.num_labels
        model = cls(SemanticSegmentationConfig(num_classes or count, _architecture(donor.config), outlier_head))
        given = donor.state_dict()
        with torch.no_grad():
            for name, own in model.network.state_dict().items():
                if own.shape == given[name].shape:
                    own.copy_(given[name])
                elif num_classes is None:  # the outlier logit is the last label: the classes are the first rows
                    own[:count].copy_(given[name])
        return model.eval()

    @property
    def backbone_prefix(self) -> str:
        """What the names of the pre-trained part's parameters begin with; the rest is the head."""
        name = "backbone" if hasattr(self.network, "backbone") else self.network.base_model_prefix
        return f"network.{name}."

    def _batch_norms(self) -> list[nn.Module]:
        return [module for module in self.network.modules() if isinstance(module, nn.BatchNorm2d)]

    def train(self, mode: bool = True) -> Self:
        """As ``nn.Module.train``, leaving BatchNorm in eval mode."""
        super().train(mode)
        for module in self._batch_norms():
            module.eval()
        return self

    def forward(self, pixels: Tensor) -> PixelPrediction:
        """``(B, 3, H, W)`` -> logits ``(B, K, ceil(H / s), ceil(W / s))``, s the network's stride."""
        height, width = pixels.shape[-2:]
        padded = F.pad(pixels, (0, -width % _MULTIPLE, 0, -height % _MULTIPLE))
        logits = self.network(pixel_values=padded).logits
        stride = padded.shape[-1] // logits.shape[-1]
        logits = logits[..., : (height + stride - 1) // stride, : (width + stride - 1) // stride]
        classes = self.config.num_classes
        return PixelPrediction(logits[:, :classes], logits[:, classes] if self.config.outlier_head else None)


def _architecture(config: PretrainedConfig) -> dict[str, Any]:
    """What of a transformers configuration makes the network, as JSON has it (integer keys are strings there)."""
    settings: dict[str, Any] = json.loads(json.dumps(config.to_diff_dict()))
    return {name: value for name, value in settings.items() if name not in _NOT_ARCHITECTURE}
