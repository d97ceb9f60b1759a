"""Miniature trees in the published layouts of the benchmarks, written as their archives unpack; made-up scores."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import ArrayLike
from PIL import Image

CITY = "04_Maurener_Weg_8"


class Trees:
    """Writes below ``root``; every method returns the folder that ``--root`` would name."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def png(self, path: str, values: ArrayLike, dtype: Any = np.uint8) -> Path:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.asarray(values, dtype)).save(file)
        return file

    def image(self, path: str, size: tuple[int, int] = (3, 2)) -> Path:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size).save(file)
        return file

    def plain(self, labels: ArrayLike, folder: str = "labels_masks", dtype: Any = np.uint8) -> Path:
        """``images/{a.jpg,b.png}`` and the same values for both."""
        for name in ("a.jpg", "b.png"):
            self.image(f"images/{name}")
            self.png(f"{folder}/{Path(name).stem}.png", labels, dtype)
        return self.root

    def road_anomaly(self) -> Path:
        """Objects are numbered in x, not in y."""
        for name in ("x.jpg", "y.webp"):
            self.image(f"frames/{name}")
            self.png(f"frames/{Path(name).stem}.labels/labels_semantic.png", [[0, 2, 0], [2, 2, 0]])
        self.png("frames/x.labels/labels_instance.png", [[0, 1, 0], [3, 3, 0]])
        (self.root / "frame_list.json").write_text(json.dumps(["x.jpg", "y.webp"]))
        return self.root

    def smiyc(self, dataset: str, names: Iterable[str], labelled: Iterable[str], suffix: str) -> Path:
        for name in names:
            self.image(f"{dataset}/images/{name}{suffix}")
        for name in labelled:
            self.png(f"{dataset}/labels_masks/{name}_labels_semantic.png", [[0, 1, 255], [1, 0, 0]])
            self.image(f"{dataset}/labels_masks/{name}_labels_semantic_color.png")
        return self.root

    def lost_and_found_image(self, name: str, split: str = "test", root: str = ".") -> Path:
        scene = name.rsplit("_", 2)[0]
        return self.image(f"{root}/leftImg8bit/{split}/{scene}/{name}_leftImg8bit.png", (64, 32))

    def lost_and_found(self, names: Iterable[str], split: str = "test", empty: Iterable[str] = ()) -> Path:
        """Road in the left half, object 5 and two of class 9 in the middle; ``empty`` names have labels of zeros."""
        labels, instances = np.zeros((32, 64), int), np.zeros((32, 64), int)
        labels[:, :32] = instances[:, :32] = 1
        for rows, class_, number in ((slice(0, 4), 5, 0), (slice(8, 12), 9, 0), (slice(20, 24), 9, 1)):
            labels[rows, 28:36], instances[rows, 28:36] = class_, 1000 * class_ + number
        for name in [*names, *empty]:
            self.lost_and_found_image(name, split)
            stem = f"gtCoarse/{split}/{name.rsplit('_', 2)[0]}/{name}_gtCoarse"
            self.png(f"{stem}_labelIds.png", labels * (name not in empty))
            self.png(f"{stem}_instanceIds.png", instances * (name not in empty), np.uint16)
        return self.root

    def fs_lost_and_found(self) -> Path:
        for number, (name, split) in enumerate(((f"{CITY}_000000_000030", "train"), (f"{CITY}_000001_000090", "test"))):
            self.lost_and_found_image(name, split)
            self.png(f"fishyscapes_lostandfound/{number:04}_{name}_labels.png", [[0, 1, 255], [1, 0, 0]])
        return self.root

    def fs_static(self) -> Path:
        for name in ("0000_frankfurt_000001_046504", "0001_munster_000012_000019"):
            self.image(f"{name}_rgb.jpg")
            self.png(f"{name}_labels.png", [[0, 1, 255], [1, 0, 0]])
        return self.root

    def streethazards(self, ids: ArrayLike) -> Path:
        files = [("test", "test", "t5", 2), ("test", "test", "t6", 1), ("train", "validation", "t3", 1)]
        for part, split, town, count in files:
            for number in range(count):
                self.image(f"{part}/images/{split}/{town}/{number}.png")
                self.png(f"{part}/annotations/{split}/{town}/{number}.png", ids)
        return self.root

    def cityscapes(self, ids: ArrayLike) -> Path:
        self.image("leftImg8bit/val/frankfurt/frankfurt_000000_000294_leftImg8bit.png")
        self.png("gtFine/val/frankfurt/frankfurt_000000_000294_gtFine_labelIds.png", ids)
        return self.root

    def camvid(self, ids: ArrayLike) -> Path:
        self.image("test/0001TP_008550.png")
        self.png("testannot/0001TP_008550.png", ids)
        return self.root

    def idd_lite(self, ids: ArrayLike) -> Path:
        self.image("leftImg8bit/val/119/000000_image.jpg")
        self.png("gtFine/val/119/000000_label.png", ids)
        return self.root

    def coco_panoptic(
        self,
        ids: ArrayLike,
        segments: list[dict[str, Any]],
        categories: list[dict[str, Any]],
        names: tuple[str, str, str] = ("annotations/panoptic_val2017.json", "annotations/panoptic_val2017", "val2017"),
    ) -> Path:
        """One image; ``names`` are those of the JSON, the folder of PNGs and the folder of images."""
        listing, segmentations, images = names
        self.image(f"{images}/000000000139.jpg")
        colors = np.asarray(ids)[..., None] // np.array([1, 256, 65536]) % 256
        self.png(f"{segmentations}/000000000139.png", colors)
        annotation = {
            "images": [{"id": 139, "file_name": "000000000139.jpg"}],
            "annotations": [{"image_id": 139, "file_name": "000000000139.png", "segments_info": segments}],
            "categories": categories,
        }
        (self.root / listing).parent.mkdir(exist_ok=True)
        (self.root / listing).write_text(json.dumps(annotation))
        return self.root

    def oodis(self, ids: ArrayLike) -> Path:
        name = f"{CITY}_000000_000030"
        self.lost_and_found_image(name, "test", "fs_lost_found")
        self.png(f"fs_lost_found_instance/gtCoarse/test/{CITY}/{name}_gtCoarse_instanceIds.png", ids, np.uint16)
        return self.root


