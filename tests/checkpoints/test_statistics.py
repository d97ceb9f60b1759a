"""Detectors' statistics in a model folder: kept, merged, tied to the weights."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from outmask.checkpoints import ModelBundle, load_folder, save_folder, store_statistics
from outmask.data.taxonomies import IDD_LITE
from outmask.errors import OutmaskError
from outmask.models import PerPixel, PerPixelConfig
from outmask.preprocessing import Preprocessing

SML = {"mean": torch.tensor([1.0, 2, 3]), "deviation": torch.tensor([0.5, 1e-30, 1e30])}
REACT = {"threshold": torch.tensor([0.25])}
RESNET = {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [16, 24, 32, 40], "depths": [1, 1, 1, 1]}


@pytest.fixture
def bundle() -> ModelBundle:
    torch.manual_seed(0)
    model = PerPixel(PerPixelConfig(7, RESNET, dim=32, num_heads=2, encoder_layers=1, encoder_ffn_dim=32)).eval()
    return ModelBundle(model, IDD_LITE, Preprocessing(), "none", {}, "tiny")


def equal(first: dict[str, dict[str, Tensor]], second: dict[str, dict[str, Tensor]]) -> bool:
    return first.keys() == second.keys() and all(
        own.keys() == second[name].keys() and all(torch.equal(own[key], second[name][key]) for key in own)
        for name, own in first.items()
    )


def test_statistics_come_back_and_replace_those_of_the_same_detector(bundle: ModelBundle, tmp_path: Path) -> None:
    save_folder(bundle, tmp_path / "m")
    assert load_folder(tmp_path / "m").statistics == {}
    store_statistics(tmp_path / "m", {"sml": SML})
    store_statistics(tmp_path / "m", {"react": REACT})
    assert equal(dict(load_folder(tmp_path / "m").statistics), {"sml": SML, "react": REACT})
    store_statistics(tmp_path / "m", {"react": {"threshold": torch.tensor([7.0])}})
    assert float(load_folder(tmp_path / "m").statistics["react"]["threshold"]) == 7
    names = [path.name for path in sorted((tmp_path / "m").iterdir())]
    assert names == ["config.json", "detectors.safetensors", "model.safetensors"]


def test_a_bundle_takes_its_statistics_along(bundle: ModelBundle, tmp_path: Path) -> None:
    save_folder(replace(bundle, statistics={"sml": SML}), tmp_path / "m", torch.float16)
    loaded = load_folder(tmp_path / "m")
    assert equal(dict(loaded.statistics), {"sml": SML})  # float32, whatever the weights are
    save_folder(replace(loaded, statistics={}), tmp_path / "m")
    assert load_folder(tmp_path / "m").statistics == {}


def test_statistics_of_other_weights_and_damaged_ones_are_refused(bundle: ModelBundle, tmp_path: Path) -> None:
    save_folder(replace(bundle, statistics={"sml": SML}), tmp_path / "m")
    torch.manual_seed(1)
    save_folder(replace(bundle, model=PerPixel(bundle.model.config)), tmp_path / "other")  # type: ignore[arg-type]
    moved = tmp_path / "other/detectors.safetensors"
    moved.write_bytes((tmp_path / "m/detectors.safetensors").read_bytes())
    with pytest.raises(OutmaskError, match="made with other weights than those beside it: remove it"):
        load_folder(tmp_path / "other")
    moved.write_bytes(moved.read_bytes()[:40])
    with pytest.raises(OutmaskError, match="no readable safetensors file"):
        load_folder(tmp_path / "other")


def test_only_folders_of_ours_have_a_place_for_them(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "segformer"}')
    with pytest.raises(OutmaskError, match="no model folder of outmask's: it has no place"):
        store_statistics(tmp_path, {"sml": SML})


def test_a_full_disk_leaves_the_old_statistics(
    bundle: ModelBundle, tmp_path: Path, small_disk: Callable[[int], AbstractContextManager[None]]
) -> None:
    save_folder(replace(bundle, statistics={"sml": SML}), tmp_path / "m")
    with small_disk(100), pytest.raises(OutmaskError, match=r"detectors\.safetensors: can't be written .*large"):
        store_statistics(tmp_path / "m", {"react": REACT})
    assert equal(dict(load_folder(tmp_path / "m").statistics), {"sml": SML})
    assert len(list((tmp_path / "m").iterdir())) == 3
