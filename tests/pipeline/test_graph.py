"""dvc.yaml against the code: what a stage imports is what it depends on."""

import ast
from pathlib import Path

import pytest
import yaml

from lofit.tasks.record import Judgement, Record, write_records

ROOT = Path(__file__).parents[2]
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]

# No dependencies: they start a stage, check its input, log it, read values that DVC tracks by itself, or move bytes.
NEUTRAL = {
    "lofit/__init__.py",
    "lofit/blocks.py",
    "lofit/checkpoint.py",
    "lofit/config.py",
    "lofit/errors.py",
    "lofit/faults.py",
    "lofit/figures.py",
    "lofit/files.py",
    "lofit/history.py",
    "lofit/hub.py",
    "lofit/mlflow_writer.py",
    "lofit/tracking.py",
    "stages/__init__.py",
    "stages/workspace.py",
}
# Imported by a stage, but no part of its result.
BESIDE = {
    # What the id of a hub dataset looks like.
    "check": {"lofit/tasks/__init__.py", "lofit/tasks/own.py", "lofit/tasks/record.py", "lofit/tasks/source.py"},
    # The demo takes clutrr's prompt and nothing else from the tasks.
    "base_model": {"lofit/tasks/__init__.py", "lofit/tasks/record.py", "lofit/tasks/source.py"},
    # The names of the splits, and nothing of what becomes of them.
    "fetch_data": {"lofit/tasks/__init__.py", "lofit/tasks/record.py"},
    # Step 1 saves no adapter.
    "train_scales": {"lofit/adapter_folder.py", "lofit/card.py", "lofit/provenance.py"},
    # Read for the MLflow row alone.
    "evaluate": {"lofit/selection.py"},
}
# What a stage's own product is made of, although it is neutral elsewhere.
PRODUCT = {"check": {"lofit/blocks.py", "lofit/config.py", "lofit/faults.py"}, "report": {"lofit/figures.py"}}


def imports(file: str) -> set[str]:
    """Project files that `file` imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse((ROOT / file).read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            path = Path(*name.split("."))
            candidates = (path.with_suffix(".py"), path / "__init__.py")
            found |= {str(candidate) for candidate in candidates if (ROOT / candidate).is_file()}
    return found


def needed(stage: str) -> set[str]:
    product = PRODUCT.get(stage, set())
    neutral = NEUTRAL - product | BESIDE.get(stage, set())
    seen: set[str] = set()
    todo = [f"stages/{stage}.py", *product]
    while todo:
        file = todo.pop()
        if file not in seen and file not in neutral:
            seen.add(file)
            todo += imports(file)
    return seen


@pytest.mark.parametrize("stage", STAGES)
def test_the_code_a_stage_depends_on_is_listed(stage):
    listed = {dep for dep in STAGES[stage]["deps"] if dep.startswith(("lofit", "stages"))}
    missing = {file for file in needed(stage) if not any(file == dep or file.startswith(f"{dep}/") for dep in listed)}
    assert not missing


@pytest.mark.parametrize("stage", STAGES)
def test_no_stage_depends_on_code_it_does_not_use(stage):
    listed = {dep for dep in STAGES[stage]["deps"] if dep.startswith(("lofit", "stages"))}
    assert listed <= needed(stage) | {"lofit/demo", "lofit/export", "lofit/tasks"}


def test_every_path_in_a_command_is_a_module():
    for stage in STAGES.values():
        module = stage["cmd"].split()[2]
        assert (ROOT / Path(*module.split("."))).with_suffix(".py").is_file()


@pytest.mark.parametrize(
    "stage", ["check", "fetch_data", "preprocess", "reference", "select_heads", "tune_bias", "report"]
)
def test_cheap_stages_import_neither_torch_nor_mlflow(stage, run_python):
    modules = run_python(f"import sys, stages.{stage}; print(*(m for m in ('torch', 'mlflow') if m in sys.modules))")
    assert modules.strip() == ""


JUDGEMENTS = {
    "cross_entropy": Judgement("cross_entropy", "exact_match", "clean"),
    "dpo from the initial vectors": Judgement("dpo", "multiple_choice", "lofit", reference="initial"),
}


@pytest.mark.parametrize("name", JUDGEMENTS)
def test_a_task_without_a_reference_of_its_own_waits_for_no_torch(name, tmp_path, run_python):
    record = Record("1", "Q: Who? A:", " Roy", " Anna")
    write_records(tmp_path / "artifacts/task/data", JUDGEMENTS[name], {"train": [record], "val": [record]})
    modules = run_python(
        f"import os, sys; from stages.reference import reference; os.chdir({str(tmp_path)!r}); reference('task'); "
        "print(*(m for m in ('torch', 'transformers', 'mlflow') if m in sys.modules))"
    )
    assert modules.strip() == ""
    assert (tmp_path / "artifacts/task/reference.csv").read_text() == "split,chosen,rejected\n"


def test_nothing_of_training_decides_the_reference():
    stage = STAGES["reference"]
    assert stage["matrix"] == {"task": "${run.tasks}"} and "params" not in stage
    assert not {"lofit/training.py", "lofit/adapter.py", "lofit/selection.py"} & set(stage["deps"])
    assert {"artifacts/${item.task}/data", "artifacts/base_model.json"} <= set(stage["deps"])
    for name in ("train_scales", "tune_bias"):
        assert stage["outs"][0] in STAGES[name]["deps"]
