"""Prediction files in COCO's panoptic format."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from outmask.data.coco import ids_to_rgb
from outmask.errors import OutmaskError
from outmask.evaluation import Benchmark, Record, open_benchmark
from outmask.evaluation.benchmarks import UNKNOWN_CLASSES
from outmask.evaluation.panoptic import has_panoptic_predictions, measure_panoptic

NAMES = ["sky", "person", *UNKNOWN_CLASSES[20]]
CATEGORIES = [{"id": 10 + i, "name": name, "isthing": int(i > 0)} for i, name in enumerate(NAMES)]
BEAR, CAR = (10 + NAMES.index(name) for name in ("bear", "car"))
IDS = np.repeat(np.repeat(np.array([[1, 1, 2], [700, 0, 3]]), 8, 0), 8, 1)
SEGMENTS = [{"id": 1, "category_id": 10, "iscrowd": 0}, {"id": 2, "category_id": 11, "iscrowd": 0},
            {"id": 3, "category_id": BEAR, "iscrowd": 0}, {"id": 700, "category_id": CAR, "iscrowd": 0}]  # fmt: skip


@pytest.fixture
def benchmark(trees: Any) -> Benchmark:
    return open_benchmark("coco_open_panoptic", trees.coco_panoptic(IDS, SEGMENTS, CATEGORIES), "20")


def write(folder: Path, ids: np.ndarray, segments: list[dict[str, Any]], pngs: str = "png") -> Path:
    (folder / pngs).mkdir(parents=True, exist_ok=True)
    Image.fromarray(ids_to_rgb(ids)).save(folder / pngs / "000000000139.png")
    entry = {"image_id": 139, "file_name": "000000000139.png", "segments_info": segments}
    (folder / "panoptic.json").write_text(json.dumps({"annotations": [entry]}))
    return folder


@pytest.mark.parametrize("pngs", [".", "panoptic"])
def test_a_perfect_prediction_is_100_whatever_unknown_is_called(
    benchmark: Benchmark, tmp_path: Path, pngs: str
) -> None:
    segments = [{**s, "category_id": CAR if s["category_id"] == BEAR else s["category_id"]} for s in SEGMENTS]
    folder = write(tmp_path / "p", IDS * (IDS < 700) + 9 * (IDS == 700), [{**s, "id": 9 if s["id"] == 700 else s["id"]}
                                                                          for s in segments], pngs)  # fmt: skip
    assert has_panoptic_predictions(folder)
    values = measure_panoptic(benchmark, folder)
    assert (values["benchmark"], values["split"], values["images"]) == ("coco_open_panoptic", "20", 1)
    for name in ("PQ", "PQ_known", "PQ_unknown", "PQ_stuff", "SQ", "RQ"):
        assert values["panoptic"][name] == 100
    assert values["panoptic"]["per_class"]["unknown"]["TP"] == 2


def test_unknown_objects_that_are_not_found_count(benchmark: Benchmark, tmp_path: Path) -> None:
    known = write(tmp_path / "p", np.where(IDS < 3, IDS, 0), SEGMENTS[:2])
    values = measure_panoptic(benchmark, known)["panoptic"]
    assert (values["PQ_known"], values["PQ_unknown"]) == (100, 0)
    assert values["per_class"]["unknown"]["FN"] == 2


def test_what_is_no_prediction_is_named(benchmark: Benchmark, tmp_path: Path) -> None:
    folder = write(tmp_path / "p", IDS, SEGMENTS[:3])
    with pytest.raises(OutmaskError, match="^000000000139: .*700"):
        measure_panoptic(benchmark, folder)
    (folder / "png/000000000139.png").unlink()
    with pytest.raises(OutmaskError, match="no 000000000139.png in"):
        measure_panoptic(benchmark, folder)
    (folder / "panoptic.json").write_text(json.dumps({"annotations": []}))
    with pytest.raises(OutmaskError, match="has no prediction of 000000000139"):
        measure_panoptic(benchmark, folder)
    for text in ("{", "[]", '{"annotations": [{}]}'):
        (folder / "panoptic.json").write_text(text)
        with pytest.raises(OutmaskError, match="is no COCO panoptic listing"):
            measure_panoptic(benchmark, folder)
    with pytest.raises(OutmaskError, match="^folder has no panoptic labels, but"):
        measure_panoptic(Benchmark("folder", "all", (Record("a", np.zeros((2, 2, 3), np.uint8)),)), folder)
    assert not has_panoptic_predictions(tmp_path)
