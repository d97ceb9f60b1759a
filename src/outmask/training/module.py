"""The training step and the validation, as Lightning's loop calls them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, Self, TypeVar

import lightning as L
import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.distributed.fsdp import FullyShardedDataParallel

from outmask import scores
from outmask.data.labels import Sample
from outmask.data.transforms import Batch, ColorJitter
from outmask.errors import OutmaskError
from outmask.losses import OutlierLoss, SetCriterion
from outmask.losses.matcher import NotFinite
from outmask.losses.per_pixel import PixelCriterion
from outmask.metrics import PanopticQuality, PixelMetrics
from outmask.models import Mask2Former
from outmask.models.architectures import Model
from outmask.openset.panoptic import known_segments
from outmask.preprocessing import Preprocessing
from outmask.segmenter import Segmenter
from outmask.training.build import backbone_of, build_criterion, build_model, build_outlier_loss, build_taxonomy
from outmask.training.checkpoint import is_finite, save_checkpoint
from outmask.training.recipe import Recipe
from outmask.types import MaskPrediction, Taxonomy

T = TypeVar("T")

MASK_SCORES = ("eam", "aem", "am", "unclaimed")
PIXEL_SCORES = ("msp", "maxlogit", "entropy", "energy")
"""What a validation measures, beside the score that the model's loss is for."""

BEFORE_FAILURE = "before_failure"
"""Files of a run that stopped because something was not finite: its state before (.ckpt), what it saw (.json)."""

# What a random choice is for, beside the seed; outmask.data.transforms has the others.
_COLOURS, _POINTS, _NETWORK = 4, 5, 6


