"""The section on other tasks: figures by hand, which row comes first, what is left out."""

import re

import numpy as np
import pytest

from lofit.report.out_of_domain import out_of_domain_tables, score, stacked
from lofit.report.rows import Cell, rows_of_task
from lofit.storage.question_scores import QuestionScores

QUESTIONS = tuple(map(str, range(6)))
BASE = np.array([1.0, 0, 1, 0, 0, 0])
TUNED = np.array([[1.0, 1, 1, 0, 0, 0], [1, 1, 1, 1, 0, 0]])
NQ = QuestionScores(("0", "1"), {"exact_match": np.array([0.0, 1.0])})


def reached(values):
    return {"mmlu": QuestionScores(QUESTIONS, {"acc": values}), "nq": NQ}


def cell(score, kl=None):
    drift = {(1, 0): {"ce": 0.01, "kl": kl}} if kl is not None else {}
    return Cell({(1, 0): {"em": np.full(4, score)}}, {}, 3, drift=drift)


@pytest.fixture
def rows():
    return rows_of_task("clutrr", {"lofit": [cell(0.75, 0.2)], "base": [cell(0.5, 0.0)]}, baseline="base")


@pytest.fixture
def tasks():
    """Two seeds, the untouched model the same in both."""
    return {
        "clutrr": {
            "lofit": [{(1, 0): reached(TUNED[0])}, {(1, 0): reached(TUNED[1])}],
            "base": [{(1, 0): reached(BASE)}, {(1, 0): reached(BASE)}],
        }
    }


def lines_of(text):
    tables = [block for block in text.split("\n\n") if block.startswith("|")]
    return [[[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()] for table in tables]


def test_each_row_has_a_line_with_its_own_task_beside_the_others(tasks, rows):
    text = out_of_domain_tables(tasks, rows, {"mmlu": 1531, "nq": 2}, baseline="base")
    questions, scores, differences = lines_of(text)
    assert "the first ones" in text
    assert questions[2:] == [["mmlu", "6", "1,531"], ["nq", "2", "2"]]
    assert scores[0] == ["method", "clutrr: em", "mmlu: acc", "nq: exact_match", "drift CE", "drift KL"]
    assert [line[0] for line in scores[2:]] == ["base", "lofit"]
    base, lofit = scores[2:]
    assert base[1] == "0.500 [0.500, 0.500]" and lofit[1] == "0.750 [0.750, 0.750]"
    assert base[2].startswith("0.333 [") and lofit[2].startswith("0.583 [") and lofit[3].startswith("0.500 [")
    assert (base[5], lofit[4], lofit[5]) == ("0.000", "+0.010", "0.200")
    assert differences[0] == ["method", "clutrr: em", "mmlu: acc", "nq: exact_match"]
    assert differences[2][:2] == ["lofit", "+0.250 [+0.250, +0.250]"]
    assert differences[2][2].startswith("+0.250 [") and differences[2][3] == "+0.000 [+0.000, +0.000]"


def test_intervals_are_those_of_a_loop_over_resamples():
    """Questions drawn again and again, the same ones for all runs, and runs drawn, too."""
    generator = np.random.default_rng(5)
    runs = generator.random((2, 40))
    draws = np.random.default_rng(1)
    means = []
    for _ in range(4000):
        questions, picked = draws.integers(40, size=40), draws.integers(2, size=2)
        means.append(np.mean([[runs[run, question] for question in questions] for run in picked]))
    found = score(runs)
    low, high = np.percentile(means, [2.5, 97.5])
    assert found.mean == pytest.approx(runs.mean())
    assert (found.low, found.high) == (pytest.approx(low, abs=0.01), pytest.approx(high, abs=0.01))
    assert found.high - found.low > 0.1


def test_a_difference_is_paired_over_questions(tasks, rows):
    """What is one better on every question has no interval, however the questions differ."""
    better = {(1, 0): {**reached(BASE), "mmlu": QuestionScores(QUESTIONS, {"acc": BASE + 1})}}
    text = out_of_domain_tables(
        {"clutrr": {"base": tasks["clutrr"]["base"], "lofit": [better, better]}},
        rows,
        {"mmlu": 6, "nq": 2},
        baseline="base",
    )
    assert lines_of(text)[2][2][2] == "+1.000 [+1.000, +1.000]"


@pytest.mark.parametrize("baseline", [None, "base"])
def test_without_the_untouched_model_there_are_scores_alone(tasks, rows, baseline):
    only = {"clutrr": {"lofit": tasks["clutrr"]["lofit"]}}
    text = out_of_domain_tables(only, rows, {"mmlu": 6, "nq": 2}, baseline=baseline)
    assert "the first ones" not in text
    assert len(lines_of(text)) == 2 and not re.search("Differences", text)


def test_without_rows_there_is_nothing(rows):
    assert out_of_domain_tables({}, rows, {}, baseline="base") == ""


def test_runs_with_other_questions_are_refused(tasks):
    other = {(1, 0): {"mmlu": QuestionScores(QUESTIONS[1:], {"acc": BASE[1:]}), "nq": NQ}}
    with pytest.raises(ValueError, match="mmlu: got runs with different questions"):
        stacked([*tasks["clutrr"]["lofit"], other], "mmlu", "acc")
