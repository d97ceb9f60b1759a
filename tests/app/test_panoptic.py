"""``outmask predict --task panoptic`` and ``outmask evaluate --unknown``: files that fit each other, and refusals."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from torch import Tensor

import outmask
from outmask import scores
from outmask.app.cli import main
from outmask.data.coco import ids_to_rgb
from outmask.data.coco_classes import COCO_OPEN_PANOPTIC, COCO_PANOPTIC, UNKNOWN_CLASSES
from outmask.data.images import read_image
from outmask.models import Mask2Former, Mask2FormerConfig
from outmask.openset import inference
from outmask.openset.panoptic import open_set_panoptic
from outmask.preprocessing import Preprocessing
from outmask.segmenter import Segmenter
from outmask.types import MaskPrediction, OpenSetResult, Taxonomy

TAXONOMY = COCO_OPEN_PANOPTIC[20]
PERSON, ROAD = (TAXONOMY.names.index(name) for name in ("person", "road"))


class Seer:
    """Calls dark pixels road, bright ones a person, and grey ones nothing."""

    name = "street"
    taxonomy = TAXONOMY

    def __init__(self) -> None:
        self.operating_points = {"eam": {"threshold": -0.5, "origin": "a test"}}
        self.before_each: Callable[[int], None] = lambda call: None
        self.calls = 0

    def masks_and_maps(
        self, image: Any, names: Sequence[str], size: tuple[int, int], *options: Any
    ) -> tuple[MaskPrediction, dict[str, Tensor]]:
        grey = torch.from_numpy(read_image(image)).float().mean(2)
        class_logits = torch.zeros(1, 3, TAXONOMY.num_classes + 1)
        class_logits[0, (0, 1, 2), (ROAD, PERSON, TAXONOMY.num_classes)] = 20
        held = torch.stack([grey < 50, grey > 200, (grey >= 50) & (grey <= 200)])
        prediction = MaskPrediction(class_logits, torch.where(held, 9.0, -9.0)[None])
        return prediction, scores.evaluate(prediction, names, size)

    def predict(
        self, image: Any, task: str, score: str, threshold: float | None, unknown: Any, **options: Any
    ) -> OpenSetResult:
        self.before_each(self.calls)
        self.calls += 1
        pixels = read_image(image)
        masks, maps = self.masks_and_maps(pixels, [score], pixels.shape[:2])
        anomaly = maps[score][0].numpy()
        found = open_set_panoptic(masks, TAXONOMY, anomaly, -0.5, unknown)
        labels = maps["labels"][0].numpy().astype(np.int32)
        result = OpenSetResult(pixels, anomaly, labels, TAXONOMY, score, (-1.0, 0.0), threshold)
        return replace(result, panoptic=found.ids, segments=found.segments)


@pytest.fixture
def seer(monkeypatch: pytest.MonkeyPatch) -> Seer:
    fake = Seer()
    monkeypatch.setattr(outmask, "load", lambda name, runtime=None: fake, raising=False)
    return fake


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """COCO's layout, of which nothing is missing but the rest: road, a person, two bears of 400 and 500 pixels."""
    ids = np.full((40, 60), 7, np.int32)
    ids[:, :20], ids[5:25, 25:45], ids[30:40, 10:60] = 8, 9, 1000
    values = np.select([ids == 7, ids == 8], [10, 250], 120).astype(np.uint8)
    root = tmp_path / "coco"
    for folder in ("val2017", "annotations/panoptic_val2017"):
        (root / folder).mkdir(parents=True)
    Image.fromarray(np.dstack([values] * 3)).save(root / "val2017/000000000139.jpg", quality=100)
    Image.fromarray(ids_to_rgb(ids)).save(root / "annotations/panoptic_val2017/000000000139.png")
    category = dict(zip(COCO_PANOPTIC.names, COCO_PANOPTIC.evaluation_ids, strict=True))
    segments = [
        {"id": id_, "category_id": category[name], "iscrowd": 0}
        for id_, name in ((7, "road"), (8, "person"), (9, "bear"), (1000, "bear"))
    ]
    listing = {
        "images": [{"id": 139, "file_name": "000000000139.jpg"}],
        "annotations": [{"image_id": 139, "file_name": "000000000139.png", "segments_info": segments}],
        "categories": [
            {"id": category[name], "name": name, "isthing": int(thing)}
            for name, thing in zip(COCO_PANOPTIC.names, COCO_PANOPTIC.things or (), strict=True)
        ],
    }
    (root / "annotations/panoptic_val2017.json").write_text(json.dumps(listing))
    assert "bear" in UNKNOWN_CLASSES[20]
    return root


def evaluate(root: Path, *arguments: object) -> int:
    return main(["evaluate", "--benchmark", "coco_open_panoptic", "--root", str(root), *map(str, arguments)])


