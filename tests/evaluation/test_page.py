"""The page of a report: that it says everything, needs nothing, and is safe whatever things are called."""

from __future__ import annotations

import base64
import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from outmask.errors import OutmaskError
from outmask.evaluation import Benchmark, Record, Report, Settings, Threshold, evaluate
from outmask.evaluation.maps import ImageMaps, Size
from outmask.evaluation.page import write_page
from outmask.types import Taxonomy

TAXONOMY = Taxonomy(("road", "sky & <air>"), ((128, 64, 128), (70, 130, 180)))
SIZE = (24, 40)
VOID = {"meta", "img", "br"}


def record(index: int, anomaly: bool = True, known: bool = True, group: str = "", closed: bool = False) -> Record:
    semantic = np.zeros(SIZE, np.uint8)
    semantic[:9] = 1
    if anomaly:
        semantic[12 : 14 + index, 8:28] = 2
    semantic[:, :3] = 255
    label = np.where(semantic == 255, 255, semantic == 2).astype(np.uint8)
    label[(label == 0) & (not known)] = 255
    objects = np.where(semantic == 255, -1, semantic == 2).astype(np.int32)
    image = np.random.default_rng(index).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    if closed:
        return Record(f"{index}", image, semantic=lambda: semantic)
    return Record(f"{index}", image, lambda: label, lambda: semantic, lambda: objects, group=group)


class Noisy:
    """Scores that grow with the truth, and are the better the larger the anomaly; labels are right but for unknowns."""

    name = "my model"

    def maps(self, record: Record, names: Sequence[str], size: Size | None) -> ImageMaps:
        assert size == SIZE
        assert record.semantic is not None
        semantic = record.semantic()
        noise = np.random.default_rng(ord(record.name[0])).normal(size=(len(names), *SIZE))
        scores = {
            name: (-1 / (1 + np.exp(2 * (semantic == 2) + (0.5 + k) * noise[k]))).astype(np.float32)
            for k, name in enumerate(names)
        }
        return ImageMaps(scores, np.where(semantic >= 2, 0, semantic).astype(np.uint8))


def benchmark(*records: Record, **changes: Any) -> Benchmark:
    return replace(Benchmark("folder", "val", records, "obstacle", TAXONOMY), **changes)


EVERYTHING = Settings({"am": Threshold(-0.25, "TPR 95 on another split")}, "float16", border=2, mask_histogram=True)
FULL = benchmark(*(record(i, anomaly=i != 2, group="t5" if i < 3 else "t6") for i in range(6)))


@pytest.fixture(scope="module")
def full() -> Report:
    report = evaluate(Noisy(), FULL, ["eam", "am"], EVERYTHING)
    return replace(report, notes=("the scores of 3 images were resized",))


