"""What ``load_bundle`` takes its source for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import SegformerConfig, SegformerForSemanticSegmentation

from outmask import weights
from outmask.checkpoints import ModelBundle, load_bundle, save_folder
from outmask.checkpoints.bundle import distinct_colors, nameless_taxonomy
from outmask.data.taxonomies import CITYSCAPES
from outmask.errors import OutmaskError
from outmask.models import Mask2Former, Mask2FormerConfig
from outmask.preprocessing import Preprocessing
from outmask.types import PixelPrediction


def tiny_bundle() -> ModelBundle:
    torch.manual_seed(0)
    backbone = {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 8, 8, 8], "depths": [1, 1, 1, 1]}
    settings: dict[str, Any] = {"dim": 32, "num_heads": 1, "encoder_layers": 1, "num_queries": 2, "decoder_layers": 1}
    model = Mask2Former(Mask2FormerConfig(2, backbone, **settings))
    return ModelBundle(model, nameless_taxonomy(2), Preprocessing(), "CC0-1.0", {}, "tiny")


def test_a_bundled_name_comes_before_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "FOLDER", tmp_path / "weights")
    monkeypatch.chdir(tmp_path)
    assert weights.bundled_models() == []
    save_folder(tiny_bundle(), tmp_path / "weights" / "street")
    other = tiny_bundle()
    other.licence = "of the folder"
    save_folder(other, tmp_path / "street")
    assert weights.bundled_models() == ["street"]
    assert load_bundle("street").licence == "CC0-1.0"
    assert load_bundle("street").name == "street"
    assert load_bundle("./street").licence == "of the folder"


@pytest.mark.parametrize("source", ["streets", "no/such/folder", "missing.pth", "models/missing.pkl", "", "a b/c"])
def test_an_unknown_source_names_what_is_there(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "FOLDER", tmp_path / "weights")
    monkeypatch.chdir(tmp_path)
    save_folder(tiny_bundle(), tmp_path / "weights" / "street")
    with pytest.raises(OutmaskError) as caught:
        load_bundle(source)
    message = str(caught.value)
    assert "\n" not in message
    if source:  # the empty path is the folder one stands in
        assert f"unknown model {source!r}: expected a bundled model (street)" in message


def test_folders_and_files_of_another_kind_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(OutmaskError, match=r"no config\.json in it"):
        load_bundle(str(tmp_path / "empty"))
    for number, (text, complaint) in enumerate(
        [
            ("{", "not readable as JSON"),
            ("[]", "expected a JSON object"),
            ('{"model_type": "bert"}', "model type 'bert'"),
        ]
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "config.json").write_text(text)
        with pytest.raises(OutmaskError, match=complaint) as caught:
            load_bundle(str(folder))
        assert "\n" not in str(caught.value)
    (tmp_path / "weights.onnx").write_text("")
    with pytest.raises(OutmaskError, match="is no checkpoint: expected a"):
        load_bundle(str(tmp_path / "weights.onnx"))


def test_a_file_that_names_no_classes_gets_a_taxonomy_by_their_number() -> None:
    assert nameless_taxonomy(19) is CITYSCAPES
    assert nameless_taxonomy(3).names == ("class 0", "class 1", "class 2")
    for count in (1, 254, 255, 256, 1000):  # 255, which is void otherwise, may be a class or the unknown
        taxonomy = nameless_taxonomy(count)
        assert taxonomy.unknown_id == count
        assert taxonomy.void_id > taxonomy.num_classes - 1


def test_made_up_colours_differ() -> None:
    colors = distinct_colors(150)
    assert len(set(colors)) == 150
    assert colors[:10] == distinct_colors(10)


def test_a_semantic_segmentation_folder_of_transformers_is_a_per_pixel_model(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = SegformerConfig(
        hidden_sizes=[8, 8, 16, 16], depths=[1] * 4, num_attention_heads=[1] * 4, decoder_hidden_size=16,
        id2label={0: "road", 1: "sky"}, label2id={"road": 0, "sky": 1},
    )  # fmt: skip
    theirs = SegformerForSemanticSegmentation(config).eval()
    theirs.save_pretrained(tmp_path / "segformer")
    bundle = load_bundle(str(tmp_path / "segformer"))
    assert bundle.taxonomy.names == ("road", "sky")
    pixels = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        prediction = bundle.model(pixels)
        assert isinstance(prediction, PixelPrediction)
        torch.testing.assert_close(prediction.logits, theirs(pixels).logits)
