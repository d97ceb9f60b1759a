"""``outmask list``: the models, scores, benchmarks and recipes there are."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table

import outmask
from outmask.app import DONE
from outmask.app.terminal import stdout


def listing(what: str) -> int:
    """Print one kind of thing, a line each; returns the exit code."""
    table = Table(show_header=False, box=None, pad_edge=False)
    for name, description in {
        "models": _models,
        "scores": _scores,
        "benchmarks": _benchmarks,
        "recipes": _recipes,
    }[what]():
        table.add_row(name, description)
    stdout.print(table, highlight=False)
    return DONE


def _models() -> list[tuple[str, str]]:
    from outmask.checkpoints import bundled_models

    return [(name, "bundled") for name in bundled_models()] + [
        ("FOLDER", "a model folder of outmask's or of transformers' Mask2Former"),
        ("FILE.pkl, FILE.pth", "an original Mask2Former, M2F-EAM or Mask2Anomaly checkpoint"),
        ("OWNER/NAME", "a Mask2Former on the Hugging Face hub"),
    ]


def _scores() -> list[tuple[str, str]]:
    from outmask import scores

    return [(name, scores.describe(name)) for name in scores.available()]


def _benchmarks() -> list[tuple[str, str]]:
    from outmask.evaluation import available, describe

    return [(name, describe(name)) for name in available()]


def _recipes() -> list[tuple[str, str]]:
    files = sorted((Path(outmask.__file__).parent / "recipes").glob("*.yaml"))
    return [(path.stem, str(path)) for path in files]
