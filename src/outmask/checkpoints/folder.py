"""outmask's own model folder: ``model.safetensors``, ``config.json`` and, where fitted, ``detectors.safetensors``."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from outmask.checkpoints.bundle import ModelBundle
from outmask.checkpoints.keys import require_same
from outmask.checkpoints.statistics import read_statistics, write_statistics
from outmask.errors import OutmaskError
from outmask.models import build_architecture, describe_architecture
from outmask.preprocessing import Preprocessing
from outmask.types import Taxonomy

WEIGHTS, CONFIG = "model.safetensors", "config.json"
MARKER = "outmask_format"  # the key that tells our config.json from transformers'; its value is the format's version
VERSION = 1


def read_config(path: Path) -> dict[str, Any]:
    """The ``config.json`` of a model folder, ours or transformers'.

    Raises:
        OutmaskError: where there is none, or it is no JSON object.
    """
    try:
        config = json.loads((path / CONFIG).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise OutmaskError(f"{path}: no {CONFIG} in it; expected a model folder, outmask's or transformers'") from None
    except (OSError, ValueError) as error:
        raise OutmaskError(f"{path / CONFIG}: not readable as JSON ({error})") from None
    if not isinstance(config, dict):
        raise OutmaskError(f"{path / CONFIG}: expected a JSON object, got {type(config).__name__}")
    return config


def describe_bundle(bundle: ModelBundle) -> dict[str, Any]:
    """What ``config.json``, or an exported file, says of a model, as plain values."""
    return {
        MARKER: VERSION,
        "architecture": describe_architecture(bundle.model),
        "taxonomy": bundle.taxonomy.to_json(),
        "preprocessing": bundle.preprocessing.to_json(),
        "operating_points": bundle.operating_points,
        "licence": bundle.licence,
        "provenance": bundle.provenance,
    }


def save_folder(bundle: ModelBundle, path: str | Path, dtype: torch.dtype = torch.float32) -> None:
    """Write a model folder; written beside and renamed, so that it is there whole or not at all.

    Args:
        bundle: the model and what belongs to it; its ``name`` is not stored, a folder is called what it is called.
        path: the folder, made or, if it is a model folder of ours or empty, replaced.
        dtype: of the weights on disk, float32 or float16.

    Raises:
        OutmaskError: on another dtype, weights that float16 can't hold, a model that was prepared for inference, a path
            that is taken or can't be written.
    """
    if dtype not in (torch.float32, torch.float16):
        raise OutmaskError(f"weights are saved as float32 or float16, got {dtype}")
    with torch.device("meta"):
        names = build_architecture(describe_architecture(bundle.model)).state_dict().keys()
    if bundle.model.state_dict().keys() != names:
        raise OutmaskError(f"{bundle.name}: its BatchNorm is folded for inference; save what load_bundle gives instead")
    path = Path(path).resolve()
    if path.exists() and not (path.is_dir() and (_is_ours(path) or not any(path.iterdir()))):
        raise OutmaskError(f"{path} exists and is no model folder of outmask: choose another name or remove it")
    state = {name: _convert(tensor, dtype, name) for name, tensor in bundle.model.state_dict().items()}
    partial, old = (path.with_name(f".{path.name}.{os.getpid()}.{suffix}") for suffix in ("partial", "old"))
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        # Not save_file: on a full disk it raises an error of its own kind, and nobody else could read what it writes.
        (partial / WEIGHTS).write_bytes(save(state))
        config = {**describe_bundle(bundle), "hashes": {WEIGHTS: _sha256(partial / WEIGHTS)}}
        (partial / CONFIG).write_text(_json(config), encoding="utf-8")
        if bundle.statistics:
            write_statistics(partial, bundle.statistics, _sha256(partial / WEIGHTS))
        if path.exists():
            path.rename(old)
        partial.rename(path)
    except OSError as error:
        raise OutmaskError(f"{path}: can't be written ({error.strerror})") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        if old.exists() and not path.exists():
            old.rename(path)
        shutil.rmtree(old, ignore_errors=True)


def store_operating_points(path: str | Path, points: Mapping[str, Mapping[str, Any]]) -> None:
    """Put thresholds into the ``config.json`` of a model folder of ours, in place of earlier ones of the same scores.

    Args:
        path: the folder.
        points: by score; see ``ModelBundle.operating_points``.

    Raises:
        OutmaskError: where it is no model folder of outmask's, or can't be written.
    """
    path = Path(path)
    config = read_config(path)
    if MARKER not in config:
        raise OutmaskError(f"{path} is no model folder of outmask's: it has no place for operating points")
    config["operating_points"] = {**config.get("operating_points", {}), **points}
    # Beside, then renamed: a half-written config would cost the model.
    target = path / CONFIG
    beside = target.with_name(f".{CONFIG}.{os.getpid()}.partial")
    try:
        beside.write_text(_json(config), encoding="utf-8")
        beside.replace(target)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise OutmaskError(f"{target}: can't be written ({error.strerror})") from None


def store_statistics(path: str | Path, statistics: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Put detectors' statistics beside the weights in a model folder of ours, in place of earlier ones of theirs.

    Args:
        path: the folder.
        statistics: see ``ModelBundle.statistics``.

    Raises:
        OutmaskError: where it is no model folder of outmask's, or can't be written.
    """
    path = Path(path)
    config = read_config(path)
    if MARKER not in config:
        raise OutmaskError(f"{path} is no model folder of outmask's: it has no place for statistics")
    weights_hash = config["hashes"][WEIGHTS]
    write_statistics(path, {**read_statistics(path, weights_hash), **statistics}, weights_hash)


