"""The project's own MLflow store: it goes where the project goes, and writes nowhere else."""

import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from functools import partial
from pathlib import Path

import pytest

from stages import mlflow_store, tracking

ROOT = Path(__file__).parents[2]
ODD = "it's 100% #1? ü &x"
FILES = {"scores.csv": "a,b\n", "adapter/config.json": "{}"}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a project in which `first` has run, for tests to copy."""
    root = tmp_path_factory.mktemp("made") / "project"
    root.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        record(root, "first", patch)
    return root


@pytest.fixture
def project(made, tmp_path, monkeypatch):
    for name in ("MLFLOW_TRACKING_URI", "LOFIT_TRACKING"):
        monkeypatch.delenv(name, raising=False)
    return Path(shutil.copytree(made, tmp_path / "project"))


@pytest.fixture
def client(project, monkeypatch):
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow import MlflowClient

    return MlflowClient(f"sqlite:///{project / 'mlflow.db'}")


@pytest.mark.parametrize("name", [ODD, 'a%20b "c"; $HOME\\', "mlflow.db?mode=ro"])
def test_a_project_of_any_name_keeps_its_runs(tmp_path, monkeypatch, name):
    root = tmp_path / name
    root.mkdir()
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    record(root, "run", monkeypatch)
    assert files_of(root, "run") == FILES
    assert tracking.ui_link() is not None
    assert {file.name for file in tmp_path.iterdir()} == {name, "run"}
    assert {file.name for file in root.iterdir()} == {"mlflow.db", "mlartifacts"}


def test_a_moved_project_takes_its_runs_along(project, monkeypatch):
    there = project.rename(project.with_name("else where"))
    record(there, "second", monkeypatch)
    assert files_of(there, "first") == files_of(there, "second") == FILES
    assert not project.exists()


def test_a_copied_project_leaves_the_original_alone(project, monkeypatch):
    copy = Path(shutil.copytree(project, project.with_name("copy")))
    before = tree(project)
    record(copy, "second", monkeypatch)
    assert tree(project) == before
    assert files_of(copy, "first") == files_of(copy, "second") == FILES
    record(project, "third", monkeypatch)
    assert files_of(project, "first") == files_of(project, "third") == FILES


def test_a_stage_in_a_copy_of_dvcs_writes_to_the_project(project, monkeypatch):
    copy = project / ".dvc/tmp/exps/standalone/tmp1"
    copy.mkdir(parents=True)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.chdir(copy)
    record(project, "second", monkeypatch)
    assert files_of(project, "second") == FILES
    assert list(copy.iterdir()) == []


def test_the_own_store_named_by_its_address_is_the_own_store(project, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
    record(project, "second", monkeypatch)
    assert files_of(project, "second") == FILES


def test_another_store_is_left_to_mlflow(project, tmp_path, monkeypatch):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    before = tree(project)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///other.db")
    monkeypatch.chdir(elsewhere)
    record(project, "second", monkeypatch)
    assert tree(project) == before
    place = Path(artifact_uri(elsewhere / "other.db", "second"))
    assert place.is_relative_to(elsewhere) and content(place) == FILES


@pytest.mark.parametrize("moved", [False, True])
def test_a_store_of_an_older_version_goes_on_unless_it_was_moved(tmp_path, monkeypatch, capfd, moved):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    root = tmp_path / "old er"
    root.mkdir()
    from mlflow import MlflowClient

    place = (root / "mlruns").as_uri()
    MlflowClient(f"sqlite:///{root / 'mlflow.db'}").create_experiment(tracking.CELLS, artifact_location=place)
    here = root.rename(tmp_path / "here") if moved else root
    before = tree(here)
    capfd.readouterr()
    record(here, "run", monkeypatch)
    said = capfd.readouterr().err
    if moved:
        assert not root.exists() and tree(here) == before
        assert said == (
            f"warning: the runs in mlflow.db have their files in {root / 'mlruns'}, not in this project; type "
            "`mv mlflow.db mlflow.db.old` to start a new one; the work goes on without tracking\n"
        )
        (here / "mlflow.db").rename(here / "mlflow.db.old")
        record(here, "run", monkeypatch)
        assert files_of(here, "run") == FILES
    else:
        (run,) = (root / "mlruns").iterdir()
        assert content(run / "artifacts") == FILES and not (root / "mlartifacts").exists()


def test_a_deleted_experiment_starts_afresh(project, client, monkeypatch):
    experiment = client.get_experiment_by_name(tracking.CELLS)
    monkeypatch.setenv("DVC_ROOT", str(project))
    assert tracking.ui_link() is not None
    client.delete_experiment(experiment.experiment_id)
    assert tracking.ui_link() is None
    record(project, "second", monkeypatch)
    again = client.get_experiment_by_name(tracking.CELLS)
    assert (again.experiment_id, again.lifecycle_stage) == (experiment.experiment_id, "active")
    assert shown(client) == {"second"}
    assert files_of(project, "second") == FILES
    assert f"/experiments/{again.experiment_id}/" in tracking.ui_link()


def test_stages_that_meet_a_deleted_experiment_together_lose_no_run(project, client, monkeypatch):
    client.delete_experiment(client.get_experiment_by_name(tracking.CELLS).experiment_id)
    monkeypatch.setenv("DVC_ROOT", str(project))
    with (
        tracking.track(tracking.CELLS, "a", {}),
        tracking.track(tracking.CELLS, "b", {}),
        tracking.track(tracking.CELLS, "c", {}),
    ):
        pass
    assert shown(client) == {"a", "b", "c"}


def test_more_runs_than_a_page_stay_deleted(client, monkeypatch):
    experiment = client.get_experiment_by_name(tracking.CELLS).experiment_id
    for number in range(4):
        client.create_run(experiment, run_name=str(number))
    client.delete_experiment(experiment)
    monkeypatch.setattr(client, "search_runs", partial(client.search_runs, max_results=2))
    mlflow_store.open_again(client, experiment)
    assert client.get_experiment(experiment).lifecycle_stage == "active"
    assert shown(client) == set()


@pytest.mark.slow
def test_a_server_in_the_root_serves_the_files_of_a_moved_project(project, monkeypatch):
    there = project.rename(project.with_name(ODD))
    record(there, "second", monkeypatch)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = ["-m", "mlflow", "server", "--workers", "1", "--port", str(port)]
    server = subprocess.Popen(
        [sys.executable, *command, "--backend-store-uri", "sqlite:///mlflow.db"],
        cwd=there,
        env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        for run in ("first", "second"):
            for path, text in FILES.items():
                asked = urllib.parse.urlencode({"path": path, "run_uuid": run_id(there, run)})
                assert answer(server, f"http://127.0.0.1:{port}/get-artifact?{asked}") == text
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


# ---------------------------------------------------------------------------------------------------------- helpers


def record(root, name, patch):
    """Track a run of the project in `root`, with FILES for artifacts."""
    patch.setenv("DVC_ROOT", str(root))
    source = root.parent / "run"
    for path, text in FILES.items():
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        (source / path).write_text(text)
    with tracking.track(tracking.CELLS, name, {}) as run:
        run.artifact(source / "scores.csv")
        run.artifact(source / "adapter", "adapter")


def answer(server, address):
    """The body of a page, once the server is up."""
    deadline = time.monotonic() + 180
    while True:
        try:
            return urllib.request.urlopen(address).read().decode()
        except urllib.error.HTTPError:
            raise
        except OSError:
            assert server.poll() is None and time.monotonic() < deadline
            time.sleep(0.3)


def artifact_uri(database, name):
    with sqlite3.connect(database) as connection:
        return connection.execute("select artifact_uri from runs where name = ?", (name,)).fetchone()[0]


def run_id(root, name):
    return artifact_uri(root / "mlflow.db", name).split("/")[-2]


def files_of(root, name):
    """The files of a run, at the place where a server in `root` looks for them."""
    scheme, _, place = artifact_uri(root / "mlflow.db", name).partition(":/")
    assert scheme == "mlflow-artifacts"
    return content(root / "mlartifacts" / place)


def content(folder):
    return {str(file.relative_to(folder)): file.read_text() for file in folder.rglob("*") if file.is_file()}


def tree(folder):
    return {str(file.relative_to(folder)): file.is_file() and file.read_bytes() for file in folder.rglob("*")}


def shown(client):
    """The names of the runs that the table shows."""
    experiment = client.get_experiment_by_name(tracking.CELLS).experiment_id
    return {run.info.run_name for run in client.search_runs([experiment])}
