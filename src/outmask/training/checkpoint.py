"""The one checkpoint of a run: never half-written, never of a diverged model, checked before it is resumed."""

from __future__ import annotations

import os
import time
import zipfile
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import nn

from outmask.errors import OutmaskError


class LastCheckpoint(Callback):
    """Keeps one checkpoint, of the last finished chunk, and the hours that training took."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seconds = 0.0
        self._started = time.monotonic()

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the chunk's clock."""
        self._started = time.monotonic()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Replace the checkpoint."""
        self.seconds += time.monotonic() - self._started
        save_checkpoint(trainer, self.path)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run must know."""
        return {"seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Inverse of :meth:`state_dict`."""
        self.seconds = float(state_dict["seconds"])


def save_checkpoint(trainer: L.Trainer, path: Path) -> None:
    """Write the state of the run beside ``path``, then rename: what is there is whole. Called by all processes.

    Raises:
        OutmaskError: where it can't be written; an earlier checkpoint at ``path`` is as it was.
    """
    beside = path.with_suffix(".partial")
    try:
        trainer.save_checkpoint(beside)
        if trainer.is_global_zero:
            with beside.open("rb") as written:
                os.fsync(written.fileno())
            beside.replace(path)
    except (OSError, RuntimeError) as error:  # torch's writer raises RuntimeError
        beside.unlink(missing_ok=True)
        reason = (getattr(error, "strerror", None) or str(error)).splitlines()[0]
        kept = ", then go on from the earlier checkpoint with --resume" if path.exists() else ""
        raise OutmaskError(
            f"{path}: iteration {trainer.global_step} can't be saved ({reason}): make room{kept}"
        ) from error


def check_checkpoint(path: Path) -> None:
    """Read a checkpoint once, against its checksums.

    Raises:
        OutmaskError: where it is damaged or no checkpoint.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip() is not None
    except (OSError, zipfile.BadZipFile):
        damaged = True
    if damaged:
        raise OutmaskError(f"{path} is damaged: put back a copy of it, or start anew in another --out")


def is_finite(model: nn.Module) -> bool:
    """Whether all weights are finite numbers."""
    return all(bool(torch.isfinite(parameter).all()) for parameter in model.parameters())
