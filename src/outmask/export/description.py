"""What an exported file says of itself: a model folder's ``config.json`` and how it was exported, as one JSON text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from outmask.checkpoints import ModelBundle
from outmask.checkpoints.folder import MARKER, VERSION, describe_bundle
from outmask.errors import OutmaskError
from outmask.preprocessing import Preprocessing
from outmask.types import Taxonomy

KEY = "outmask"
"""Of the text in ONNX's ``metadata_props`` and OpenVINO's ``rt_info``."""


def describe(bundle: ModelBundle, export: Mapping[str, Any]) -> str:
    """The text of a model.

    Args:
        bundle: the model and what belongs to it, but for detectors' statistics.
        export: plain values that say how it was exported.
    """
    config = {**describe_bundle(bundle), "name": bundle.name, "export": dict(export)}
    return json.dumps(config, ensure_ascii=False)


class Description:
    """What :func:`describe` wrote.

    Args:
        text: the JSON.
        where: it was found, for messages.

    Attributes:
        config: all of it.
        taxonomy, preprocessing, operating_points: of the model.
        negative_class: see :class:`outmask.types.MaskPrediction`.

    Raises:
        OutmaskError: where it is no such text, or of a newer format.
    """

    def __init__(self, text: str, where: str) -> None:
        try:
            self.config: dict[str, Any] = json.loads(text)
            if self.config[MARKER] != VERSION:
                raise OutmaskError(
                    f"{where}: expected {MARKER!r} {VERSION}, got {self.config[MARKER]!r}; a newer outmask may read it"
                )
            self.taxonomy = Taxonomy.from_json(self.config["taxonomy"])
            self.preprocessing = Preprocessing.from_json(self.config["preprocessing"])
            self.operating_points: dict[str, dict[str, Any]] = dict(self.config["operating_points"])
            self.negative_class = bool(self.config["architecture"].get("negative_class", False))
        except OutmaskError:
            raise
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise OutmaskError(f"{where}: its description of the model is damaged ({error}); export it again") from None
