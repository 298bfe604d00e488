"""Tracking: complete, and never in the way."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from stages import mlflow_writer, tracking


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A project root with an MLflow store of its own."""
    root = tmp_path_factory.mktemp("root")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DVC_ROOT", str(root))
        for name in ("MLFLOW_TRACKING_URI", "LOFIT_TRACKING"):
            patch.delenv(name, raising=False)
        yield root
        # `track` fills in what the user has not set; other tests must not meet it.
        for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
            patch.delenv(name)


@pytest.fixture(scope="module")
def client(store):
    with tracking.track(tracking.CELLS, "first", {}):
        pass
    from mlflow import MlflowClient

    return MlflowClient(f"sqlite:///{store / 'mlflow.db'}")


def wait_for_status(client, name, wanted):
    deadline = time.monotonic() + 60
    while [run.info.status for run in runs(client, name)] != wanted:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def runs(client, name):
    experiment = client.get_experiment_by_name(tracking.CELLS).experiment_id
    return client.search_runs([experiment], f"attributes.run_name = '{name}'")


def test_a_run_holds_what_was_logged(store, client, tmp_path):
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "config.json").write_text("{}")
    with tracking.track(tracking.CELLS, "whole", {"task": "t"}) as run:
        begun = time.time() * 1000
        run.params({"lr": 0.1})
        for step in range(1200):
            run.metrics({"loss": 1 / 3}, step=step)
        run.artifact(tmp_path / "adapter", "adapter")
        time.sleep(0.5)
        run.heat_maps([("norms", np.eye(2), [(0, 1)])])
    (found,) = runs(client, "whole")
    assert found.info.status == "FINISHED"
    # The stage's own times, not those of the process that writes them down.
    assert found.info.start_time <= begun and found.info.end_time >= begun + 500
    assert found.data.params == {"lr": "0.1"}
    assert found.data.tags["task"] == "t"
    assert len(client.get_metric_history(found.info.run_id, "loss")) == 1200
    assert found.data.metrics["loss"] == 0.333333
    kept = store / "mlartifacts" / found.info.artifact_uri.removeprefix("mlflow-artifacts:/")
    assert {str(file.relative_to(kept)) for file in kept.rglob("*.*")} == {"adapter/config.json", "heads.png"}


def test_the_scores_of_a_run_get_columns_in_the_table(store, client):
    with tracking.track(tracking.CELLS, "columns", {}) as run:
        for name in ("test/mc1_lofit", "test/exact_match", "test/mc1_lofit"):
            run.show_columns([name])
    tag = client.get_experiment_by_name(tracking.CELLS).tags[mlflow_writer.VIEW_TAG]
    columns = json.loads(tag)["selectedColumns"]
    first = columns.index("metrics.`test/mc1_lofit`")
    assert columns[first : first + 3] == [
        "metrics.`test/mc1_lofit`",
        "metrics.`test/exact_match`",
        "metrics.`trained_parameters`",
    ]
    assert len(columns) == len(set(columns)) == len(mlflow_writer.VIEW["selectedColumns"]) + 2


@pytest.mark.parametrize(("error", "status"), [(ValueError, "FAILED"), (SystemExit, "KILLED")])
def test_a_run_is_closed_however_the_block_ends(store, client, error, status):
    with pytest.raises(error), tracking.track(tracking.CELLS, error.__name__, {}):
        raise error
    assert [run.info.status for run in runs(client, error.__name__)] == [status]


@pytest.mark.parametrize("both", [False, True], ids=["stage", "stage and writer"])
def test_the_run_of_a_killed_process_is_closed(store, client, both):
    """By the writer, whose orders just end; where that was killed too, by the next run."""
    name = f"killed {both}"
    opened = f"with tracking.track(tracking.CELLS, {name!r}, {{}}): time.sleep(600)"
    code = f"import time; from stages import tracking\n{opened}"
    stage = subprocess.Popen([sys.executable, "-c", code, name], start_new_session=True)
    wait_for_status(client, name, ["RUNNING"])
    (os.killpg if both else os.kill)(stage.pid, signal.SIGKILL)
    assert stage.wait() == -signal.SIGKILL
    if both:
        with tracking.track(tracking.CELLS, "next", {}):
            pass
    wait_for_status(client, name, ["KILLED"])


def test_a_stage_does_not_import_mlflow(store):
    code = "import sys; from stages import tracking\nwith tracking.track(tracking.CELLS, 'light', {}): pass"
    subprocess.run([sys.executable, "-c", f"{code}\nassert 'mlflow' not in sys.modules"], check=True)


@pytest.mark.parametrize("listens", [False, True])
def test_a_server_that_does_not_answer_costs_one_warning(store, monkeypatch, capfd, listens):
    silent = socket.create_server(("127.0.0.1", 0))
    address = f"http://127.0.0.1:{silent.getsockname()[1]}"
    if not listens:
        silent.close()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    begun = time.monotonic()
    with tracking.track(tracking.CELLS, "dead", {}) as run:
        while run.active:
            run.metrics({"loss": 1.0})
            run.flush()
            time.sleep(0.1)
            # MLflow's own patience is four minutes with no server and a quarter of an hour with one that hangs.
            assert time.monotonic() - begun < 60
    said = capfd.readouterr().err
    assert said.count("warning: MLflow is not available; the work goes on without tracking") == 1
    assert "Traceback" not in said
    silent.close()


def test_a_store_that_fails_half_way_costs_one_warning(store, capfd):
    with tracking.track(tracking.CELLS, "half", {}) as run:
        run.artifact(store / "nowhere")
        run.params({"b": 1})
        run.metrics({"loss": 1.0})
    said = capfd.readouterr().err
    assert said.count("warning: MLflow stopped answering; this run is tracked no further") == 1
    assert "Traceback" not in said


def test_tracking_can_be_switched_off(store, client, monkeypatch):
    monkeypatch.setenv("LOFIT_TRACKING", "off")
    with tracking.track(tracking.CELLS, "off", {}) as run:
        run.params({"a": 1})
    assert runs(client, "off") == []


def test_the_link_opens_the_cells_experiment(store, client, monkeypatch, tmp_path):
    experiment = client.get_experiment_by_name(tracking.CELLS).experiment_id
    assert f"/#/experiments/{experiment}/runs?workflowType=machine_learning" in tracking.ui_link()
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    assert tracking.ui_link() is None


def test_nested_blocks_become_dotted_parameters():
    assert tracking.flatten({"a": {"b": 1, "c": {"d": None}}, "e": 2}) == {"a.b": 1, "a.c.d": None, "e": 2}
