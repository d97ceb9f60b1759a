from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from outmask.checkpoints import ModelBundle, load_bundle, load_folder, save_folder, store_operating_points
from outmask.checkpoints import folder as folder_module
from outmask.data.taxonomies import IDD_LITE
from outmask.errors import OutmaskError
from outmask.models import Mask2Former, Mask2FormerConfig, PerPixel, PerPixelConfig, build_architecture
from outmask.preprocessing import Preprocessing
from outmask.segmenter import load
from outmask.types import Taxonomy

SMALL: dict[str, Any] = {
    "num_classes": 7,
    "backbone": {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [16, 24, 32, 40], "depths": [1, 1, 1, 1]},
    "dim": 32,
    "num_heads": 2,
    "encoder_layers": 1,
    "encoder_ffn_dim": 32,
    "num_queries": 5,
    "decoder_layers": 2,
    "decoder_ffn_dim": 32,
}


@pytest.fixture
def bundle() -> ModelBundle:
    torch.manual_seed(0)
    return ModelBundle(
        model=Mask2Former(Mask2FormerConfig(**SMALL, attention="global")).eval(),
        taxonomy=IDD_LITE,
        preprocessing=Preprocessing((127.5, 127.5, 127.5), (127.5, 127.5, 127.5), 384, None),
        licence="research use",
        provenance={"recipe": "street", "iterations": 2400},
        name="trained",
        operating_points={"eam": {"threshold": -0.25, "origin": "TPR 95 on CamVid val, pasted objects"}},
    )


def test_a_folder_gives_back_what_was_saved(bundle: ModelBundle, tmp_path: Path, pixels: Tensor) -> None:
    save_folder(bundle, tmp_path / "models" / "mine")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["config.json", "mine", "model.safetensors", "models"]
    loaded = load_bundle(str(tmp_path / "models" / "mine"))
    assert loaded.name == "mine"
    for part in ("taxonomy", "preprocessing", "licence", "provenance", "operating_points"):
        assert getattr(loaded, part) == getattr(bundle, part)
    assert loaded.model.config == bundle.model.config
    assert not loaded.model.training
    with torch.no_grad():
        assert torch.equal(loaded.model(pixels).mask_logits, bundle.model(pixels).mask_logits)


def test_half_precision_halves_the_file_and_loads_as_float32(bundle: ModelBundle, tmp_path: Path) -> None:
    save_folder(bundle, tmp_path / "full")
    save_folder(bundle, tmp_path / "half", dtype=torch.float16)
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("full", "half")]
    assert sizes[1] < 0.6 * sizes[0]
    expected = bundle.model.state_dict()
    for name, tensor in load_folder(tmp_path / "half").model.state_dict().items():
        assert tensor.dtype == expected[name].dtype
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor, expected[name], rtol=2**-11, atol=2**-25)  # half a float16 step


def test_saving_leaves_the_model_in_train_mode_and_float32(bundle: ModelBundle, tmp_path: Path) -> None:
    bundle.model.train()
    save_folder(bundle, tmp_path / "mine", dtype=torch.float16)
    assert bundle.model.training
    assert next(bundle.model.parameters()).dtype == torch.float32


def test_values_that_float16_cannot_hold_are_refused(bundle: ModelBundle, tmp_path: Path) -> None:
    with torch.no_grad():
        bundle.model.mask_decoder.class_embed.bias[0] = 1e6
    with pytest.raises(OutmaskError, match=r"mask_decoder\.class_embed\.bias holds values that .*float16 can't"):
        save_folder(bundle, tmp_path / "mine", dtype=torch.float16)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(OutmaskError, match="float32 or float16, got torch.bfloat16"):
        save_folder(bundle, tmp_path / "mine", dtype=torch.bfloat16)


