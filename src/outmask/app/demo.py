"""``outmask demo``: the bundled model on a drawn street, as pictures and a few numbers."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import outmask
from outmask.app import DONE
from outmask.app.scene import draw_scene
from outmask.app.terminal import say
from outmask.metrics import PixelMetrics
from outmask.output.files import save_result, write_image
from outmask.output.pictures import class_map, heat_map, overlay
from outmask.types import OpenSetResult

_MODEL, _SCORE = "street", "eam"


def demo(out: str) -> int:
    """Draw the scene, predict it, write ``demo.png`` and the single pictures into ``out``; returns the exit code.

    Raises:
        OutmaskError: where the model is not there or the folder cannot be written.
    """
    folder = Path(out)
    started = time.monotonic()
    scene = draw_scene()
    drawn = time.monotonic()
    segmenter = outmask.load(_MODEL)
    loaded = time.monotonic()
    result = segmenter.predict(scene.image, score=_SCORE)
    predicted = time.monotonic()

    metrics = PixelMetrics()
    metrics.update(result.score, scene.unknown.astype(np.uint8))
    values = metrics.compute()
    picture = folder / "demo.png"
    write_image(folder / "scene.jpg", scene.image)
    save_result(result, folder, "scene")
    write_image(picture, _combined(result))

    for line in (
        f"picture  {picture}",
        f"model    {segmenter.name}: {', '.join(segmenter.taxonomy.names)}",
        f"seconds  {drawn - started:.1f} to draw the scene, {loaded - drawn:.1f} to load the model, "
        f"{predicted - loaded:.1f} to predict",
        f"{_SCORE:<8} AP {values['AP']:.1f} % on the scene's unknown object, "
        f"which covers {values['anomaly_share']:.1f} % of it",
    ):
        say(line)
    return DONE


def _combined(result: OpenSetResult) -> Image.Image:
    """The scene, its known classes, the anomaly score and the overlay, in one picture of two by two."""
    panels = {
        "scene": Image.fromarray(result.image),
        "known classes": class_map(result),
        f"anomaly score {result.score_name}": Image.fromarray(heat_map(result.score, result.display_range)),
        "overlay": overlay(result),
    }
    height, width = result.score.shape
    combined = Image.new("RGB", (2 * width, 2 * height))
    draw = ImageDraw.Draw(combined)
    font = ImageFont.load_default(size=max(10, height // 24))
    margin = max(4, height // 50)
    for index, (title, panel) in enumerate(panels.items()):
        corner = (index % 2 * width, index // 2 * height)
        combined.paste(panel, corner)
        at = (corner[0] + margin, corner[1] + margin)
        draw.text(at, title, "white", font, stroke_width=2, stroke_fill="black")
    return combined
