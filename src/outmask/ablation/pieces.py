"""All that is measured of one model: pieces, each after those that it takes thresholds from."""

from __future__ import annotations

from collections.abc import Sequence

from outmask.ablation.grid import Grid
from outmask.ablation.images import Images
from outmask.ablation.numbers import Objects, Piece, Scores, Thresholds
from outmask.ablation.pictures import Pictures
from outmask.ablation.runs import Run


def pieces(run: Run, grid: Grid, benchmarks: Sequence[Images]) -> list[Piece]:
    """The pieces of a run's model, on each of the grid's benchmarks."""
    return [piece for images in benchmarks for piece in _pieces(run, grid, images)]


def _pieces(run: Run, grid: Grid, images: Images) -> list[Piece]:
    ways = tuple(grid.way(label) for label in run.row.ways)
    thresholds = None if images.calibration is None else Thresholds(run, images, ways)
    found: list[Piece] = [] if thresholds is None else [thresholds]
    found.append(Scores(run, images, thresholds=thresholds))
    found += [Scores(run, images, variant) for variant in run.row.variants]
    if thresholds is None or not ways or not images.benchmark.categories:
        return found
    found.append(Objects(run, images, ways, thresholds))
    shown = grid.pictures
    if shown is not None and shown.benchmark == images.entry.label and run.row.name in shown.rows:
        drawn = tuple(way for way in ways if way.label in shown.ways)
        if run.seed == grid.seeds[0]:
            found.append(Pictures(run, images, drawn, thresholds, shown.scenes))
    return found