def test_damaged_weights_are_noticed(bundle: ModelBundle, tmp_path: Path) -> None:
    save_folder(bundle, tmp_path / "mine")
    weights = tmp_path / "mine" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-3] ^= 1
    weights.write_bytes(content)
    with pytest.raises(OutmaskError, match="damaged, its sha256 is [0-9a-f]{64}, expected [0-9a-f]{64}"):
        load_folder(tmp_path / "mine")
    weights.unlink()
    with pytest.raises(OutmaskError, match=r"no model\.safetensors"):
        load_folder(tmp_path / "mine")


def rewrite(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    config = json.loads((path / "config.json").read_text())
    change(config)
    (path / "config.json").write_text(json.dumps(config))


def test_weights_that_do_not_fit_are_listed(bundle: ModelBundle, tmp_path: Path) -> None:
    path = tmp_path / "mine"
    save_folder(bundle, path)
    state = load_file(path / "model.safetensors")
    del state["mask_decoder.class_embed.bias"]
    state["head.weight"] = torch.zeros(2)
    state["mask_decoder.query_feat"] = torch.zeros(6, 32)
    save_file(state, path / "model.safetensors")
    with pytest.raises(OutmaskError, match="damaged"):
        load_folder(path)
    digest = folder_module._sha256(path / "model.safetensors")
    rewrite(path, lambda config: config["hashes"].update({"model.safetensors": digest}))
    with pytest.raises(OutmaskError) as caught:
        load_folder(path)
    message = str(caught.value)
    assert "missing: mask_decoder.class_embed.bias" in message
    assert "unexpected: head.weight" in message
    assert "mask_decoder.query_feat is 6x32, expected 5x32" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda config: config.pop("taxonomy"), "lacks the entry 'taxonomy'"),
        (lambda config: config["hashes"].clear(), "lacks the entry 'model.safetensors'"),
        (lambda config: config.update(outmask_format=2), "expected 'outmask_format' 1, got 2"),
        (lambda config: config["architecture"].update(dim=48), "dim must be a multiple of 32"),
        (lambda config: config["architecture"].update(colour=1), "unexpected keyword argument 'colour'"),
        (
            lambda config: config["architecture"].update(num_classes=6),
            "model has 6 classes, its taxonomy 7|another shape",
        ),
        (lambda config: config["preprocessing"].update(std=[0, 1, 1]), "std above 0"),
        (lambda config: config["taxonomy"].update(colors=[]), "colors must have one entry"),
    ],
)
def test_a_config_that_is_wrong_is_one_line(
    bundle: ModelBundle, tmp_path: Path, change: Callable[[dict[str, Any]], Any], complaint: str
) -> None:
    save_folder(bundle, tmp_path / "mine")
    rewrite(tmp_path / "mine", change)
    with pytest.raises(OutmaskError, match=complaint) as caught:
        load_folder(tmp_path / "mine")
    assert "\n" not in str(caught.value)


def test_a_folder_is_replaced_whole(bundle: ModelBundle, tmp_path: Path) -> None:
    path = tmp_path / "mine"
    save_folder(bundle, path)
    (path / "leftover.txt").write_text("of the old model")
    save_folder(replace(bundle, licence="MIT"), path)
    assert load_folder(path).licence == "MIT"
    assert sorted(entry.name for entry in tmp_path.rglob("*")) == ["config.json", "mine", "model.safetensors"]


@pytest.mark.parametrize("room", [0, 50_000])
def test_a_full_disk_leaves_the_old_folder_and_nothing_else(
    bundle: ModelBundle, tmp_path: Path, small_disk: Callable[[int], AbstractContextManager[None]], room: int
) -> None:
    path = tmp_path / "mine"
    save_folder(bundle, path)
    assert (path / "model.safetensors").stat().st_size > 50_000
    with small_disk(room), pytest.raises(OutmaskError, match=f"{path}: can't be written .*large") as caught:
        save_folder(replace(bundle, licence="MIT"), path)
    assert "\n" not in str(caught.value)
    assert load_folder(path).licence == "research use"
    assert list(tmp_path.iterdir()) == [path]