def _json(config: dict[str, Any]) -> str:
    return json.dumps(config, indent=2, ensure_ascii=False) + "\n"


def load_folder(path: str | Path) -> ModelBundle:
    """Read what :func:`save_folder` wrote; weights come as float32, the name is the folder's.

    Raises:
        OutmaskError: where a file is missing, damaged or of a newer format, or the weights don't fit the architecture.
    """
    path = Path(path)
    config = read_config(path)
    if config.get(MARKER) != VERSION:
        raise OutmaskError(
            f"{path / CONFIG}: expected {MARKER!r} {VERSION}, got {config.get(MARKER)!r}; a newer outmask may read it"
        )
    try:
        architecture = dict(config["architecture"])
        taxonomy = Taxonomy.from_json(config["taxonomy"])
        preprocessing = Preprocessing.from_json(config["preprocessing"])
        licence, provenance = str(config["licence"]), dict(config["provenance"])
        operating_points, expected_hash = dict(config["operating_points"]), config["hashes"][WEIGHTS]
    except KeyError as error:
        raise OutmaskError(f"{path / CONFIG}: lacks the entry {error}") from None
    except (TypeError, ValueError) as error:
        raise OutmaskError(f"{path / CONFIG}: {error}") from None
    weights = path / WEIGHTS
    if not weights.is_file():
        raise OutmaskError(f"{path}: no {WEIGHTS} in this folder; get the whole folder again")
    if (found := _sha256(weights)) != expected_hash:
        raise OutmaskError(f"{weights}: damaged, its sha256 is {found}, expected {expected_hash}; get it again")
    try:
        state = load_file(weights)
    except SafetensorError as error:
        raise OutmaskError(f"{weights}: no readable safetensors file ({error})") from None
    try:
        model = build_architecture(architecture)
    except OutmaskError as error:
        raise OutmaskError(f"{path / CONFIG}: {error}") from None
    require_same(
        {name: tensor.shape for name, tensor in model.state_dict().items()},
        {name: tensor.shape for name, tensor in state.items()},
        str(weights),
    )
    model.load_state_dict(state)  # copies into the model's own float32
    return ModelBundle(
        model.eval(),
        taxonomy,
        preprocessing,
        licence,
        provenance,
        path.resolve().name,
        operating_points,
        read_statistics(path, expected_hash),
    )


def _is_ours(path: Path) -> bool:
    return (path / CONFIG).is_file() and MARKER in read_config(path)


def _convert(tensor: Tensor, dtype: torch.dtype, name: str) -> Tensor:
    if not tensor.is_floating_point():
        return tensor.cpu()
    converted = tensor.detach().to("cpu", dtype).contiguous()
    if not converted.isfinite().all():
        raise OutmaskError(f"{name} holds values that {dtype} can't: save as float32, or check the training")
    return converted


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
