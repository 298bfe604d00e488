"""The stage check: what it says of data that is not there."""

from pathlib import Path

import pytest

from stages.check import faulty_head_files, faulty_sources
from stages.params.load import validate
from stages.params.yaml_file import read_yaml

PARAMS = Path(__file__).parents[2] / "params.yaml"
HINT = (
    "; DVC's --temp and --queue take along only what git or DVC tracks: `git add` it, or `dvc add` it and `git add` "
    "its .dvc file"
)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project, and the temporary copy of it in which DVC runs the stages."""
    copy = tmp_path / ".dvc/tmp/exps/standalone/tmp1"
    for folder in (tmp_path, copy):
        (folder / "data/heads").mkdir(parents=True)
    monkeypatch.chdir(copy)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    return tmp_path


def params_with(source, kind="jsonl", heads=None):
    raw = read_yaml(PARAMS)
    raw["run"]["tasks"] = ["mquake"]
    raw["tasks"]["mquake"] |= {"kind": kind, "preprocess": {"val_ratio": 0.2, "test_ratio": 0.2}}
    raw["tasks"]["mquake"]["fetch_data"]["source"] = source
    if heads:
        raw["tasks"]["mquake"]["select_heads"] = {"k": 1, "ranking": "listed", "file": heads}
    return validate(raw)


def test_data_that_dvc_left_behind_is_told_with_what_to_type(project, monkeypatch):
    (project / "data/mine.jsonl").write_text("{}")
    (fault,) = faulty_sources(params_with("data/mine.jsonl"))
    assert fault.startswith("tasks.mquake.fetch_data.source: got 'data/mine.jsonl', which is not there; expected ")
    assert fault.endswith(HINT)
    (project / "data/mine.jsonl").unlink()
    (fault,) = faulty_sources(params_with("data/mine.jsonl"))
    assert "which is not there" in fault and HINT not in fault
    monkeypatch.chdir(project)
    assert faulty_sources(params_with("data/mine.jsonl")) == [fault]


def test_a_folder_that_dvc_left_behind_is_not_taken_for_a_dataset_of_the_hub(project):
    assert faulty_sources(params_with("data/mine")) == []
    (project / "data/mine").mkdir()
    (fault,) = faulty_sources(params_with("data/mine"))
    assert "got 'data/mine', which is not there" in fault and fault.endswith(HINT)


def test_a_file_of_heads_that_dvc_left_behind_is_told_with_what_to_type(project):
    params = params_with("data/mine.jsonl", heads="data/heads/a.csv")
    (fault,) = faulty_head_files(params)
    assert fault == "tasks.mquake.select_heads.file: got 'data/heads/a.csv'; expected a file in data/heads/"
    (project / "data/heads/a.csv").write_text("layer,head\n0,0\n")
    assert faulty_head_files(params) == [fault + HINT]
