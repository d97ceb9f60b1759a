"""The training step and the validation, as Lightning's loop calls them."""

from __future__ import annotations

from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor, nn

from outmask import scores
from outmask.data.labels import Sample
from outmask.data.transforms import Batch, ColorJitter
from outmask.losses import SetCriterion
from outmask.metrics import PixelMetrics
from outmask.models import Mask2Former
from outmask.preprocessing import Preprocessing
from outmask.segmenter import Segmenter
from outmask.training.recipe import Recipe, build_criterion, build_model, build_taxonomy
from outmask.types import Taxonomy

VALIDATION_SCORES = ("eam", "aem", "am", "unclaimed")


class SegmentationTraining(L.LightningModule):
    """One model in training.

    Every random choice of an iteration follows from the seed and the iteration's number, so that a run that was killed
    and resumed is the same run.
    """

    def __init__(self, recipe: Recipe, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.recipe = recipe
        self.preprocessing = preprocessing
        self.taxonomy: Taxonomy = build_taxonomy(recipe)
        torch.manual_seed(recipe.seed)
        self.model: Mask2Former = build_model(recipe)
        self.criterion: SetCriterion = build_criterion(recipe)
        self.color = ColorJitter()
        self._pixel_metrics: dict[str, PixelMetrics] = {}
        self._confusion = np.zeros((0, 0), dtype=np.int64)

    def transfer_batch_to_device(
        self, batch: Batch | Sample, device: torch.device, dataloader_idx: int
    ) -> Batch | Sample:
        """Training batches move; a validation sample stays an array, as a user's image would be."""
        return batch.to(device) if isinstance(batch, Batch) else batch

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Seed the points and the colours by the iteration's number."""
        torch.manual_seed((self.recipe.seed << 32) + self.global_step)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Total loss of one batch."""
        pixels = self.preprocessing.normalise(self.color(batch.pixels.float() / 255) * 255)
        losses = self.criterion(self.model(pixels), batch.targets)
        total = torch.stack(list(losses.values())).sum()
        last = {f"train/{name}": losses[name].detach() for name in ("class", "mask", "dice")}
        self.log_dict({"train/loss": total.detach(), **last}, batch_size=len(batch.targets))
        self.log("loss", total.detach(), prog_bar=True, logger=False, batch_size=len(batch.targets))
        return total

    def on_validation_epoch_start(self) -> None:
        """Fresh metrics."""
        classes = self.taxonomy.num_classes
        self._pixel_metrics = {name: PixelMetrics() for name in VALIDATION_SCORES}
        self._confusion = np.zeros((classes, classes), dtype=np.int64)

    def validation_step(self, sample: Sample, batch_idx: int) -> None:
        """Scores and labels of one image at its own resolution."""
        segmenter = Segmenter(self.model, self.taxonomy, self.preprocessing, name="in training")
        size = (sample.labels.shape[0], sample.labels.shape[1])
        maps = scores.evaluate(segmenter.prediction(sample.image), list(VALIDATION_SCORES), size)
        known = sample.labels < self.taxonomy.num_classes
        anomaly = np.where(sample.outlier, 1, np.where(known, 0, 255)).astype(np.uint8)
        for name, metric in self._pixel_metrics.items():
            metric.update(maps[name][0], anomaly)
        labels = maps["labels"][0].cpu().numpy()
        pairs = sample.labels[known].astype(np.int64) * len(self._confusion) + labels[known]
        self._confusion += np.bincount(pairs, minlength=self._confusion.size).reshape(self._confusion.shape)

    def on_validation_epoch_end(self) -> None:
        """Log mIoU, and AP and FPR95 of the pasted objects."""
        hits = np.diag(self._confusion)
        union = self._confusion.sum(0) + self._confusion.sum(1) - hits
        self.log("val/mIoU", float(100 * (hits[union > 0] / union[union > 0]).mean()), prog_bar=True)
        if self.recipe.validation_negatives is not None:
            for name, metric in self._pixel_metrics.items():
                values = metric.compute()
                self.log(f"val/AP_{name}", values["AP"], prog_bar=name == "eam")
                self.log(f"val/FPR95_{name}", values["FPR95"])

    def configure_optimizers(self) -> Any:
        """AdamW with polynomial decay; the backbone learns slower."""
        recipe = self.recipe
        optimizer = torch.optim.AdamW(parameter_groups(self.model, recipe), lr=recipe.learning_rate)

        def factor(step: int) -> float:
            warm = min(1.0, (step + 1) / (recipe.warmup + 1))
            decay: float = max(0.0, 1 - step / recipe.iterations) ** 0.9
            return warm * decay

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def parameter_groups(model: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """AdamW's groups: the backbone's rate is lower; norms, embeddings and biases do not decay.

    Returns:
        up to four groups of ``params``, ``lr`` and ``weight_decay``; frozen parameters are in none.
    """
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    norms = (nn.LayerNorm, nn.GroupNorm, nn.BatchNorm2d)
    undecayed = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, norms)
        for parameter in module.parameters(False)
    }
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            embedding = name.endswith(("_embed", "query_feat", "relative_position_bias_table"))
            decays = parameter.ndim > 1 and id(parameter) not in undecayed and not embedding
            groups.setdefault((name.startswith("backbone."), decays), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": recipe.learning_rate * (recipe.backbone_rate if in_backbone else 1.0),
            "weight_decay": recipe.weight_decay if decays else 0.0,
        }
        for (in_backbone, decays), parameters in groups.items()
    ]