class Page(HTMLParser):
    """The page's elements, as (tag, attributes, text inside); refuses one whose tags don't balance."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.elements: list[tuple[str, dict[str, str | None], list[str]]] = []
        self._open: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.feed(self.source)
        self.close()
        assert not self._open, f"never closed: {[tag for tag, _, _ in self._open]}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = (tag, dict(attrs), list[str]())
        self.elements.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_endtag(self, tag: str) -> None:
        assert self._open[-1][0] == tag, f"</{tag}> closes <{self._open[-1][0]}>"
        self._open.pop()

    def handle_data(self, data: str) -> None:
        for _, _, text in self._open:
            text.append(data)

    def all(self, tag: str, **attributes: str) -> list[str]:
        return [
            " ".join(" ".join(text).split())
            for name, given, text in self.elements
            if name == tag and attributes.items() <= given.items()
        ]

    @property
    def text(self) -> str:
        return self.all("body")[0]

    def images(self, kind: str) -> list[tuple[str, bytes]]:
        """Alternative text and content."""
        found = []
        for tag, attributes, _ in self.elements:
            source = attributes.get("src") or ""
            if tag == "img" and source.startswith(f"data:{kind};base64,"):
                found.append((attributes["alt"] or "", base64.b64decode(source.partition(",")[2])))
        return found


def written(tmp_path: Path, report: Report, over: Benchmark, source: Any = None, **options: Any) -> Page:
    path = tmp_path / "page.html"
    write_page(path, report, over, source or Noisy(), **{"taxonomy": TAXONOMY, **options})
    return Page(path)


def leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping | list):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from leaves(part)
    else:
        yield value


def test_every_value_of_the_report_stands_in_the_page(tmp_path: Path, full: Report) -> None:
    page = written(tmp_path, full, FULL)
    words = set(re.split(r"[\s\[\],]+", page.text))
    thresholds = [one for score in full.scores.values() for part in score.thresholds
                  for one in leaves(part.to_json()["threshold"])]  # fmt: skip
    checked = 0
    for value in leaves(full.to_json()):
        if isinstance(value, str) and value != "labels":  # of borders, which the page says in a sentence
            assert value in page.text
        elif value in thresholds:
            assert str(np.float32(value)) in words
        elif isinstance(value, float) or type(value) is int:
            assert (f"{value:.2f}" if isinstance(value, float) else str(value)) in words
            checked += 1
    assert checked > 200


def test_the_numbers_stand_in_their_rows_and_columns(tmp_path: Path, full: Report) -> None:
    page = written(tmp_path, full, FULL)
    rows = page.all("tr")
    (header,) = [row for row in rows if row.startswith("score AP ↑")]
    assert header == "score AP ↑ FPR95 ↓ FPR90 ↓ AUROC ↑ best F1 oracle ↑"
    for name, score in full.scores.items():
        cells = []
        for metric in ("AP", "FPR95", "FPR90", "AUROC", "best_F1"):
            cells.append(f"{score.metrics[metric]:.2f}")
            if metric in score.intervals:
                low, high = score.intervals[metric]
                cells.append(f"[{low:.2f}, {high:.2f}]")
        assert " ".join([name, *cells]) in rows


def test_the_best_value_of_each_column_is_marked(tmp_path: Path, full: Report) -> None:
    marked = written(tmp_path, full, FULL).all("td", **{"class": "best"})
    assert len(marked) == 5
    for metric, better in (("AP", max), ("FPR95", min), ("FPR90", min), ("AUROC", max), ("best_F1", max)):
        best = better(score.metrics[metric] for score in full.scores.values())
        assert any(cell.startswith(f"{best:.2f}") for cell in marked)


def test_a_single_score_is_not_called_the_best(tmp_path: Path, full: Report) -> None:
    alone = replace(full, scores={"eam": full.scores["eam"]})
    page = written(tmp_path, alone, FULL)
    assert page.all("td", **{"class": "best"}) == []
    assert "Shaded" not in page.text


def test_oracles_are_named_and_no_other_threshold_is(tmp_path: Path, full: Report) -> None:
    origins = written(tmp_path, full, FULL).all("td", **{"class": "text"})
    assert any(origin.startswith("TPR 95 on another split") for origin in origins)
    for origin in origins:
        assert origin.endswith(" oracle") == ("of this split" in origin)


def test_the_same_report_is_the_same_page(tmp_path: Path, full: Report) -> None:
    for name in ("a.html", "b.html"):
        write_page(tmp_path / name, full, FULL, Noisy(), TAXONOMY)
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_the_page_needs_nothing_but_itself(tmp_path: Path, full: Report) -> None:
    page = written(tmp_path, full, FULL)
    for tag, attributes, _ in page.elements:
        assert tag not in {"script", "link", "iframe", "object", "base"}
        assert "href" not in attributes
        assert (attributes.get("src") or "data:").startswith("data:")
    beside_images = re.sub(r'src="data:[^"]*"', "", page.source)
    for outward in ("http", "url(", "@import", "src="):
        assert outward not in beside_images
    for _, svg in page.images("image/svg+xml"):
        assert b"<image" not in svg
        assert b"<script" not in svg
        links = re.findall(rb'(?:href|url\()\s*=?\s*"?([^")]*)', svg)
        assert all(link.startswith((b"#", b"http://www.w3.org/1999/xlink")) for link in links)


def test_every_image_says_what_it_shows_and_can_be_decoded(tmp_path: Path, full: Report) -> None:
    page = written(tmp_path, full, FULL)
    photos, plots = page.images("image/jpeg"), page.images("image/svg+xml")
    assert len(photos) + len(plots) == sum(tag == "img" for tag, _, _ in page.elements)
    assert len(plots) == 3
    assert len(photos) == 3 * 6
    for alt, jpeg in photos:
        assert Image.open(io.BytesIO(jpeg)).size == (40, 24)
        assert re.match(r"\d: ", alt)
    for alt, svg in plots:
        assert ElementTree.fromstring(svg).tag.endswith("svg")
        assert alt


HOSTILE = "\"><script>alert(1)</script>&amp;'<b>"


def test_names_are_text_whatever_they_hold(tmp_path: Path) -> None:
    class Hostile(Noisy):
        name = HOSTILE

    # A slash would part the name of a record.
    name = HOSTILE.replace("/", "") + "\udcff"
    over = benchmark(replace(record(3), name=name), record(4), name=HOSTILE, split=HOSTILE)
    report = replace(evaluate(Hostile(), over, ["eam"]), notes=(HOSTILE,))
    page = written(tmp_path, report, over, Hostile())
    tags = [tag for tag, _, _ in page.elements]
    assert "script" not in tags
    assert tags.count("b") == tags.count("figcaption") - 2  # ours, of the two images
    assert page.all("h1") == [f"{HOSTILE}: {HOSTILE}"]
    assert page.all("title") == [f"{HOSTILE} {HOSTILE}: {HOSTILE}"]
    assert page.all("li")[0] == HOSTILE
    assert any(alt.startswith(name[:-1]) for alt, _ in page.images("image/jpeg"))


def test_a_closed_set_benchmark(tmp_path: Path) -> None:
    over = benchmark(*(record(i, anomaly=False, closed=True) for i in range(2)), track=None)
    report = evaluate(Noisy(), over, ["eam"])
    page = written(tmp_path, report, over)
    assert page.all("h2") == ["Closed set"]
    assert page.all("dt")[-2:] == ["road", "sky & <air>"]
    assert report.closed_set is not None
    assert f"{report.closed_set['pixel_accuracy']:.2f} %" in page.text
    assert "anomaly" not in page.text


def test_no_anomaly_anywhere(tmp_path: Path) -> None:
    over = benchmark(record(0, anomaly=False), record(1, anomaly=False))
    page = written(tmp_path, evaluate(Noisy(), over, ["eam", "am"]), over)
    (row,) = [row for row in page.all("tr") if row.startswith("eam")]
    assert re.sub(r"\[–, –\]| ", "", row) == "eam–––––"
    assert page.all("h2") == ["Scores", "Closed set"]
    assert page.images("image/jpeg") == []


def test_anomalies_without_known_pixels(tmp_path: Path) -> None:
    over = benchmark(record(2, known=False), taxonomy=None)
    page = written(tmp_path, evaluate(Noisy(), over, ["eam"]), over)
    (row,) = [row for row in page.all("tr") if row.startswith("eam 100.00")]
    assert "–" in row
    assert "FPR at the threshold –" in page.text


@pytest.mark.parametrize("value", [math.inf, -math.inf])
def test_infinite_scores_are_drawn(tmp_path: Path, value: float) -> None:
    class Infinite(Noisy):
        def maps(self, record: Record, names: Sequence[str], size: Size | None) -> ImageMaps:
            maps = super().maps(record, names, size)
            for score in maps.scores.values():
                score[score > -0.1 if value > 0 else score < -0.9] = value
            return maps

    over = benchmark(record(3), record(4))
    assert "nan" not in written(tmp_path, evaluate(Infinite(), over, ["eam"]), over, Infinite()).text.lower()


def test_nothing_is_left_where_a_map_cannot_be_had(tmp_path: Path, full: Report) -> None:
    class Broken(Noisy):
        def maps(self, record: Record, names: Sequence[str], size: Size | None) -> ImageMaps:
            raise OutmaskError("predictions/3.npy: no such file")

    with pytest.raises(OutmaskError, match="predictions/3.npy: no such file"):
        write_page(tmp_path / "page.html", full, FULL, Broken(), TAXONOMY)
    assert list(tmp_path.iterdir()) == []


def test_the_display_range_is_that_of_the_first_score(tmp_path: Path, full: Report) -> None:
    asked: list[str] = []

    def everything_is_known(name: str) -> tuple[float, float]:
        asked.append(name)
        return 5.0, 6.0

    page = written(tmp_path, full, FULL, display_range=everything_is_known)
    heat: list[NDArray[np.uint8]] = [
        np.asarray(Image.open(io.BytesIO(jpeg))) for alt, jpeg in page.images("image/jpeg") if "heat map" in alt
    ]
    assert asked == ["eam"]
    assert all(picture.max() < 12 for picture in heat)  # black, but for JPEG
