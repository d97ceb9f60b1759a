"""A synthetic world: streets drawn from a seed, with the truth about every pixel.

:class:`World` draws the scenes of a town. Towns ``t1`` to ``t4`` are for training and know nothing of the objects that
stand in ``t5`` and ``t6``, whose houses, plants and weather are others too (after StreetHazards, Hendrycks et al., ICML
2022). Objects of no known class come in families, each for one use: testing, choosing thresholds, or as negatives.
"""

from outmask.data.world.scenes import Unknowns, World, WorldScene
from outmask.data.world.towns import TEST_TOWNS, TRAIN_TOWNS
from outmask.data.world.unknowns import FAMILIES

__all__ = ["FAMILIES", "TEST_TOWNS", "TRAIN_TOWNS", "Unknowns", "World", "WorldScene"]
