"""The report says what the models give, with means and deviations that numpy agrees with."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import outmask
from outmask.ablation.report import Cell
from outmask.evaluation import ModelMaps, evaluate, open_benchmark
from outmask.models import build_architecture, describe_architecture
from outmask.models.counting import count_multiply_adds

from .conftest import Study


def lines(study: Study, name: str) -> list[dict[str, str]]:
    with (study.out / name).open() as file:
        return list(csv.DictReader(file))


def table(study: Study, title: str) -> list[list[str]]:
    """The cells of one of the Markdown file's tables, heading first."""
    section = (study.out / "ablation.md").read_text().split(f"## {title}\n")[1].split("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("|")]
    return [rows[0], *rows[2:]]


def test_a_line_for_each_row_seed_benchmark_and_score(finished: Study) -> None:
    found = {
        tuple(line[key] for key in ("row", "seed", "benchmark", "score")) for line in lines(finished, "ablation.csv")
    }
    rows = [(row, score) for row in ("masked", "masked/refined", "masked/things") for score in ("eam", "am")]
    expected = {(row, seed, "Two scenes", score) for row, score in [*rows, ("tuned", "eam")] for seed in "01"}
    assert found == expected


def test_numbers_are_those_of_an_evaluation(finished: Study) -> None:
    segmenter = outmask.load(finished.out / "tuned/seed-1/model")
    benchmark = open_benchmark("folder", finished.data / "scenes")
    metrics = evaluate(ModelMaps(segmenter), benchmark, ["eam"]).scores["eam"].metrics
    (line,) = (one for one in lines(finished, "ablation.csv") if (one["row"], one["seed"]) == ("tuned", "1"))
    for name in ("AP", "FPR95", "FPR90", "AUROC", "best_F1"):
        assert float(line[name]) == pytest.approx(metrics[name], abs=5e-5)  # four decimals


def test_means_and_sample_deviations_over_seeds(finished: Study) -> None:
    single = lines(finished, "ablation.csv")
    for line in lines(finished, "ablation_means.csv"):
        key = (line["row"], line["benchmark"], line["score"])
        values = [float(one["AP"]) for one in single if (one["row"], one["benchmark"], one["score"]) == key]
        assert line["seeds"] == "2"
        assert float(line["AP_mean"]) == pytest.approx(np.mean(values), abs=2e-4)
        assert float(line["AP_deviation"]) == pytest.approx(np.std(values, ddof=1), abs=2e-4)


@given(st.lists(st.floats(0, 100), min_size=2, max_size=6))
def test_a_cell_is_numpys_mean_and_deviation(values: list[float]) -> None:
    cell = Cell(values, of=len(values))
    assert cell.mean == pytest.approx(np.mean(values), abs=1e-9)
    assert cell.deviation == pytest.approx(np.std(values, ddof=1), abs=1e-9)


@pytest.mark.parametrize(
    ("values", "text"),
    [([], "-"), ([7.0], "7.00 (1 of 3)"), ([1.0, 2.0], "1.50 ± 0.71 (2 of 3)"), ([1, 2, 3], "2.00 ± 1.00")],
)
def test_a_cell_says_how_many_seeds_it_is_of(values: list[float], text: str) -> None:
    assert str(Cell(values, of=3)) == text


def test_tables_show_the_rows_and_scores_that_the_grid_names(finished: Study) -> None:
    means = {(line["row"], line["score"]): line for line in lines(finished, "ablation_means.csv")}
    heading, *rows = table(finished, "Tuning")
    assert heading == ["row", "score", "AP", "FPR95"]
    assert [row[:2] for row in rows] == [["masked", "eam"], ["tuned", "eam"]]
    for row, score, ap, _ in rows:
        line = means[row, score]
        assert ap == f"{float(line['AP_mean']):.2f} ± {float(line['AP_deviation']):.2f}"
    assert [row[:2] for row in table(finished, "Refinement")[1:]] == [
        [row, "am"] for row in ("masked", "masked/refined", "masked/things")
    ]


def test_sizes_and_costs_are_those_of_the_models(finished: Study) -> None:
    model = outmask.load(finished.out / "masked/seed-0/model").model
    everything = sum(parameter.numel() for parameter in model.parameters())
    cost = count_multiply_adds(partial(build_architecture, describe_architecture(model)), (32, 48))
    for line in lines(finished, "ablation_models.csv"):
        assert (line["parameters"], line["trainable"], line["multiply_adds"]) == (*[str(everything)] * 2, str(cost))
        assert 0 <= float(line["validation_mIoU"]) <= 100
    rows = {row[0]: row[1:] for row in table(finished, "Models")[1:]}
    assert rows["masked"][:4] == [*[f"{everything / 1e6:.2f}"] * 2, "32x48", f"{cost / 1e9:.2f}"]


def test_a_grid_that_is_half_done_can_be_read(study: Study, no_work: Callable[[], None]) -> None:
    shutil.rmtree(study.out / "tuned")
    shutil.rmtree(study.out / "masked/seed-1")
    no_work()
    assert study.run("--rows", "masked", "--seeds", "0") == 0
    assert "1 of 4 models are trained" in (study.out / "ablation.md").read_text()
    masked, tuned = table(study, "Tuning")[1:]
    assert masked[2].endswith("(1 of 2)")
    assert "±" not in masked[2]
    assert tuned[2:] == ["-", "-"]


def test_without_tables_everything_is_shown(study: Study, no_work: Callable[[], None]) -> None:
    del study.grid["tables"]
    no_work()
    assert study.run() == 0
    assert len(table(study, "All rows")) == 1 + 7


def test_numbers_of_an_earlier_model_are_not_shown(study: Study, no_work: Callable[[], None], tmp_path: Path) -> None:
    shutil.copytree(study.out / "masked/seed-0/model", study.out / "tuned/seed-0/model", dirs_exist_ok=True)
    no_work()
    assert study.run("--seeds", "1") == 0
    assert table(study, "Tuning")[2][2].endswith("(1 of 2)")


HISTOGRAM = {"title": "Shares", "rows": ["masked", "masked/refined"], "benchmark": "Two scenes", "score": "eam"}


def test_histograms_are_drawn_of_what_was_measured(study: Study, no_work: Callable[[], None]) -> None:
    study.grid["histograms"] = [HISTOGRAM]
    no_work()
    assert study.run() == 0
    assert "![Shares](figures/histogram-0.svg)" in (study.out / "ablation.md").read_text()
    assert (study.out / "figures/histogram-0.svg").read_text().count("</svg>") == 1
    numbers = json.loads((study.out / "masked/seed-0/numbers/two-scenes.json").read_text())
    shares = numbers["scores"]["eam"]["histogram"]
    assert len(shares["edges"]) == 41
    assert sum(shares["known"]) == pytest.approx(1)
    assert sum(shares["anomaly"]) == pytest.approx(1)


def test_a_benchmark_without_anomalies_has_neither_metrics_nor_shares_of_them(fresh: Study, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(fresh.data, data)
    for path in (data / "scenes/labels_masks").iterdir():
        Image.fromarray(np.zeros((64, 80), np.uint8)).save(path)
    study = Study(fresh.folder, data)
    study.grid |= {"seeds": [0], "tables": [], "histograms": [{**HISTOGRAM, "rows": ["masked"]}]}
    study.grid["rows"] = [{"name": "masked", "recipe": "masked.yaml", "scores": ["eam"]}]
    assert study.run() == 0
    assert table(study, "All rows")[1][2:] == ["-", "-"]
    assert (study.out / "figures/histogram-0.svg").exists()


def test_negative_attention_is_drawn_when_its_rows_are_trained(study: Study, no_work: Callable[[], None]) -> None:
    study.grid["attention"] = ["masked", "tuned"]
    no_work()
    away = shutil.move(study.out / "tuned/seed-0/model", study.folder / "away")
    assert study.run("--rows", "masked") == 0
    assert "attention.png" not in (study.out / "ablation.md").read_text()
    shutil.move(away, study.out / "tuned/seed-0/model")
    assert study.run() == 0
    assert "![Negative attention](figures/attention.png)" in (study.out / "ablation.md").read_text()
    width, height = Image.open(study.out / "figures/attention.png").size
    assert width > 2 * 80
    assert height > 2 * 80
