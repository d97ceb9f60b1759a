"""``outmask reproduce world``: the papers' comparisons on the synthetic world; killed, it goes on where it was."""

from __future__ import annotations

from pathlib import Path

from outmask.ablation import Ablation, grid, read_grid
from outmask.app.ablate import carry_out, row_names, seed_numbers
from outmask.app.terminal import tell

_SCENES = "scenes"
"""Folder of the scenes, as in the grid."""


def reproduce(what: str, out: str | None, quick: bool, rows: str | None, seeds: str | None) -> int:
    """Train and measure a bundled grid that draws its own data; returns the exit code.

    Args:
        what: the grid's name.
        out: folder of the scenes, the runs and the report; by default one below ``runs``.
        quick: few iterations, few images, one seed.
        rows, seeds: the part of the grid to do, as ``a,b,c``.

    Raises:
        OutmaskError: on unknown rows or seeds, or an ``out`` of something else.
    """
    folder = Path(out) if out is not None else Path("runs") / (f"{what}_quick" if quick else what)
    chosen = read_grid(grid.BUNDLED / f"{what}.yaml")
    wanted = row_names(rows), seed_numbers(seeds)
    if not (folder / _SCENES).is_dir():
        tell(f"drawing the scenes below {folder / _SCENES}, about a minute")
    return carry_out(Ablation(chosen, folder, folder, *wanted, quick=quick))
