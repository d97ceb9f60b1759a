"""Figures of an ablation: where the attention of its models does not go (Mask2Anomaly figure 12), and pictures side by
side."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from numpy.typing import NDArray

from outmask.errors import OutmaskError
from outmask.models import Mask2Former
from outmask.models.attention_maps import negative_attention
from outmask.segmenter import Segmenter

_PANEL_WIDTH, _TITLE_HEIGHT = 3.2, 0.3
"""Inches."""
_DOTS_PER_INCH = 80


def attention_figure(segmenters: Mapping[str, Segmenter], image: NDArray[np.uint8]) -> bytes:
    """Negative attention of each level in one image, a row for each model, as PNG.

    Args:
        segmenters: by the name that the figure shows; of mask transformers.
        image: ``(H, W, 3)`` uint8 RGB.

    Raises:
        OutmaskError: where a model has no such attention.
    """
    rows = {name: _negative_attention(name, segmenter, image) for name, segmenter in segmenters.items()}
    columns = 1 + max(map(len, rows.values()))
    height = _PANEL_WIDTH * image.shape[0] / image.shape[1] + _TITLE_HEIGHT
    figure = Figure(figsize=(_PANEL_WIDTH * columns, height * len(rows)), layout="constrained", dpi=_DOTS_PER_INCH)
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for panels, (name, maps) in zip(grid, rows.items(), strict=True):
        _draw(panels[0], image, name, image.shape)
        for panel, map_ in zip(panels[1:], maps, strict=False):
            _draw(panel, map_, f"{map_.shape[1]}x{map_.shape[0]}", image.shape)
    file = io.BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()


def pictures_figure(lines: Sequence[Mapping[str, NDArray[np.uint8]]]) -> bytes:
    """Pictures in lines and columns, as JPEG.

    Args:
        lines: of each line its ``(H, W, 3)`` uint8 RGB pictures by their titles, which are those of the first line.
    """
    height, width = next(iter(lines[0].values())).shape[:2]
    size = (_PANEL_WIDTH * len(lines[0]), (_PANEL_WIDTH * height / width) * len(lines) + _TITLE_HEIGHT)
    layout = ConstrainedLayoutEngine(w_pad=0.01, h_pad=0.01, wspace=0, hspace=0)
    figure = Figure(figsize=size, layout=layout, dpi=2 * _DOTS_PER_INCH)
    grid = figure.subplots(len(lines), len(lines[0]), squeeze=False)
    for panels, line in zip(grid, lines, strict=True):
        for panel, (title, picture) in zip(panels, line.items(), strict=True):
            panel.imshow(picture)
            panel.set_axis_off()
            if line is lines[0]:
                panel.set_title(title, fontsize=10)
    file = io.BytesIO()
    figure.savefig(file, format="jpeg", pil_kwargs={"quality": 85})
    return file.getvalue()


def _negative_attention(name: str, segmenter: Segmenter, image: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
    if not isinstance(segmenter.model, Mask2Former):
        raise OutmaskError(f"attention: {name} is no mask transformer, whose queries look at the image")
    return [map_[0].cpu().numpy() for map_ in negative_attention(segmenter.model, segmenter.preprocess(image))]


def _draw(panel: Axes, map_: NDArray[np.generic], title: str, shape: tuple[int, ...]) -> None:
    """A map over the whole panel, whatever its resolution; bright where nothing looks."""
    extent = (0, shape[1], shape[0], 0)
    # Most of a map is close to 1, where the differences are: they get most of the colours.
    panel.imshow(map_, cmap="magma", norm=PowerNorm(4, 0, 1), extent=extent, interpolation="nearest")
    panel.set_title(title, fontsize=10)
    panel.set_axis_off()
