"""Small trees of each source's layout, whose objects are told apart by their grey values."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

CATEGORIES = ("person", "bicycle", "car", "motorcycle", "bus", "truck", "traffic light", "stop sign", "zebra", "cake")


@pytest.fixture
def davis() -> Callable[..., Path]:
    def make(root: Path, frames: dict[str, int]) -> Path:
        """Frames of 12x16 whose object is a 4x6 block of one grey value."""
        for folder in ("images", "masks"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        for stem, value in frames.items():
            image, mask = np.zeros((12, 16, 3), np.uint8), np.zeros((12, 16), np.uint8)
            image[5:9, 7:13], mask[5:9, 7:13] = value, 255
            Image.fromarray(image).save(root / f"images/{stem}.png")
            Image.fromarray(mask).save(root / f"masks/{stem}.png")
        return root

    return make


@pytest.fixture
def coco() -> Callable[..., tuple[Path, Path]]:
    def make(root: Path, images: dict[int, list[dict[str, Any]]]) -> tuple[Path, Path]:
        """Images of 40x60 in which each instance, 8x10 at its own x, has its own grey value."""
        entries, annotations = [], []
        for number, instances in images.items():
            pixels = np.zeros((40, 60, 3), np.uint8)
            for instance in instances:
                x, value = instance["x"], instance["value"]
                pixels[4:12, x : x + 10] = value
                annotations.append(
                    {
                        "image_id": number,
                        "category_id": CATEGORIES.index(instance["name"]) + 1,
                        "iscrowd": instance.get("iscrowd", 0),
                        "area": 80,
                        "segmentation": [[x, 4, x + 10, 4, x + 10, 12, x, 12]],
                    }
                )
            Image.fromarray(pixels).save(root / f"{number}.png")
            entries.append({"id": number, "file_name": f"{number}.png", "height": 40, "width": 60})
        path = root / "instances.json"
        categories = [{"id": index + 1, "name": name} for index, name in enumerate(CATEGORIES)]
        path.write_text(json.dumps({"images": entries, "annotations": annotations, "categories": categories}))
        return path, root

    return make


@pytest.fixture
def label_maps() -> Callable[..., Path]:
    def make(
        root: Path,
        rows: dict[str, list[int]],
        folders: tuple[str, str] = ("images/training", "annotations/training"),
        dtype: Any = np.uint8,
    ) -> Path:
        """Images of 40x60 in n equal bands, one for each id, from top to bottom; the grey value is 10 times the id."""
        for folder in folders:
            (root / folder).mkdir(parents=True, exist_ok=True)
        for stem, ids in rows.items():
            labels = np.repeat(np.repeat(np.array(ids), 40 // len(ids))[:, None], 60, axis=1)
            image = np.repeat((10 * labels % 256)[..., None], 3, axis=-1).astype(np.uint8)
            Image.fromarray(image).save(root / folders[0] / f"{stem}.jpg", quality=100, subsampling=0)
            Image.fromarray(labels.astype(dtype)).save(root / folders[1] / f"{stem}.png")
        return root

    return make


@pytest.fixture
def values() -> Callable[..., set[int]]:
    def make(source: Any, draws: int = 60) -> set[int]:
        """Grey values of the objects that a source gives."""
        rng = np.random.default_rng(0)
        cutouts = [cutout for _ in range(draws) for cutout in source.sample(rng, ())]
        return {int(value) for cutout in cutouts for value in np.unique(cutout.rgb[cutout.mask])}

    return make
