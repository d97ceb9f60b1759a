"""``outmask list``: the models, scores, benchmarks and recipes there are."""

from __future__ import annotations

from outmask.app import DONE
from outmask.app.terminal import say


def listing(what: str) -> int:
    """Print one kind of thing, a line each; returns the exit code."""
    rows = {"models": _models, "scores": _scores, "benchmarks": _benchmarks, "recipes": _recipes}[what]()
    width = max((len(name) for name, _ in rows), default=0)
    for name, description in rows:
        say(f"{name:<{width}}  {description}")
    return DONE


def _models() -> list[tuple[str, str]]:
    from outmask.weights import bundled_models

    return [(name, "bundled") for name in bundled_models()] + [
        ("FOLDER", "a model folder of outmask's, or of transformers' Mask2Former, SegFormer, UperNet ..."),
        ("FILE.pkl, FILE.pth", "an original Mask2Former, M2F-EAM or Mask2Anomaly checkpoint"),
        ("OWNER/NAME", "a Mask2Former, SegFormer, UperNet ... on the Hugging Face hub"),
    ]


def _scores() -> list[tuple[str, str]]:
    from outmask.openset import inference

    return [(name, inference.describe(name)) for name in inference.available()]


def _benchmarks() -> list[tuple[str, str]]:
    from outmask.evaluation import available, describe

    return [(name, describe(name)) for name in available()]


def _recipes() -> list[tuple[str, str]]:
    from outmask.training.inheritance import bundled_recipes, read_settings

    return [(name, read_settings(name).get("reproduces", "")) for name in bundled_recipes()]
