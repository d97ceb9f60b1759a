"""What a Fishyscapes container writes."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import outmask
from outmask.checkpoints.bundle import plain_taxonomy
from outmask.errors import OutmaskError
from outmask.evaluation.fishyscapes import write_fishyscapes
from outmask.types import MaskPrediction


class Model:
    """Masks made of the image's own values."""

    name = "a test's model"

    def __init__(self, classes: int = 19) -> None:
        self.classes = classes
        self.taxonomy = plain_taxonomy([f"class {index}" for index in range(classes)])

    def maps(
        self, image: np.ndarray, names: Sequence[str], size: tuple[int, int], *options: object
    ) -> dict[str, torch.Tensor]:
        return outmask.scores.evaluate(self.prediction(image), names, size)

    def prediction(self, image: np.ndarray) -> MaskPrediction:
        grey = torch.tensor(image[::4, ::4].mean(axis=2) / 32 - 4)
        random = torch.Generator().manual_seed(0)
        class_logits = 3 * torch.randn(1, 6, self.classes + 1, generator=random)
        return MaskPrediction(class_logits, grey * torch.linspace(-1, 1, 6).reshape(1, 6, 1, 1))


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    """As Fishyscapes mounts it, out of order; beside the images what its validation folder also holds."""
    folder = tmp_path / "input"
    folder.mkdir()
    rng = np.random.default_rng(10)
    for name, size in (("0010_b_rgb.png", (20, 12)), ("0002_a_rgb.png", (16, 8)), ("0000_c_rgb.jpg", (5, 7))):
        Image.fromarray(rng.integers(0, 256, (*size[::-1], 3), np.uint8)).save(folder / name)
    Image.new("L", (16, 8)).save(folder / "0002_a_labels.png")
    (folder / "0003_notes.txt").write_text("no image")
    Image.new("L", (16, 8)).save(folder / "readme.png")
    return folder


def test_each_input_becomes_a_score_and_a_segmentation_of_its_size(inputs: Path, tmp_path: Path) -> None:
    output, model = tmp_path / "output", Model()
    files = write_fishyscapes(inputs, output, model, "eam")
    assert sorted(output.iterdir()) == sorted(files)
    assert [path.name for path in files] == [
        f"{number}_{what}.npy" for number in ("0000", "0002", "0010") for what in ("anomaly", "segmentation")
    ]
    image = np.array(Image.open(inputs / "0002_a_rgb.png"))
    maps = outmask.scores.evaluate(model.prediction(image), ["eam"], (8, 16))
    score, segmentation = np.load(output / "0002_anomaly.npy"), np.load(output / "0002_segmentation.npy")
    assert (score.dtype, segmentation.dtype) == (np.float32, np.int32)
    np.testing.assert_array_equal(score, maps["eam"][0])
    np.testing.assert_array_equal(segmentation, maps["labels"][0])
    assert np.load(output / "0000_anomaly.npy").shape == np.load(output / "0000_segmentation.npy").shape == (7, 5)


def test_a_model_of_other_classes_is_used_with_one_warning(
    inputs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_fishyscapes(inputs, tmp_path / "output", Model(classes=11))
    assert [record.getMessage().split(":")[0] for record in caplog.records] == [
        "the model has 11 classes, Cityscapes has 19"
    ]
    caplog.clear()
    write_fishyscapes(inputs, tmp_path / "output", Model(classes=19))
    assert not caplog.records


def test_what_a_container_cannot_do_is_said_in_one_line(inputs: Path, tmp_path: Path) -> None:
    output = tmp_path / "output"
    with pytest.raises(OutmaskError, match="unknown score 'eem'"):
        write_fishyscapes(inputs, output, Model(), "eem")
    with pytest.raises(OutmaskError, match="nowhere: no such folder"):
        write_fishyscapes(tmp_path / "nowhere", output, Model())
    (tmp_path / "empty").mkdir()
    with pytest.raises(OutmaskError, match="empty holds no input; expected images called NUMBER_"):
        write_fishyscapes(tmp_path / "empty", output, Model())
    assert not output.exists()
    (inputs / "0002_d_rgb.png").write_bytes((inputs / "0002_a_rgb.png").read_bytes())
    with pytest.raises(OutmaskError, match="share a number"):
        write_fishyscapes(inputs, output, Model())
