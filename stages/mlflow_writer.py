"""The process that writes an MLflow run, by the orders of a stage: one line of JSON each, on its standard input.

Everything goes through `MlflowClient`, which keeps no global state that a kill could leave.
"""

import getpass
import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lofit.errors import LofitError
from stages.mlflow_store import connect, keep_files, open_experiment
from stages.paths import project_root
from stages.tracking import CELLS

# Columns of the runs table, for the link that `ui_link` gives; MLflow shows none by default. Scores join as they come.
VIEW_TAG = "mlflow.sharedViewState.cells"
VIEW = {
    "searchFilter": "",
    "orderByKey": "attributes.start_time",
    "orderByAsc": False,
    "startTime": "ALL",
    "lifecycleFilter": "Active",
    "datasetsFilter": [],
    "modelVersionFilter": "All Runs",
    "selectedColumns": [
        "params.`task`",
        "params.`method`",
        "params.`seed`",
        "metrics.`trained_parameters`",
        "params.`select_heads.k`",
        "params.`select_heads.ranking`",
        "params.`tune_bias.lr`",
        "params.`train_scales.l1`",
    ],
}


def main() -> None:
    """Carry out the orders; if the store fails, say so in one warning and leave."""
    # A Ctrl-C reaches this process too, and it is for the stage to say how the run ends.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    first = sys.stdin.readline()
    if not first:
        return
    try:
        client, run_id = open_run(*json.loads(first)[1])
    except LofitError as error:
        print(f"warning: {error}; the work goes on without tracking", file=sys.stderr)
        return
    except Exception as error:
        return warn("MLflow is not available; the work goes on without tracking", error)
    # Of a stage that is killed, the orders just end.
    status, ended = "KILLED", None
    try:
        for line in sys.stdin:
            what, content = json.loads(line)
            if what == "finish":
                status, ended = content
            else:
                carry_out(client, run_id, what, content)
        client.set_terminated(run_id, status, ended)
    except Exception as error:
        warn("MLflow stopped answering; this run is tracked no further", error)


def carry_out(client: Any, run_id: str, what: str, content: Any) -> None:
    """One order of `stages.tracking.Tracker`."""
    from mlflow.entities import Metric, Param, RunTag

    match what:
        case "params":
            client.log_batch(run_id, params=[Param(*item) for item in content.items()])
        case "tags":
            client.log_batch(run_id, tags=[RunTag(*item) for item in content.items()])
        case "metrics":
            client.log_batch(run_id, metrics=[Metric(*row) for row in content])
        case "artifact":
            path, folder = content
            keep_files(client, run_id, Path(path), folder)
        case "heat_maps":
            import numpy as np

            from lofit.report.plots import heat_maps, save

            with TemporaryDirectory() as scratch:
                file = Path(scratch, "heads.png")
                save(heat_maps([(title, np.array(norms), heads) for title, norms, heads in content]), file)
                keep_files(client, run_id, file)
        case "columns":
            show_columns(client, run_id, content)


def show_columns(client: Any, run_id: str, metrics: list[str]) -> None:
    """Give these metrics a column of their own in the runs table."""
    home = client.get_experiment(client.get_run(run_id).info.experiment_id)
    # Where somebody has arranged the table otherwise, it stays as it is.
    with suppress(KeyError, ValueError):
        view = json.loads(home.tags[VIEW_TAG])
        columns = view["selectedColumns"]
        new = [column for name in metrics if (column := f"metrics.`{name}`") not in columns]
        at = columns.index("metrics.`trained_parameters`")
        view["selectedColumns"] = columns[:at] + new + columns[at:]
        if new:
            client.set_experiment_tag(home.experiment_id, VIEW_TAG, json.dumps(view))


def open_run(experiment: str, name: str, tags: dict[str, str], begun: int) -> tuple[Any, str]:
    """A client of the store, and the id of a new run in it, `begun` milliseconds after 1970."""
    root = project_root()
    client = connect(root)
    kept = {"mlflow.experimentKind": "custom_model_development"}
    if experiment == CELLS:
        kept[VIEW_TAG] = json.dumps(VIEW)
    experiment_id = open_experiment(client, experiment, kept)
    host = socket.gethostname()
    close_dead(client, experiment_id, host)
    facts = {
        "mlflow.user": getpass.getuser(),
        "mlflow.source.type": "JOB",
        "mlflow.source.git.commit": git_commit(root),
        "host": host,
        **{
            f"dvc.{key.lower()}": os.environ[f"DVC_{key}"]
            for key in ("STAGE", "EXP_NAME")
            if f"DVC_{key}" in os.environ
        },
        **tags,
    }
    run = client.create_run(experiment_id, begun, tags=facts, run_name=name)
    return client, run.info.run_id


def git_commit(root: Path) -> str:
    done = subprocess.run(["git", "-C", root, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def close_dead(client: Any, experiment_id: str, host: str) -> None:
    for run in client.search_runs([experiment_id], f"attributes.status = 'RUNNING' and tags.host = '{host}'"):
        try:
            os.kill(int(run.data.tags["pid"]), 0)
        except ProcessLookupError:
            client.set_terminated(run.info.run_id, "KILLED")
        except (PermissionError, KeyError, ValueError):
            # Somebody else's process, or not one of our runs: not ours to close.
            continue


def warn(message: str, error: Exception) -> None:
    reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"[:200]
    print(f"warning: {message} ({reason})", file=sys.stderr)


if __name__ == "__main__":
    main()
