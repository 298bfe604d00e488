"""Evaluation out of domain in params.yaml, and what `check` says of it; and the figures of a cell."""

import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from question_files import write_question_files

from lofit.errors import LofitError
from lofit.storage.question_scores import QuestionScores
from stages.check import faulty_tasks
from stages.out_of_domain import figures
from stages.params.load import validate
from stages.params.plan import plans

PARAMS = Path(__file__).parents[2] / "params.yaml"
NAMES = ["mmlu_val_local", "nq_open_local"]


def params_with(rows=("base",), **block):
    raw = yaml.safe_load(PARAMS.read_text())
    raw["run"]["out_of_domain"] = list(rows)
    raw["out_of_domain"] |= {"tasks": NAMES, **block}
    return validate(raw)


@pytest.fixture
def project(tmp_path, monkeypatch):
    write_question_files(tmp_path / "data/ood")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_all_faults_are_told_at_once():
    with pytest.raises(LofitError) as caught:
        params_with(rows=["base", "nobody", "base", "iti"], tasks=["a", "a"], limit=0, num_fewshot=-1)
    lines = str(caught.value).splitlines()
    assert any("out_of_domain.limit: got 0; expected" in line for line in lines)
    assert any("out_of_domain.num_fewshot: got -1; expected" in line for line in lines)
    with pytest.raises(LofitError) as caught:
        params_with(rows=["base", "nobody", "base", "iti"], tasks=["a", "a"])
    assert str(caught.value).splitlines() == [
        "params.yaml: run.out_of_domain: got 'base' twice; expected each once",
        "params.yaml: out_of_domain.tasks: got 'a' twice; expected each once",
        "params.yaml: run.out_of_domain: got 'nobody'; expected base, lofit, random_heads, the rows of run",
        "params.yaml: run.out_of_domain: got 'iti'; expected base, lofit, random_heads, the rows of run",
    ]
    with pytest.raises(LofitError, match=r"out_of_domain\.tasks: got \[\]; expected at least one task"):
        params_with(tasks=[])
    assert params_with(rows=[], tasks=[]).run.out_of_domain == []


def test_files_that_are_not_there_are_told_each_in_a_line(project):
    pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install -e '.[out-of-domain]'")
    assert faulty_tasks(params_with()) == []
    (project / "data/ood/nq_open/NQ-open.dev.jsonl").unlink()
    (fault,) = faulty_tasks(params_with())
    assert fault == (
        "out_of_domain.tasks: got nq_open_local, whose data/ood/nq_open/NQ-open.dev.jsonl is not there; "
        "expected that file or folder"
    )
    (fault,) = faulty_tasks(params_with(files="elsewhere"))
    assert fault == "out_of_domain.files: got 'elsewhere'; expected a folder below data/"
    (fault,) = faulty_tasks(params_with(tasks=["mmlu_val_local"], folder="data/none"))
    assert fault == "out_of_domain.folder: got 'data/none'; expected a folder below data/"
    (fault,) = faulty_tasks(params_with(tasks=["mmlu_val_local"], num_fewshot=5))
    assert fault.startswith("out_of_domain.num_fewshot: got 5; expected null or 0 for mmlu_val_local")


def test_without_rows_nothing_is_asked_for(project, monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    assert faulty_tasks(params_with(rows=[], files="elsewhere")) == []
    (fault,) = faulty_tasks(params_with())
    assert fault.startswith("run.out_of_domain: evaluation out of domain needs more packages; run pip install ")
    assert fault.endswith("lofit[out-of-domain]'")


def hashes(cells):
    return {cell: plan for cell, plan in cells.items() if cell[0] == "out_of_domain"}


def test_the_plan_holds_what_a_task_reads_and_nothing_else(project, monkeypatch):
    # The plan hashes the code, which stands in the project.
    for name in ("lofit", "stages"):
        (project / name).symlink_to(PARAMS.parent / name)

    def planned(**block):
        return hashes(dict(plans(params_with(rows=["lofit"], **block))))

    before = planned()
    assert set(before) == {("out_of_domain", task, "lofit") for task in ("truthfulqa", "mquake", "clutrr")}
    file = project / "data/ood/svamp/SVAMP.json"
    file.write_text("[]")
    assert planned() == before
    (project / "data/ood/mmlu/val/anatomy_val.csv").write_text("Q,a,b,c,d,A\n")
    assert planned() != before
    assert planned(limit=3) != planned()
    own = project / "data/own"
    own.mkdir()
    (own / "mine.yaml").write_text("task: mine\n")
    before = planned(folder="data/own")
    (own / "rows").mkdir()
    (own / "rows/mine.jsonl").write_text("{}\n")
    assert planned(folder="data/own") != before


def test_figures_are_means_over_parts_with_the_error_of_a_mean_over_questions():
    first, second = np.array([1.0, 0.0, 1.0, 1.0]), np.array([0.0, 0.0, 1.0, 1.0])
    parts = {
        (1, fold): {
            "a": QuestionScores(("0", "1", "2", "3"), {"acc": values}),
            "b": QuestionScores(("0",), {"em": [1]}),
        }
        for fold, values in enumerate((first, second))
    }
    found = figures(parts, {"a": 90, "b": 1})
    means = (first + second) / 2
    spread = sum((value - means.mean()) ** 2 for value in means) / 3
    assert found["a"] == {
        "questions": 4,
        "of": 90,
        "acc": pytest.approx(0.625),
        "acc_stderr": pytest.approx((spread / 4) ** 0.5, abs=1e-6),
    }
    assert found["b"] == {"questions": 1, "of": 1, "em": 1.0, "em_stderr": None}
