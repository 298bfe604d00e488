"""Published scores: beside ours where both measure the same, and nowhere else."""

import csv
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from lofit.report.paper import MEAN_OF, PaperFigure, compare_with_paper, read_figures
from lofit.report.rows import Row

PRESETS = Path(__file__).parents[2] / "presets"
FILE = PRESETS / "paper.csv"
LLAMA = "meta-llama/Llama-2-7b-hf"
KINDS = {"truthfulqa": "truthfulqa", "mine": "truthfulqa", "mquake": "mquake", "clutrr": "clutrr"}


def row(task, metric, score, method="lofit_3pct"):
    return Row(task, method, metric, score, 0.0, 1.0, None, None, None, 1, None, None, 0, ("",))


def cells(table):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def test_a_figure_stands_beside_our_score_of_the_same_task_method_metric_and_protocol():
    table = compare_with_paper(read_figures(FILE, LLAMA), [row("mine", "mc1_lofit", 0.5)], KINDS)
    first = cells(table)[0]
    assert first[:5] == ["mine", "lofit_3pct", "mc1", "0.500", "0.581"] and "paper, Table 1" in first[5]
    two = compare_with_paper(
        read_figures(FILE, LLAMA), [row("mine", "mc1_lofit", 0.5), row("truthfulqa", "mc1_lofit", 0.2)], KINDS
    )
    assert [line[:4:3] for line in cells(two)[:2]] == [["mine", "0.500"], ["truthfulqa", "0.200"]]
    assert {line[3] for line in cells(table) if line[2] != "mc1"} == {"-"}


@pytest.mark.parametrize(
    "ours",
    [
        row("mine", "mc1_clean", 0.5),
        row("mine", "mc1_lofit_six_shot", 0.5),
        row("mine", "mc1_lofit", 0.5, method="lofit_10pct"),
        row("mquake", "mc1_lofit", 0.5),
    ],
    ids=["protocol", "prompt", "method", "kind"],
)
def test_a_score_of_another_measurement_is_not_put_there(ours):
    assert {line[3] for line in cells(compare_with_paper(read_figures(FILE, LLAMA), [ours], KINDS))} == {"-"}


def test_the_mean_over_tasks_needs_all_of_them():
    scores = {("truthfulqa", "mc1"): 0.1, ("truthfulqa", "mc2"): 0.2, ("mquake", "exact_match"): 0.5}
    rows = [row(task, f"{metric}_lofit", score) for (task, metric), score in scores.items()]
    figures = [figure for figure in read_figures(FILE, LLAMA) if figure.kind == "all"]
    assert cells(compare_with_paper(figures, rows, KINDS))[0][3] == "-"
    whole = [*rows, row("clutrr", "exact_match_lofit", 0.8)]
    assert cells(compare_with_paper(figures, whole, KINDS))[0][3:5] == ["0.400", "0.743"]
    twice = [*whole, row("mine", "mc1_lofit", 0.9)]
    assert cells(compare_with_paper(figures, twice, KINDS))[0][3] == "-"
    other = [replace(line, method="lofit_10pct") if line.task == "clutrr" else line for line in whole]
    assert cells(compare_with_paper(figures, other, KINDS))[0][3] == "-"


def test_a_published_score_has_a_line_where_we_have_no_task_of_its_kind():
    lines = cells(compare_with_paper(read_figures(FILE, LLAMA), [row("mquake", "exact_match_lofit", 0.5)], KINDS))
    assert {(line[0], line[3]) for line in lines} == {("truthfulqa", "-"), ("all", "-")}


def test_the_scores_of_a_model_are_read_in_the_order_of_the_file(tmp_path):
    file = tmp_path / "paper.csv"
    lines = ["b,mquake,lofit,em,0.25,here", "a,mquake,lofit,em,0.5,there", 'b,all,lofit,mean,0.75,"here, too"']
    file.write_text("\n".join(["model,kind,method,metric,score,source", *lines]))
    assert read_figures(file, "b") == [
        PaperFigure("b", "mquake", "lofit", "em", 0.25, "here"),
        PaperFigure("b", "all", "lofit", "mean", 0.75, "here, too"),
    ]
    assert read_figures(file, "c") == []


def test_every_published_score_names_its_source_and_belongs_to_a_row_of_its_models_preset():
    presets = [yaml.safe_load(file.read_text()) for file in PRESETS.glob("*.yaml")]
    methods = {preset["model"]["name"]: preset["run"]["methods"] for preset in presets if "model" in preset}
    with FILE.open(newline="") as opened:
        lines = list(csv.DictReader(opened))
    metrics = {*MEAN_OF, ("truthfulqa", "mc3"), ("all", "mean")}
    for line in lines:
        assert line["method"] in methods[line["model"]] and (line["kind"], line["metric"]) in metrics
        assert 0 < float(line["score"]) < 1
        assert line["source"].startswith(("paper, Table", "the authors' own run, fold"))
    measurements = [tuple(value for name, value in line.items() if name != "score") for line in lines]
    assert lines and len(set(measurements)) == len(lines), "one measurement has two scores"