class SegmentationTraining(L.LightningModule):
    """One model in training.

    Colours and points follow from the seed and the number of the draw, whatever batch and process it is in; what the
    network itself draws (stochastic depth) from the seed and the first draw of its batch. So a run that was killed and
    resumed is the same run, and one on several processes has, but for that, the losses and gradients of one with the
    joint batch.
    """

    def __init__(self, recipe: Recipe, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.recipe = recipe
        self.preprocessing = preprocessing
        self.taxonomy: Taxonomy = build_taxonomy(recipe)
        torch.manual_seed(recipe.seed)
        self.model: Model = build_model(recipe)
        # Convolutions are fastest in this layout, with weights, and so gradients, in the same.
        self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.undecayed = undecayed_parameters(self.model)
        self.criterion: SetCriterion | PixelCriterion = build_criterion(recipe, isinstance(self.model, Mask2Former))
        self.outlier_loss: OutlierLoss | None = build_outlier_loss(recipe)
        self.color = ColorJitter()
        self._pixel_metrics: dict[str, PixelMetrics] = {}
        self._panoptic: PanopticQuality | None = None
        self._confusion = np.zeros((0, 0), dtype=np.int64)
        self._seen: list[str] = []
        self.train()  # Lightning leaves the modes as it finds them

    def train(self, mode: bool = True) -> Self:
        """As ``nn.Module.train``, leaving a frozen backbone in eval mode: no stochastic depth in it."""
        super().train(mode)
        if self.recipe.freeze_backbone:
            backbone_of(self.model).eval()
        return self

    def transfer_batch_to_device(
        self, batch: Batch | Sample, device: torch.device, dataloader_idx: int
    ) -> Batch | Sample:
        """Training batches move; a validation sample stays an array, as a user's image would be."""
        return batch.to(device) if isinstance(batch, Batch) else batch

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Weighted losses of one batch, by name; their sum is the total.

        Raises:
            NotFinite: where the model's logits are not.
        """
        pixels = self.preprocessing.normalise(self._recoloured(batch) * 255)
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        torch.manual_seed(self._seed(_NETWORK, *batch.draws[:1]))
        prediction = self.model(pixels)
        if isinstance(self.criterion, PixelCriterion):
            return self.criterion(prediction, batch.targets)
        # First, in every process: the criterion may stop one of them, and the others would wait for its counts.
        outlier = {} if self.outlier_loss is None else self.outlier_loss(prediction, batch.targets)
        seeds = [self._seed(_POINTS, draw) for draw in batch.draws]
        return {**outlier, **self.criterion(prediction, batch.targets, seeds)}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Total loss of one batch.

        Raises:
            OutmaskError: in all processes, where the loss of one is not finite.
        """
        first = batch_idx % self.recipe.accumulate == 0
        self._seen = batch.names if first else self._seen + batch.names
        try:
            losses = self.losses(batch)
        except NotFinite:
            losses = {"logits": torch.tensor(math.nan, device=self.device)}
        total = torch.stack(list(losses.values())).sum()
        if not self.trainer.strategy.reduce_boolean_decision(bool(total.isfinite())):
            self._stop({name: float(value.detach()) for name, value in losses.items()})
        last = {f"train/{name}": loss.detach() for name, loss in losses.items() if not name[-1].isdigit()}
        # The mean over the processes is the loss of the joint batch: each divides by the joint normalisers.
        self.log_dict({"train/loss": total.detach(), **last}, batch_size=len(batch.targets), sync_dist=True)
        self.log("loss", total.detach(), prog_bar=True, logger=False, batch_size=len(batch.targets))
        return total

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Limit the norm of the whole gradient.

        Raises:
            OutmaskError: where it is not finite: before it reaches the weights.
        """
        limit = gradient_clip_val or math.inf
        sharded = self.trainer.model
        if isinstance(sharded, FullyShardedDataParallel):
            norm = sharded.clip_grad_norm_(limit)
        else:
            norm = nn.utils.clip_grad_norm_(self.model.parameters(), limit)
        scaled = getattr(self.trainer.precision_plugin, "scaler", None) is not None  # of float16: it skips such steps
        if not scaled and not norm.isfinite():
            self._stop({"gradient": float(norm)})

    def _recoloured(self, batch: Batch) -> Tensor:
        """``(B, 3, H, W)`` float32 RGB in [0, 1], each image with its own draw of colours."""
        pixels = batch.pixels.float() / 255
        for index, draw in enumerate(batch.draws):
            torch.manual_seed(self._seed(_COLOURS, draw))
            pixels[index : index + 1] = self.color(pixels[index : index + 1])
        return pixels

    def _seed(self, *purpose: int) -> int:
        """64 bits that depend on the recipe's seed and on all of ``purpose``."""
        return int(np.random.SeedSequence((self.recipe.seed, *purpose)).generate_state(1, np.uint64)[0])

    def _stop(self, values: dict[str, float]) -> None:
        """Keep what is needed to find the cause, then stop. Called by all processes."""
        parts = _from_all_processes((self._seen, values))
        guilty = [part for part in parts if not all(map(math.isfinite, part[1].values()))]
        names = [name for seen, _ in guilty for name in seen]
        culprits = sorted({name for _, part in guilty for name, value in part.items() if not math.isfinite(value)})
        out = Path(self.trainer.default_root_dir)
        kept = "the weights are not finite either, last.ckpt is the last good state"
        if self.trainer.strategy.reduce_boolean_decision(is_finite(self.model)):
            save_checkpoint(self.trainer, out / f"{BEFORE_FAILURE}.ckpt")
            kept = f"the state before it is in {out / BEFORE_FAILURE}.ckpt"
        if self.trainer.is_global_zero:
            found = [{name: str(value) for name, value in part.items()} for _, part in guilty]
            report = {"iteration": self.global_step, "images": names, "values": found}
            (out / f"{BEFORE_FAILURE}.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        raise OutmaskError(
            f"iteration {self.global_step}: {', '.join(culprits)} not finite on {', '.join(names)}; {kept}; "
            "lower the learning rate or train in float32"
        )

    def _validation_scores(self) -> tuple[str, ...]:
        """The names; the first one is shown while training."""
        if isinstance(self.criterion, PixelCriterion):
            return tuple(dict.fromkeys((self.criterion.score, *PIXEL_SCORES)))
        return ("uno", *MASK_SCORES) if self.criterion.negative_class else MASK_SCORES

    def on_validation_epoch_start(self) -> None:
        """Fresh metrics."""
        classes = self.taxonomy.num_classes
        self._pixel_metrics = {name: PixelMetrics() for name in self._validation_scores()}
        self._confusion = np.zeros((classes, classes), dtype=np.int64)
        if self.recipe.panoptic:
            named = enumerate(zip(self.taxonomy.names, self.taxonomy.things or (), strict=True))
            self._panoptic = PanopticQuality(
                [{"id": id_, "name": name, "isthing": thing} for id_, (name, thing) in named]
            )

    def validation_step(self, sample: Sample, batch_idx: int) -> None:
        """Scores and labels of one image at its own resolution; the processes take turns."""
        if batch_idx % self.trainer.world_size != self.global_rank:
            return
        segmenter = Segmenter(self.model, self.taxonomy, self.preprocessing, name="in training")
        size = (sample.labels.shape[0], sample.labels.shape[1])
        prediction = segmenter.prediction(sample.image)
        maps = scores.evaluate(prediction, list(self._pixel_metrics), size)
        if self._panoptic is not None and isinstance(prediction, MaskPrediction):
            ids, classes = known_segments(prediction, self.taxonomy, size)
            found = [{"id": id_, "category_id": class_id} for id_, (class_id, _) in enumerate(classes, 1)]
            self._panoptic.update(ids, found, *sample.panoptic(self.taxonomy.num_classes))
        known = sample.labels < self.taxonomy.num_classes
        anomaly = np.where(sample.outlier, 1, np.where(known, 0, 255)).astype(np.uint8)
        for name, metric in self._pixel_metrics.items():
            metric.update(maps[name][0], anomaly)
        labels = maps["labels"][0].cpu().numpy()
        pairs = sample.labels[known].astype(np.int64) * len(self._confusion) + labels[known]
        self._confusion += np.bincount(pairs, minlength=self._confusion.size).reshape(self._confusion.shape)

    def on_validation_epoch_end(self) -> None:
        """Log mIoU, panoptic quality, and AP and FPR95 of the pasted objects, over all processes."""
        self._join()
        hits = np.diag(self._confusion)
        union = self._confusion.sum(0) + self._confusion.sum(1) - hits
        self.log("val/mIoU", float(100 * (hits[union > 0] / union[union > 0]).mean()), prog_bar=True)
        if self._panoptic is not None:
            quality = self._panoptic.compute()
            self.log("val/PQ", quality["PQ"], prog_bar=True)
            self.log_dict({f"val/PQ_{kind}": quality[f"PQ_{kind}"] for kind in ("things", "stuff")})
        if self.recipe.validation_negatives is not None:
            for name, metric in self._pixel_metrics.items():
                values = metric.compute()
                self.log(f"val/AP_{name}", values["AP"], prog_bar=name == next(iter(self._pixel_metrics)))
                self.log(f"val/FPR95_{name}", values["FPR95"])

    def _join(self) -> None:
        """Give every process the metrics of all."""
        own = (self._pixel_metrics, self._confusion, self._panoptic)
        for rank, (metrics, confusion, panoptic) in enumerate(_from_all_processes(own)):
            if rank != self.global_rank:
                self._confusion = self._confusion + confusion
                if self._panoptic is not None and panoptic is not None:
                    self._panoptic.merge(panoptic)
                for name, metric in metrics.items():
                    self._pixel_metrics[name].merge(metric)

    def configure_optimizers(self) -> Any:
        """AdamW with polynomial decay; the backbone learns slower."""
        recipe = self.recipe
        groups = parameter_groups(self.model, recipe, self.undecayed)
        optimizer = torch.optim.AdamW(groups, lr=recipe.learning_rate)

        def factor(step: int) -> float:
            warm = min(1.0, (step + 1) / (recipe.warmup + 1))
            decay: float = max(0.0, 1 - step / recipe.iterations) ** 0.9
            return warm * decay

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def _from_all_processes(value: T) -> list[T]:
    """What each process calls this with, by rank."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return [value]
    values: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(values, value)
    return values


def count_parameters(model: nn.Module) -> dict[str, int]:
    """How many numbers a model has learned, ``"all"``, and how many it still learns, ``"trainable"``."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return {"all": sum(size for size, _ in sizes), "trainable": sum(size for size, trainable in sizes if trainable)}


def undecayed_parameters(model: nn.Module) -> set[str]:
    """Names of the norms, embeddings and biases, which weight decay leaves alone.

    To be asked before a model is sharded: then a parameter shows neither its shape nor its module.
    """
    norms = (nn.LayerNorm, nn.GroupNorm, nn.BatchNorm2d)
    of_norms = {
        f"{prefix}.{name}" if prefix else name
        for prefix, module in model.named_modules()
        if isinstance(module, norms)
        for name, _ in module.named_parameters(recurse=False)
    }
    embeddings = ("_embed", "query_feat", "relative_position_bias_table")
    return of_norms | {
        name for name, parameter in model.named_parameters() if parameter.ndim <= 1 or name.endswith(embeddings)
    }


def parameter_groups(model: Model, recipe: Recipe, undecayed: set[str]) -> list[dict[str, Any]]:
    """AdamW's groups: the backbone's rate is lower; ``undecayed`` do not decay.

    Returns:
        up to four groups of ``params``, ``lr`` and ``weight_decay``; frozen parameters are in none.
    """
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((name.startswith(model.backbone_prefix), name not in undecayed), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": recipe.learning_rate * (recipe.backbone_rate if in_backbone else 1.0),
            "weight_decay": recipe.weight_decay if decays else 0.0,
        }
        for (in_backbone, decays), parameters in groups.items()
    ]
