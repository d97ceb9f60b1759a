"""The models that come with the package: a folder each, of weights, ``config.json`` and a model card."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent


def bundled_models() -> list[str]:
    """Names of the models that come with the package."""
    return sorted(path.parent.name for path in FOLDER.glob("*/config.json"))
