"""Detectors: anomaly scores that need more of a model than one prediction (gradients, features, several passes).

They are named and asked for like scores. Each is a small frozen value whose fields are its settings:

>>> from outmask.detectors import Odin, available
>>> available()
['sml', 'odin', 'mahalanobis', 'mcdropout', 'react']
>>> Odin(temperature=3).epsilon
0.0014
"""

from __future__ import annotations

from outmask.detectors.detector import Detector, FittedDetector, Statistics, Subject
from outmask.detectors.dropout import MonteCarloDropout
from outmask.detectors.ensemble import ensemble_maps
from outmask.detectors.fitting import fit
from outmask.detectors.mahalanobis import Mahalanobis
from outmask.detectors.odin import Odin
from outmask.detectors.react import ReAct
from outmask.detectors.sml import StandardisedMaxLogits
from outmask.errors import OutmaskError

__all__ = [
    "DETECTORS",
    "Detector",
    "FittedDetector",
    "Mahalanobis",
    "MonteCarloDropout",
    "Odin",
    "ReAct",
    "StandardisedMaxLogits",
    "Statistics",
    "Subject",
    "available",
    "ensemble_maps",
    "fit",
    "fitted",
]

_ALL: tuple[Detector, ...] = (StandardisedMaxLogits(), Odin(), Mahalanobis(), MonteCarloDropout(), ReAct())

DETECTORS = {detector.name: detector for detector in _ALL}
"""By name, with their default settings."""


def available() -> list[str]:
    """Names of all detectors."""
    return list(DETECTORS)


def fitted(name: str) -> FittedDetector:
    """A detector that has statistics.

    Raises:
        OutmaskError: where there is none of this name; lists them.
    """
    detector = DETECTORS.get(name)
    if not isinstance(detector, FittedDetector):
        names = ", ".join(one.name for one in _ALL if isinstance(one, FittedDetector))
        raise OutmaskError(f"{name!r} is no detector with statistics to fit: choose from {names}")
    return detector
