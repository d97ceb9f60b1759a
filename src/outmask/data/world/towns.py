"""The towns of the world: what streets look like there, and how the weather is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from outmask.data.world.geometry import Rgb
from outmask.errors import OutmaskError

Range = tuple[float, float]


@dataclass(frozen=True)
class Town:
    """A style of streets.

    Attributes:
        seed: of everything random in it.
        walls: paints of house walls: colour and texture.
        storeys: fewest and most of a house.
        width: metres of a house along the street.
        gap: probability of a gap after a house.
        roofs: probability of a sloped roof.
        shops: probability of a shop on the ground floor.
        glazed: share of a wall that is window.
        tiles: roof colours.
        setback: metres between sidewalk and houses, a garden with a fence.
        sidewalk: metres of width.
        verge: probability of a green strip between road and sidewalk.
        lane: metres of width.
        lanes: each way.
        parking: probability of a lane of parked cars on a side.
        asphalt, paving, soil: colours of the ground.
        marks: colours of lane marks.
        plants: what grows, drawn equally often.
        leaves: leaf colours.
        spacing: metres between street trees.
        vehicles: colours of cars.
        clothes: colours of clothes.
        weather: probabilities of clear, cloudy, overcast, hazy and low sun.
        curve: largest curve of its streets, 1 / metres.
        poles: colour of lamp posts.
    """

    seed: int
    walls: tuple[tuple[Rgb, str], ...]
    storeys: tuple[int, int]
    width: Range
    gap: float
    roofs: float
    shops: float
    glazed: float
    tiles: tuple[Rgb, ...]
    setback: Range
    sidewalk: Range
    verge: float
    lane: float
    lanes: int
    parking: float
    asphalt: Rgb
    paving: Rgb
    soil: Rgb
    marks: tuple[Rgb, ...]
    plants: tuple[str, ...]
    leaves: tuple[Rgb, ...]
    spacing: Range
    vehicles: tuple[Rgb, ...]
    clothes: tuple[Rgb, ...]
    weather: tuple[float, float, float, float, float]
    curve: float
    poles: Rgb


_CARS = ((196, 198, 200), (60, 62, 66), (24, 25, 28), (150, 154, 158), (120, 30, 28), (36, 60, 104), (226, 226, 222))
_BRIGHT_CARS = (*_CARS, (186, 120, 30), (50, 100, 70), (90, 140, 176))
_CLOTHES = ((44, 52, 72), (110, 40, 38), (60, 62, 60), (150, 140, 120), (36, 36, 40), (70, 96, 130), (180, 176, 170))
_BRIGHT_CLOTHES = (*_CLOTHES, (206, 150, 50), (200, 90, 110), (60, 130, 110), (226, 222, 214))
_GREENS = ((70, 96, 38), (86, 108, 44), (58, 84, 36), (98, 112, 48))
_WHITE, _YELLOW = (222, 222, 216), (206, 160, 46)

TOWNS: Mapping[str, Town] = MappingProxyType(
    {
        "t1": Town(  # old inner city: brick and plaster, wall to wall
            seed=1,
            walls=(
                ((158, 92, 72), "brick"),
                ((190, 176, 150), "plain"),
                ((172, 110, 84), "brick"),
                ((204, 200, 188), "plain"),
            ),
            storeys=(3, 5),
            width=(8, 16),
            gap=0.2,
            roofs=0.55,
            shops=0.6,
            glazed=0.45,
            tiles=((118, 62, 48), (92, 82, 78)),
            setback=(0, 0.3),
            sidewalk=(2.4, 3.6),
            verge=0.15,
            lane=3.1,
            lanes=1,
            parking=0.7,
            asphalt=(92, 92, 95),
            paving=(160, 154, 146),
            soil=(96, 106, 58),
            marks=(_WHITE,),
            plants=("round", "round", "bush"),
            leaves=_GREENS,
            spacing=(9, 18),
            vehicles=_CARS,
            clothes=_CLOTHES,
            weather=(0.4, 0.3, 0.2, 0.1, 0),
            curve=0.006,
            poles=(70, 76, 74),
        ),
        "t2": Town(  # suburb: houses in gardens behind fences
            seed=2,
            walls=(
                ((206, 198, 180), "boards"),
                ((156, 172, 180), "boards"),
                ((196, 160, 130), "brick"),
                ((224, 222, 214), "boards"),
            ),
            storeys=(1, 2),
            width=(9, 14),
            gap=0.75,
            roofs=0.95,
            shops=0,
            glazed=0.32,
            tiles=((92, 70, 60), (78, 80, 84), (120, 74, 54)),
            setback=(4, 8),
            sidewalk=(1.5, 2.2),
            verge=0.7,
            lane=3.3,
            lanes=1,
            parking=0.4,
            asphalt=(104, 104, 104),
            paving=(176, 172, 164),
            soil=(92, 118, 52),
            marks=(_YELLOW, _WHITE),
            plants=("round", "round", "tall", "bush"),
            leaves=(*_GREENS, (112, 104, 40)),
            spacing=(8, 16),
            vehicles=_CARS,
            clothes=_BRIGHT_CLOTHES,
            weather=(0.5, 0.3, 0.1, 0.1, 0),
            curve=0.010,
            poles=(96, 88, 76),
        ),
        "t3": Town(  # business quarter: concrete and glass
            seed=3,
            walls=(
                ((150, 152, 152), "panels"),
                ((120, 126, 132), "panels"),
                ((186, 182, 172), "panels"),
                ((104, 112, 124), "plain"),
            ),
            storeys=(5, 10),
            width=(14, 26),
            gap=0.2,
            roofs=0,
            shops=0.5,
            glazed=0.66,
            tiles=((90, 90, 92),),
            setback=(0, 2),
            sidewalk=(3.0, 4.5),
            verge=0.3,
            lane=3.4,
            lanes=2,
            parking=0.3,
            asphalt=(80, 81, 84),
            paving=(150, 150, 150),
            soil=(88, 108, 56),
            marks=(_WHITE,),
            plants=("round", "tall", "bush"),
            leaves=_GREENS,
            spacing=(10, 18),
            vehicles=_CARS,
            clothes=_CLOTHES,
            weather=(0.3, 0.3, 0.3, 0.1, 0),
            curve=0.004,
            poles=(124, 128, 130),
        ),
        "t4": Town(  # small town: coloured plaster, narrow streets
            seed=4,
            walls=(
                ((210, 186, 140), "plain"),
                ((186, 140, 120), "plain"),
                ((166, 178, 150), "plain"),
                ((214, 206, 192), "plain"),
            ),
            storeys=(2, 3),
            width=(7, 12),
            gap=0.25,
            roofs=0.85,
            shops=0.35,
            glazed=0.36,
            tiles=((134, 66, 46), (110, 58, 44)),
            setback=(0, 1.5),
            sidewalk=(1.5, 2.6),
            verge=0.3,
            lane=2.9,
            lanes=1,
            parking=0.5,
            asphalt=(112, 110, 108),
            paving=(168, 156, 142),
            soil=(108, 114, 62),
            marks=(_WHITE,),
            plants=("round", "bush", "bush"),
            leaves=(*_GREENS, (74, 104, 62)),
            spacing=(10, 20),
            vehicles=_BRIGHT_CARS,
            clothes=_BRIGHT_CLOTHES,
            weather=(0.4, 0.3, 0.15, 0.15, 0),
            curve=0.010,
            poles=(84, 90, 86),
        ),
        "t5": Town(  # southern town: whitewash and ochre, palms, dust, strong light
            seed=5,
            walls=(
                ((232, 224, 206), "plain"),
                ((214, 170, 104), "plain"),
                ((222, 190, 150), "plain"),
                ((196, 128, 92), "slabs"),
            ),
            storeys=(1, 3),
            width=(6, 11),
            gap=0.35,
            roofs=0.1,
            shops=0.4,
            glazed=0.24,
            tiles=((176, 100, 66),),
            setback=(0, 3),
            sidewalk=(1.2, 2.0),
            verge=0.45,
            lane=2.8,
            lanes=1,
            parking=0.45,
            asphalt=(134, 126, 114),
            paving=(196, 180, 152),
            soil=(182, 154, 112),
            marks=(_WHITE, _YELLOW),
            plants=("palm", "palm", "bush"),
            leaves=((104, 116, 58), (84, 104, 60), (126, 122, 70)),
            spacing=(8, 15),
            vehicles=(*_CARS, (206, 190, 150), (70, 130, 150)),
            clothes=_BRIGHT_CLOTHES,
            weather=(0.6, 0.1, 0, 0.3, 0),
            curve=0.012,
            poles=(130, 112, 92),
        ),
        "t6": Town(  # northern town: towers and timber, firs, low sun and mist, wide roads
            seed=6,
            walls=(
                ((86, 98, 108), "panels"),
                ((128, 52, 44), "boards"),
                ((62, 70, 78), "plain"),
                ((170, 176, 178), "boards"),
            ),
            storeys=(3, 12),
            width=(10, 24),
            gap=0.4,
            roofs=0.35,
            shops=0.2,
            glazed=0.55,
            tiles=((54, 56, 62),),
            setback=(1, 4),
            sidewalk=(2.6, 4.0),
            verge=0.6,
            lane=3.7,
            lanes=2,
            parking=0.2,
            asphalt=(70, 73, 80),
            paving=(128, 130, 136),
            soil=(112, 110, 84),
            marks=(_WHITE,),
            plants=("fir", "fir", "bush"),
            leaves=((40, 64, 50), (50, 72, 46), (58, 76, 66)),
            spacing=(7, 14),
            vehicles=(*_CARS, (100, 30, 40)),
            clothes=_CLOTHES,
            weather=(0, 0.1, 0.3, 0.3, 0.3),
            curve=0.006,
            poles=(56, 60, 66),
        ),
    }
)
"""Towns ``t1`` to ``t4`` are for training; ``t5`` and ``t6``, as in StreetHazards, for testing."""

TRAIN_TOWNS = ("t1", "t2", "t3", "t4")
TEST_TOWNS = ("t5", "t6")


def find_town(name: str) -> Town:
    """The town called ``name``.

    Raises:
        OutmaskError: on an unknown name.
    """
    if name not in TOWNS:
        raise OutmaskError(f"unknown town {name!r}: choose from {', '.join(TOWNS)}")
    return TOWNS[name]