def test_others_can_read_what_was_saved(bundle: ModelBundle, tmp_path: Path) -> None:
    """As far as the process's umask lets them."""
    before = os.umask(0o022)
    try:
        save_folder(bundle, tmp_path / "mine")
    finally:
        os.umask(before)
    assert {oct(file.stat().st_mode)[-3:] for file in (tmp_path / "mine").iterdir()} == {"644"}


def test_what_is_no_model_folder_is_not_overwritten(bundle: ModelBundle, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "config.json").write_text('{"model_type": "mask2former"}')
    (tmp_path / "file").write_text("text")
    for name in ("photos", "file"):
        with pytest.raises(OutmaskError, match="is no model folder of outmask"):
            save_folder(bundle, tmp_path / name)
    assert (tmp_path / "file").read_text() == "text"
    (tmp_path / "empty").mkdir()
    save_folder(bundle, tmp_path / "empty")
    assert load_folder(tmp_path / "empty").name == "empty"


def test_a_bundle_whose_parts_disagree_is_refused(bundle: ModelBundle) -> None:
    with pytest.raises(OutmaskError, match="trained: the model has 7 classes, its taxonomy 1"):
        replace(bundle, taxonomy=Taxonomy(("road",), ((0, 0, 0),)))


def test_operating_points_replace_those_of_the_same_scores(bundle: ModelBundle, tmp_path: Path) -> None:
    save_folder(bundle, tmp_path / "m")
    before = json.loads((tmp_path / "m/config.json").read_text())
    store_operating_points(tmp_path / "m", {"eam": {"threshold": -0.5, "origin": "é"}, "am": {"threshold": -1.0}})
    loaded = load_folder(tmp_path / "m")
    assert loaded.operating_points == {"eam": {"threshold": -0.5, "origin": "é"}, "am": {"threshold": -1.0}}
    after = json.loads((tmp_path / "m/config.json").read_text())
    assert {**after, "operating_points": 0} == {**before, "operating_points": 0}
    assert [path.name for path in sorted((tmp_path / "m").iterdir())] == ["config.json", "model.safetensors"]


def test_operating_points_go_into_folders_of_ours_only(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "mask2former"}')
    with pytest.raises(OutmaskError, match="no model folder of outmask's: it has no place"):
        store_operating_points(tmp_path, {})


def test_a_config_that_cannot_be_written_stays_as_it_was(
    bundle: ModelBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_folder(bundle, tmp_path / "m")
    before = (tmp_path / "m/config.json").read_bytes()

    def full(self: Path, *arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OutmaskError, match="No space left on device"):
        store_operating_points(tmp_path / "m", {"am": {"threshold": -1.0}})
    assert (tmp_path / "m/config.json").read_bytes() == before


@pytest.mark.parametrize("outlier_head", [False, True])
def test_a_per_pixel_model_is_kept_like_any_other(bundle: ModelBundle, tmp_path: Path, outlier_head: bool) -> None:
    torch.manual_seed(1)
    shared = {name: SMALL[name] for name in ("num_classes", "backbone", "dim", "num_heads", "encoder_layers")}
    model = PerPixel(PerPixelConfig(**shared, outlier_head=outlier_head)).eval()
    save_folder(replace(bundle, model=model), tmp_path / "m")
    segmenter = load(tmp_path / "m")
    image = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    result = segmenter.predict(image, score="void" if outlier_head else "entropy")
    assert result.score.shape == (40, 56)
    with pytest.raises(OutmaskError, match="eam.*entropy"):
        segmenter.predict(image, score="eam")


def test_a_model_that_was_prepared_for_inference_is_not_saved(bundle: ModelBundle, tmp_path: Path) -> None:
    resnet = {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [16, 24, 32, 40], "depths": [1, 1, 1, 1]}
    model = build_architecture({**SMALL, "backbone": resnet})
    save_folder(replace(bundle, model=model), tmp_path / "m")
    before = (tmp_path / "m/config.json").read_bytes()
    with pytest.raises(OutmaskError, match="folded for inference"):
        save_folder(replace(bundle, model=load(tmp_path / "m").model), tmp_path / "m")
    assert (tmp_path / "m/config.json").read_bytes() == before