def test_what_predict_writes_is_what_evaluate_measures(
    seer: Seer, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["predict", f"{root}/val2017", "--task", "panoptic", "--unknown", "components", "--out", str(out)]) == 0
    files = {path.name for path in out.iterdir()}
    assert files == {
        *(f"000000000139{end}" for end in ("_panoptic.png", "_segments.json", "_segments.jpg")),
        *(f"000000000139{end}" for end in ("_score.npy", "_score.png", "_overlay.jpg")),
        *("panoptic.json", "instances.json", "results.json"),
    }
    results = json.loads((out / "results.json").read_text())
    assert (results["task"], results["unknown"]) == ("panoptic", "components")
    assert (results["images"][0]["segments"], results["images"][0]["unknown_objects"]) == (4, 2)
    areas = [each["area"] for each in COCO(str(out / "instances.json")).anns.values()]
    assert sorted(areas) == [400, 500]

    capsys.readouterr()
    assert evaluate(root, "--predictions", out, "--json", tmp_path / "files.json") == 0
    assert evaluate(root, "--unknown", "components,mining", "--json", tmp_path / "model.json") == 0
    lines = capsys.readouterr().out.splitlines()
    of_files = json.loads((tmp_path / "files.json").read_text())["panoptic"]
    components, mining = json.loads((tmp_path / "model.json").read_text())["segments"]
    assert components["panoptic"] == of_files
    assert of_files["PQ_unknown"] > 90  # JPEG's edges
    assert (components["threshold"], components["origin"]) == (-0.5, "a test")
    row = next(line for line in lines if "components" in line and "eam" in line)
    for name in ("PQ", "PQ_known", "PQ_unknown", "SQ_unknown", "RQ_unknown"):
        assert f" {of_files[name]:.2f} " in row
    assert "threshold" not in mining
    assert any("mining" in line and " - " in line for line in lines)


def test_a_resumed_run_lists_what_was_there_already(seer: Seer, tmp_path: Path) -> None:
    for name in "abc":
        Image.new("RGB", (20, 20), (120, 120, 120)).save(tmp_path / f"{name}.png")
    command = ["predict", *(str(tmp_path / f"{name}.png") for name in "abc"), "--task", "panoptic"]
    command += ["--out", str(tmp_path / "out")]

    def interrupt(call: int) -> None:
        if call == 2:
            raise KeyboardInterrupt

    seer.before_each = interrupt
    assert main(command) == 130
    seer.before_each = lambda call: None

    def stems() -> list[str]:
        listing = json.loads((tmp_path / "out/panoptic.json").read_text())
        return [annotation["image_id"] for annotation in listing["annotations"]]

    assert stems() == ["a", "b"]
    assert main([*command, "--resume"]) == 0
    assert stems() == ["a", "b", "c"]
    assert main([*command, "--unknown", "mining", "--resume"]) == 2


def test_a_window_that_covers_the_image_is_the_whole_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    config = Mask2FormerConfig(2, "mobilenet_v2", dim=32, num_heads=2, encoder_layers=1, num_queries=4)
    classes = Taxonomy(("road", "car"), ((0, 0, 0), (0, 0, 255)), (False, True))
    tiny = Segmenter(Mask2Former(config).eval(), classes, Preprocessing(short_side=None), "tiny")
    monkeypatch.setattr(outmask, "load", lambda name, runtime=None: tiny, raising=False)
    for name, size in (("fits", (48, 32)), ("wider", (49, 32)), ("higher", (48, 33))):
        Image.new("RGB", size, (120, 90, 60)).save(tmp_path / f"{name}.png")
    command = ["predict", *map(str, sorted(tmp_path.glob("*.png"))), "--task", "panoptic", "--threshold", "-1"]

    out = tmp_path / "out"
    assert main([*command, "--window", "32x48", "--out", str(out)]) == 1
    refused = capsys.readouterr().err.splitlines()
    assert [name for line in refused for name in ("fits", "higher", "wider") if f"{name}.png: " in line] == [
        "higher",
        "wider",
    ]
    assert all("choose a window that covers it" in line for line in refused)
    listing = json.loads((out / "panoptic.json").read_text())
    assert [annotation["image_id"] for annotation in listing["annotations"]] == ["fits"]

    # Without a window, images of more than so many pixels are refused.
    monkeypatch.setattr(inference, "MOST_PIXELS", 1000)
    assert main([*command, "--out", str(tmp_path / "none")]) == 1
    assert not (tmp_path / "none/fits_panoptic.png").exists()
    assert main([*command, "--window", "33x49", "--out", str(tmp_path / "all")]) == 0
    for end in ("_panoptic.png", "_score.npy"):
        assert (tmp_path / f"all/fits{end}").read_bytes() == (out / f"fits{end}").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predict", "x.png", "--unknown", "mining", "--out", "out"], "--unknown says how --task panoptic finds"),
        (["predict", "x.png", "--task", "panoptic", "--unknown", "minning", "--out", "out"], "--unknown"),
        (["evaluate", "--unknown", "minning"], "cannot be found by 'minning': choose from preferred_mask, mining"),
        (["evaluate", "--unknown", "mining", "--border", "3"], "--border would have no effect"),
        (["evaluate", "--unknown", "mining", "--predictions", "."], "--unknown would have no effect"),
        (["evaluate", "--unknown", "components", "--score", "am"], "no operating point for 'am'"),
    ],
)
def test_bad_usage_is_one_line(
    seer: Seer, root: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    if arguments[0] == "evaluate":
        arguments = [*arguments, "--benchmark", "coco_open_panoptic", "--root", str(root)]
    assert main(arguments) == 2
    *warnings, told = capsys.readouterr().err.splitlines()
    assert message in told
    assert all("the published set has 5000" in warning for warning in warnings)
