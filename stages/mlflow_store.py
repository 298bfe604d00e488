"""The MLflow store: the project's own, or the one that `MLFLOW_TRACKING_URI` names.

The project's own store remembers no place on the disk, so that a project can be moved and copied with its runs. They
keep their files at `mlflow-artifacts:/...`, which is for a server to resolve: `mlflow server`, started in the project's
root, has them in its default `./mlartifacts`. They are written there, without a server.
"""

import os
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from lofit.errors import LofitError

DATABASE = "sqlite:///mlflow.db"
"""Relative: a path in a URI would have to be quoted, and could not hold every character."""

OWN = f"{DATABASE}?timeout=60"
FILES = "mlartifacts"
"""Where `mlflow server` has the files of runs if it is not told otherwise."""

OLD_FILES = "mlruns"
"""Where runs of older versions have theirs."""

PATIENCE_SECONDS = 3.0


def connect(root: Path) -> Any:
    """A client of the store; for the project's own, the process goes to its root, where that store's paths begin."""
    if os.environ.get("MLFLOW_TRACKING_URI") in (None, "", DATABASE):
        os.environ["MLFLOW_TRACKING_URI"] = OWN
        os.chdir(root)
    defaults = {
        # MLflow's own defaults wait four minutes for a server that is not there.
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_DISABLE_AGENT_HINT": "true",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "MLFLOW_LOGGING_LEVEL": "ERROR",
    }
    for key, value in defaults.items():
        if not os.environ.get(key):
            os.environ[key] = value
    store = os.environ["MLFLOW_TRACKING_URI"]
    # MLflow retries for more than a minute before it admits that it cannot write.
    if store == OWN and not os.access(root, os.W_OK):
        raise PermissionError(f"{root} is not writable")
    if store.startswith(("http://", "https://")):
        knock(store)
    from mlflow import MlflowClient

    return MlflowClient()


def is_own(client: Any) -> bool:
    """Whether the store of a client is the project's own."""
    return client.tracking_uri == OWN


def knock(server: str) -> None:
    """Wait a few seconds for any answer at all: a server that hangs would cost each call many times that."""
    with suppress(urllib.error.HTTPError):
        urllib.request.urlopen(f"{server.rstrip('/')}/health", timeout=PATIENCE_SECONDS).close()


def open_experiment(client: Any, name: str, tags: Mapping[str, str]) -> str:
    """The id of the experiment called `name`: found, opened again, or new and with these tags.

    Raises:
        LofitError: its files lie in another project.
    """
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            place = f"mlflow-artifacts:/{name}" if is_own(client) else None
            return client.create_experiment(name, artifact_location=place, tags=dict(tags))
        except MlflowException:
            # Another stage, running at the same time, was first.
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    if is_own(client):
        refuse_other_places(found.artifact_location)
    if found.lifecycle_stage == "deleted":
        open_again(client, found.experiment_id)
    return found.experiment_id


def refuse_other_places(location: str) -> None:
    """Stop where a store of an older version was moved or copied: it would write into another project."""
    from mlflow.utils.file_utils import get_local_path_or_none

    folder = get_local_path_or_none(location)
    if folder is not None and not Path(folder).resolve().is_relative_to(Path(OLD_FILES).resolve()):
        raise LofitError(
            f"the runs in mlflow.db have their files in {folder}, not in this project; "
            "type `mv mlflow.db mlflow.db.old` to start a new one"
        )


def open_again(client: Any, experiment_id: str) -> None:
    """Restore an experiment that somebody has deleted, but not its runs: they were not wanted."""
    from mlflow.entities import ViewType
    from mlflow.exceptions import MlflowException

    unwanted, token = [], ""
    while token is not None:
        page = client.search_runs([experiment_id], run_view_type=ViewType.ALL, page_token=token)
        unwanted += [run.info.run_id for run in page]
        token = page.token
    try:
        client.restore_experiment(experiment_id)
    except MlflowException:
        if client.get_experiment(experiment_id).lifecycle_stage == "deleted":
            raise
        # Another stage, running at the same time, was first, and its run is new.
        return
    for run_id in unwanted:
        client.delete_run(run_id)


def keep_files(client: Any, run_id: str, path: Path, folder: str | None = None) -> None:
    """Copy a file, or the files of a folder, to `folder` of a run."""
    place = urlsplit(client.get_run(run_id).info.artifact_uri)
    if is_own(client) and place.scheme == "mlflow-artifacts":
        from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

        files = LocalArtifactRepository(FILES)
        where = str(PurePosixPath(place.path.lstrip("/"), folder or ""))
        (files.log_artifacts if path.is_dir() else files.log_artifact)(str(path), where)
    else:
        (client.log_artifacts if path.is_dir() else client.log_artifact)(run_id, str(path), folder)
