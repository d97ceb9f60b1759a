"""The work of an ablation, piece by piece; what is done already is left as it is, so that it can be killed anywhere."""

from __future__ import annotations

import gc
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import outmask
from outmask.ablation.figures import attention_figure
from outmask.ablation.grid import Grid
from outmask.ablation.images import Images, open_images
from outmask.ablation.memory import Remembering
from outmask.ablation.numbers import Walks
from outmask.ablation.pieces import pieces
from outmask.ablation.report import ATTENTION, report_path, write_report
from outmask.ablation.runs import Run, check_grid, check_kinds, check_settings, claimed, plan, train_run
from outmask.checkpoints.folder import CONFIG
from outmask.errors import OutmaskError
from outmask.output.files import replacing

_POLL_SECONDS = 10.0
"""Between looks at what another process is doing."""


class Ablation:
    """A grid in a folder.

    Several processes may work in one folder: each run is one process's at a time, and the others take the next one.

    Args:
        grid: what to train and to measure.
        data_root: the folder that the recipes' and the benchmarks' roots are relative to.
        out: the folder: ``ROW/seed-N/`` of each run, and the report.
        rows, seeds: the part of the grid to do now, and the runs that it starts from; all by default.
        quick: shorten everything as the grid says.

    Raises:
        OutmaskError: on unknown rows or seeds, missing benchmarks, bad recipes, scores or pictures that a row's models
            can't give, or where ``out`` holds another grid's rows or a run of other settings; nothing is done then,
            but that the scenes of a benchmark may have been drawn.
    """

    def __init__(
        self,
        grid: Grid,
        data_root: Path,
        out: Path,
        rows: Sequence[str] | None = None,
        seeds: Sequence[int] | None = None,
        quick: bool = False,
    ) -> None:
        recipes = grid.quick if quick else None
        grid = grid.shortened() if quick else grid
        names = [row.name for row in grid.rows]
        rows, seeds = names if rows is None else rows, grid.seeds if seeds is None else seeds
        for option, wanted, known in (("--rows", rows, names), ("--seeds", seeds, grid.seeds)):
            if unknown := [str(one) for one in wanted if one not in known]:
                raise OutmaskError(f"{option} {', '.join(unknown)}: the grid has {', '.join(map(str, known))}")
        self.grid, self.out = grid, out
        self.runs = plan(grid, data_root, out, recipes)
        self.chosen = [run for run in self.runs if run.row.name in rows and run.seed in seeds]
        check_kinds(self.runs, grid)
        check_settings(self.runs)  # also of what is only shown in the report
        ways = [row.name for row in grid.rows if row.ways]
        self.benchmarks: list[Images] = [open_images(entry, data_root, bool(ways)) for entry in grid.benchmarks]
        if ways and not any(images.benchmark.categories for images in self.benchmarks):
            raise OutmaskError(f"row {ways[0]!r} has ways to find objects, but no benchmark has panoptic labels")
        check_grid(grid, out)

    def work(self, tell: Callable[[str], None], walks: Walks) -> bool:
        """Do all that is missing; one failure does not keep the rest from being done.

        Args:
            tell: is called with a line about each piece of work.
            walks: a progress bar for each walk over a benchmark.

        Returns:
            whether everything is done.
        """
        self.write_report()
        pending = self._with_bases()
        failed: list[Run] = []
        waiting = False
        while pending:
            left = []
            for run in pending:
                if run.base in failed:
                    tell(f"{run.name} failed: it starts from {run.base.name if run.base else ''}, which failed")
                    failed.append(run)
                    continue
                with claimed(run.folder) as mine:
                    if not mine or (run.base is not None and not run.base.trained):
                        left.append(run)
                    elif not self._do(run, tell, walks):
                        failed.append(run)
            if len(left) == len(pending):
                if not waiting:
                    tell(f"waiting for another process: {', '.join(run.name for run in left)}")
                waiting = True
                time.sleep(_POLL_SECONDS)
            pending = left
        return not failed

    def draw_attention(self, image: NDArray[np.uint8]) -> None:
        """Draw the grid's ``attention`` rows, once their models are trained; again only for other models.

        Args:
            image: ``(H, W, 3)`` uint8 RGB, to look at.

        Raises:
            OutmaskError: where a row's model has no attention, or the picture can't be written.
        """
        chosen = {run.row.name: run for run in self.runs if run.seed == self.grid.seeds[0]}
        rows = [chosen[name] for name in self.grid.attention]
        if not rows or not all(run.trained for run in rows):
            return
        picture = self.out / ATTENTION
        trained = max((run.model / CONFIG).stat().st_mtime for run in rows)
        if picture.exists() and picture.stat().st_mtime >= trained:
            return
        content = attention_figure({run.row.name: outmask.load(run.model) for run in rows}, image)
        with replacing(picture) as file:
            file.write(content)
        self.write_report()

    @property
    def report(self) -> Path:
        """The report's Markdown file."""
        return report_path(self.out, self.grid)

    def write_report(self) -> None:
        """Write what is known by now."""
        write_report(self.out, self.grid, self.runs, self.benchmarks)

    def _with_bases(self) -> list[Run]:
        """The chosen runs, and those that they start from, in the order in which they can be done."""
        needed: set[Run] = set()
        for run in self.chosen:
            one: Run | None = run
            while one is not None:
                needed.add(one)
                one = one.base
        return [run for run in self.runs if run in needed]

    def _do(self, run: Run, tell: Callable[[str], None], walks: Walks) -> bool:
        """Train and measure one run; whether that went well."""
        failure = run.folder / "failure.txt"
        failure.unlink(missing_ok=True)
        doing = f"{run.name}, training"
        try:
            before = run.trained
            train_run(run)
            if not before:
                gc.collect()  # Lightning's objects refer to each other, and hold the decoded images
                self._done(f"{run.name} is trained", tell)
            todo = [
                piece for piece in pieces(run, self.grid, self.benchmarks) if run in self.chosen and piece.missing()
            ]
            if todo:
                segmenter = Remembering.of(outmask.load(run.model))
                for piece in todo:
                    doing = piece.name
                    piece.measure(segmenter, walks)
                    self._done(f"{piece.name} is measured", tell)
        except OutmaskError as error:
            tell(f"{doing} failed: {error}")
            return False
        except Exception as error:  # a defect of one row must not cost the night of all others
            failure.write_text(traceback.format_exc(), encoding="utf-8")
            tell(f"{doing} failed: {type(error).__name__}: {' '.join(str(error).split())}; see {failure}")
            return False
        return True

    def _done(self, what: str, tell: Callable[[str], None]) -> None:
        self.write_report()
        tell(what)
