"""The stage out_of_domain, run by dvc: what it writes, what stands in the report, and what an edit runs again."""

import csv
import json

import pytest
from question_files import write_question_files

pytestmark = pytest.mark.slow

TASK = "truthfulqa"
ROWS = ["base", "lofit"]
NAMES = ["mmlu_val_local", "nq_open_local", "mine"]
PAGE = """
task: mine
dataset_path: json
dataset_kwargs:
  data_files: {test: data/own/questions.jsonl}
test_split: test
output_type: multiple_choice
doc_to_text: "{{q}}"
doc_to_choice: ["yes", "no"]
doc_to_target: a
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""


@pytest.fixture(scope="module")
def project(make_checkout):
    """Base and LoFiT on two folds of one task, asked three other ones, run once."""
    pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install -e '.[out-of-domain]'")
    checkout = make_checkout("asked")
    data = checkout.folder / "data"
    write_question_files(data / "ood")
    (data / "own").mkdir()
    (data / "own/mine.yaml").write_text(PAGE)
    (data / "own/questions.jsonl").write_text(
        "".join(json.dumps({"q": f"Is it {i}?", "a": i % 2}) + "\n" for i in range(7))
    )
    checkout.edit("run.tasks", [TASK])
    checkout.edit(f"tasks.{TASK}.preprocess.folds", [0, 1])
    checkout.edit("run.out_of_domain", ROWS)
    checkout.edit("out_of_domain.tasks", NAMES)
    checkout.edit("out_of_domain.folder", "data/own")
    checkout.first = checkout.repro()
    return checkout


def scores(project, row):
    with (project.folder / f"artifacts/scores/{TASK}/1/{row}.out_of_domain.csv").open(newline="") as opened:
        return list(csv.DictReader(opened))


def figures(project, row):
    return json.loads((project.folder / f"metrics/tiny/{TASK}/1/{row}/out_of_domain.json").read_text())


def test_each_row_is_asked_by_both_folds_and_stands_in_the_report(project):
    assert {f"out_of_domain@{TASK}-1-{row}" for row in ROWS} <= set(project.first)
    for row in ROWS:
        found = scores(project, row)
        assert len(found) == 2 * (5 + 2 + 7) and {line["fold"] for line in found} == {"0", "1"}
        told = figures(project, row)
        assert [(name, told[name]["questions"], told[name]["of"]) for name in NAMES] == [
            ("mmlu_val_local", 5, 5),
            ("nq_open_local", 2, 2),
            ("mine", 7, 7),
        ]
        mine = [float(line["score"]) for line in found if line["task"] == "mine"]
        assert told["mine"]["acc"] == pytest.approx(sum(mine) / 14, abs=1e-6)
    summary = (project.folder / "reports/tiny/summary.md").read_text()
    section = summary.partition("# Out of domain\n")[2].partition("\n# ")[0]
    assert f"| method | {TASK}: mc1_clean " in section and "| mine: acc " in section
    assert section.index("\n| base ") < section.index("\n| lofit ") and "Differences to `base`" in section


def test_a_second_repro_runs_nothing_and_a_rerun_writes_the_same_bytes(project):
    assert project.repro() == []
    before = project.bytes_of("artifacts/scores/**/*.out_of_domain.csv", "metrics/**/out_of_domain.json")
    file = project.folder / f"artifacts/scores/{TASK}/1/lofit.out_of_domain.csv"
    file.chmod(0o644)
    file.unlink()
    command = ("python", "-m", "stages.out_of_domain", "--task", TASK, "--seed", "1", "--run-name", "tiny")
    project(*command, "--method", "lofit")
    assert project.bytes_of("artifacts/scores/**/*.out_of_domain.csv", "metrics/**/out_of_domain.json") == before


def test_another_limit_asks_again_and_trains_nothing(project):
    project.edit("out_of_domain.limit", 3)
    ran = set(project.repro())
    assert ran == {"check", "report", *(f"out_of_domain@{TASK}-1-{row}" for row in ROWS)}
    assert figures(project, "base")["mine"] == figures(project, "base")["mine"] | {"questions": 3, "of": 7}
    assert [line["question"] for line in scores(project, "base") if line["task"] == "mmlu_val_local"][:3] == [
        "0",
        "1",
        "3",
    ]
    section = (project.folder / "reports/tiny/summary.md").read_text().partition("# Out of domain\n")[2]
    (line,) = [line for line in section.splitlines() if line.startswith("| mine ")]
    assert [cell.strip() for cell in line.split("|")[2:4]] == ["3", "7"]


def test_what_is_not_there_is_told_before_anything_runs(project):
    (project.folder / "data/ood/nq_open/NQ-open.dev.jsonl").unlink()
    project.edit("out_of_domain.tasks", [*NAMES, "nobody_knows_this"])
    assert project.repro(ok=False) == ["check"]
    faults = [line for line in project.output.splitlines() if line.startswith("error: ")]
    assert len(faults) == 2 and "nq_open_local" in faults[0] and "nobody_knows_this" in faults[1]
