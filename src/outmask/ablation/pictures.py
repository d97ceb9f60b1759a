"""Pictures of an ablation: a few scenes, their truth, and the segments that one model finds in them by each way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from outmask.ablation.entries import Way
from outmask.ablation.figures import pictures_figure
from outmask.ablation.images import spread
from outmask.ablation.numbers import RULES, Piece, Thresholds, Walks, definition
from outmask.data.images import read_image
from outmask.evaluation import Benchmark, Record
from outmask.output.files import replacing
from outmask.output.pictures import segment_map
from outmask.segmenter import Segmenter
from outmask.types import OpenSetResult, Segment, Taxonomy

RULE = RULES[-1]
"""By whose thresholds objects are found in pictures."""


@dataclass(frozen=True)
class Pictures(Piece):
    """A picture of what one model finds, a line for each scene.

    Attributes:
        ways: to find unknown objects, a column for each, by the first of its scores.
        thresholds: above which they are found.
        scenes: so many of each group, spread evenly.
    """

    holds = "pictures"

    ways: tuple[Way, ...]
    thresholds: Thresholds
    scenes: int

    @property
    def figure(self) -> Path:
        """The picture, below the ablation's folder."""
        return self.run.folder.parents[1] / "figures" / f"segments-{self.run.row.name}.jpg"

    def missing(self) -> list[str]:
        """The picture's name where it was not drawn, or with other scenes or ways."""
        done = self.figure.is_file() and self.kept().get(self.figure.name) == self._contents()
        return [] if done else [self.figure.name]

    def measure(self, segmenter: Segmenter, walks: Walks) -> None:
        """Draw the picture."""
        benchmark = replace(self.images.benchmark, records=tuple(spread(self.images.benchmark.records, self.scenes)))
        thresholds = self.thresholds.chosen(RULE)
        lines = []
        for record in walks(benchmark)(benchmark, "draw"):
            image = read_image(record.image)
            line = {"photo": image, "truth": _truth(record, image, benchmark, segmenter.taxonomy)}
            for way in self.ways:
                score = way.scores[0] if way.scores else "eam"
                result = segmenter.predict(
                    image,
                    task="panoptic",
                    score=score,
                    threshold=thresholds[score].of(record.group) if way.scores else None,
                    unknown=way.finder,
                )
                line[way.label + (f", {score}" if way.scores else "")] = np.asarray(segment_map(result))
            lines.append(line)
        with replacing(self.figure) as file:
            file.write(pictures_figure(lines))
        self._write({self.figure.name: self._contents()})

    def _contents(self) -> dict[str, Any]:
        return {"scenes": self.scenes, "ways": {way.label: definition(way) for way in self.ways}}

    def _depends_on(self) -> dict[str, Any]:
        return {**super()._depends_on(), "calibration": self.images.calibration_fingerprint}


def _truth(record: Record, image: NDArray[np.uint8], benchmark: Benchmark, taxonomy: Taxonomy) -> NDArray[np.uint8]:
    """The photo, tinted by its true segments."""
    assert record.panoptic is not None
    ids, segments = record.panoptic()
    unknown = {category["id"] for category in benchmark.categories if category.get("unknown")}
    table = np.zeros(int(ids.max(initial=0)) + 1, np.int32)  # pictures are of ids without gaps
    table[[segment["id"] for segment in segments]] = np.arange(1, len(segments) + 1)
    result = OpenSetResult(
        image=image,
        score=np.zeros(ids.shape, np.float32),
        labels=np.zeros(ids.shape, np.int32),
        taxonomy=taxonomy,
        score_name="truth",
        display_range=(0, 1),
        panoptic=table[ids],
        segments=[
            _segment(number, segment, segment["category_id"] in unknown, taxonomy)
            for number, segment in enumerate(segments, 1)
        ],
    )
    return np.asarray(segment_map(result))


def _segment(number: int, segment: Mapping[str, Any], is_unknown: bool, taxonomy: Taxonomy) -> Segment:
    """A segment of COCO's panoptic format under another id."""
    class_id = taxonomy.unknown_id if is_unknown else taxonomy.evaluation_ids.index(segment["category_id"])
    x, y, width, height = segment["bbox"]
    return Segment(
        number,
        class_id,
        "unknown" if is_unknown else taxonomy.names[class_id],
        is_unknown,
        segment["area"],
        1.0,
        (x, y, width, height),
    )