@pytest.fixture
def trees(tmp_path: Path) -> Trees:
    return Trees(tmp_path)


ScoreMaker = Callable[[str, int, float, np.random.Generator], tuple[np.ndarray, np.ndarray]]


@pytest.fixture(scope="session")
def make_scores() -> ScoreMaker:
    """Scores of a kind, distributed as this project's are, and labels, so many and such a share of them anomalies.

    The draws are those of the script in ``docs/submitting.md``, in its order.
    """

    def sigmoid(x: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-x))

    def make(kind: str, count: int, share: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        label = (rng.random(count) < share).astype(np.uint8)

        def logits(anomaly: tuple[float, float], known: tuple[float, float]) -> np.ndarray:
            return np.where(label == 1, rng.normal(*anomaly, count), rng.normal(*known, count))

        def saturated() -> np.ndarray:
            return -sigmoid(logits((3.5, 2.5), (9, 1.5)))

        def second_mask(frequency: float) -> np.ndarray:
            """What another mask over the pixel adds to a sum of masks."""
            return np.where(rng.random(count) < frequency, sigmoid(rng.normal(-2, 2.5, count)), 0)

        score = {
            "saturated": saturated,
            "more saturated": lambda: -sigmoid(logits((6, 4), (14, 3))),
            "as EAM": lambda: -sigmoid(logits((2, 2), (8, 2))) - second_mask(0.55),
            "as M2A": lambda: 1 + saturated() - second_mask(0.3),
            "as unclaimed": lambda: -np.log1p(np.exp(logits((1.5, 2.5), (7, 2)))),
            "as the energies": lambda: logits((-8, 3), (-15, 2.5)),
            "smooth": lambda: logits((1.5, 1), (0, 1)),
            "constant": lambda: np.full(count, -1.0),
        }[kind]()
        return score.astype(np.float32), label

    return make
