"""Scenes of the world as files, in COCO's panoptic format."""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
from pathlib import Path

import cv2

from outmask.data.coco import ids_to_rgb
from outmask.data.world.samples import CATEGORIES, SIZE, SPLITS, scene_name
from outmask.data.world.scenes import World, WorldScene
from outmask.errors import OutmaskError

_log = logging.getLogger(__name__)

LISTING = "panoptic.json"


def write_split(root: Path, split: str, size: tuple[int, int] = SIZE) -> Path:
    """Draw the scenes of a split below ``root``, unless they lie there already.

    The folder appears once it is whole, whoever else draws it at the same time.

    Args:
        root: a folder; made where there is none.
        split: one of ``SPLITS``.
        size: ``(H, W)`` of the scenes.

    Returns:
        ``root/SPLIT``, which holds ``images/X.jpg``, ``panoptic/X.png`` and ``panoptic.json``.

    Raises:
        OutmaskError: on an unknown split, or a folder that can't be written.
    """
    if split not in SPLITS:
        raise OutmaskError(f"the world has no split {split!r}: choose from {', '.join(SPLITS)}")
    folder = root / split
    if (folder / LISTING).is_file():
        return folder
    _log.info("drawing the %d scenes of %s below %s", len(SPLITS[split].scenes()), split, root)
    part: Path | None = None
    try:
        root.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f".{split}-", dir=root))
        _write(part, split, size)
        part.replace(folder)
    except OSError as error:
        if not (folder / LISTING).is_file():  # another process may have been faster
            raise OutmaskError(f"can't write the world's scenes to {folder}: {error}") from error
    finally:
        if part is not None:
            shutil.rmtree(part, ignore_errors=True)
    return folder


def _write(folder: Path, split: str, size: tuple[int, int]) -> None:
    for name in ("images", "panoptic"):
        (folder / name).mkdir()
    images, annotations = [], []
    worlds = {town: World(town, SPLITS[split].unknowns) for town in SPLITS[split].towns}
    for number, (town, index) in enumerate(SPLITS[split].scenes(), 1):
        name, scene = scene_name(town, index), worlds[town].scene(index, size)
        (folder / "images" / f"{name}.jpg").write_bytes(scene.jpeg)
        _, png = cv2.imencode(".png", ids_to_rgb(scene.panoptic)[..., ::-1])
        (folder / "panoptic" / f"{name}.png").write_bytes(png.tobytes())
        images.append({"id": number, "file_name": f"{name}.jpg", "height": size[0], "width": size[1]})
        annotations.append({"image_id": number, "file_name": f"{name}.png", "segments_info": _segments_info(scene)})
    listing = {"images": images, "annotations": annotations, "categories": list(CATEGORIES)}
    (folder / LISTING).write_text(json.dumps(listing), encoding="utf-8")


def _segments_info(scene: WorldScene) -> list[dict[str, object]]:
    return [
        {
            "id": segment.id,
            "category_id": segment.class_id,
            "area": segment.area,
            "bbox": list(segment.bbox),
            "iscrowd": 0,
            **({"family": scene.families[segment.id]} if segment.is_unknown else {}),
        }
        for segment in scene.segments
    ]
