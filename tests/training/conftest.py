"""A miniature CamVid with objects to paste, and a recipe that trains on it in seconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml
from torch.utils._pytree import tree_flatten_with_path


@pytest.fixture(scope="session")
def small_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CamVid tree of three images a split, and a folder with one object."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for folder in (split, split + "annot"):
            (root / "camvid" / folder).mkdir(parents=True)
        for index in range(3):
            labels = np.repeat(np.array([0, 3, 4, 8], np.uint8), 16)[:, None].repeat(80, 1)
            image = np.clip(labels[..., None] * 25 + rng.integers(0, 30, (64, 80, 3)), 0, 255).astype(np.uint8)
            cv2.imwrite(str(root / "camvid" / split / f"{index}.jpg"), image)
            cv2.imwrite(str(root / "camvid" / (split + "annot") / f"{index}.png"), labels)
    for folder in ("images", "masks"):
        (root / "objects" / folder).mkdir(parents=True)
    mask = np.zeros((40, 40), np.uint8)
    mask[10:30, 10:30] = 255
    cv2.imwrite(str(root / "objects/images/cube_00000.jpg"), np.full((40, 40, 3), (0, 200, 200), np.uint8))
    cv2.imwrite(str(root / "objects/masks/cube_00000.png"), mask)
    return root


@pytest.fixture(scope="session")
def small_recipe(small_data: Path) -> dict[str, Any]:
    """Four iterations in two chunks."""
    objects = {"sources": [{"kind": "folder", "root": "objects"}], "probability": 0.5}
    return {
        "taxonomy": "idd_lite",
        "data_root": str(small_data),
        "train": [{"name": "camvid", "root": "camvid", "split": "train"}],
        "validation": [{"name": "camvid", "root": "camvid", "split": "val"}],
        "model": {
            "backbone": "mobilenet_v2",
            "dim": 32,
            "num_heads": 2,
            "encoder_layers": 1,
            "encoder_levels": 1,
            "encoder_ffn_dim": 32,
            "num_queries": 5,
            "decoder_layers": 2,
            "decoder_ffn_dim": 32,
        },
        "negatives": objects,
        "validation_negatives": objects,
        "crop": [32, 48],
        "short_side": [32, 64],
        "inference_short_side": 64,
        "iterations": 4,
        "batch_size": 2,
        "chunk": 2,
        "validate_every": 2,
        "loss": {"num_points": 64},
    }


@pytest.fixture
def write_recipe(small_recipe: dict[str, Any], tmp_path: Path) -> Any:
    """Writes the small recipe with other values; returns the file."""

    def write(**values: Any) -> Path:
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump({**small_recipe, **values}))
        return path

    return write


@pytest.fixture(scope="session")
def recipe(small_recipe: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small recipe's file."""
    path = tmp_path_factory.mktemp("recipe") / "recipe.yaml"
    path.write_text(yaml.safe_dump(small_recipe))
    return path


@pytest.fixture(scope="session")
def finished(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an undisturbed run of the small recipe."""
    from outmask.training.run import main

    out = tmp_path_factory.mktemp("run") / "out"
    main(["--config", str(recipe), "--out", str(out)])
    return out


@pytest.fixture(scope="session")
def same_state() -> Callable[[Path, Path], None]:
    def check(out: Path, other: Path) -> None:
        """Two runs have come to the same weights and optimiser, bit by bit, and to the same model."""
        states = [torch.load(folder / "last.ckpt", weights_only=True) for folder in (out, other)]
        assert states[0]["global_step"] == states[1]["global_step"]
        parts = [
            tree_flatten_with_path([state["state_dict"], state["optimizer_states"], state["lr_schedulers"]])[0]
            for state in states
        ]
        assert len(parts[0]) == len(parts[1]) > 100
        for (where, value), (_, expected) in zip(*parts, strict=True):
            equal = torch.equal(value, expected) if isinstance(value, torch.Tensor) else value == expected
            assert equal, where
        models = [(folder / "model" / "model.safetensors").read_bytes() for folder in (out, other)]
        assert models[0] == models[1]

    return check
