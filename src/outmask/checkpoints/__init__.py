"""Loading and saving models: outmask's folders, transformers', and the original projects' files."""

from __future__ import annotations

import re
from pathlib import Path

from transformers.models.auto.modeling_auto import MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES

from outmask import weights
from outmask.checkpoints.bundle import ModelBundle
from outmask.checkpoints.folder import (
    MARKER,
    load_folder,
    read_config,
    save_folder,
    store_operating_points,
    store_statistics,
)
from outmask.checkpoints.huggingface import load_huggingface
from outmask.checkpoints.original import load_original
from outmask.errors import OutmaskError

__all__ = [
    "ModelBundle",
    "load_bundle",
    "load_folder",
    "local_folder",
    "save_folder",
    "store_operating_points",
    "store_statistics",
]

PICKLES = (".pkl", ".pth", ".pt")
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def local_folder(source: str) -> Path | None:
    """The folder on this machine that a bundled name or a path of a model folder means; None for anything else."""
    if source in weights.bundled_models():
        return weights.FOLDER / source
    return Path(source) if Path(source).is_dir() else None


def load_bundle(source: str) -> ModelBundle:
    """Load a model, deciding by inspection what ``source`` is.

    Args:
        source: a bundled model's name; a folder of outmask's or of transformers'; an original ``.pkl``, ``.pth`` or
            ``.pt`` file; a hub id ``owner/name``. A bundled name goes before a path; ``./street`` is a folder.

    Raises:
        OutmaskError: where it is none of these, or can't be loaded; says what was expected.
    """
    bundled = weights.bundled_models()
    if source in bundled:
        return load_folder(weights.FOLDER / source)
    path = Path(source)
    if path.is_dir():
        config = read_config(path)
        if MARKER in config:
            return load_folder(path)
        kind = config.get("model_type", "unknown")
        if kind == "mask2former" or kind in MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES:
            return load_huggingface(source)
        raise OutmaskError(
            f"{path}: config.json is of model type {kind!r}, expected mask2former, a semantic segmentation model of "
            "transformers', or a folder of outmask's"
        )
    if path.is_file():
        if path.suffix.lower() in PICKLES:
            return load_original(path)
        raise OutmaskError(f"{path} is no checkpoint: expected a {', '.join(PICKLES)} file or a model folder")
    if HUB_ID.fullmatch(source) and path.suffix.lower() not in PICKLES:
        return load_huggingface(source)
    raise OutmaskError(
        f"unknown model {source!r}: expected a bundled model ({', '.join(bundled) or 'none in this installation'}), "
        "a model folder, an original .pkl, .pth or .pt file, or a hub id owner/name"
    )
