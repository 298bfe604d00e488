"""MLflow: a complete row for each cell, live curves of the training stages. It never decides whether a stage succeeds.

`MLFLOW_TRACKING_URI` names the store; without it that is `mlflow.db` in the project's root. `tracking: off` in
runtime.yaml switches tracking off. Another process does the writing (`stages/mlflow_writer.py`): importing MLflow
takes seconds, for which a stage would otherwise wait.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from hashlib import md5
from pathlib import Path
from typing import IO, Any

from stages.paths import project_root
from stages.runtime import read_runtime

CELLS = "lofit"
"""Experiment with one run per evaluated cell: the rows to compare."""

TRAINING = "lofit-training"
"""Experiment with the live curves of the training stages, joined to the cells by their md5 tags."""

STUDIES = "lofit-studies"
"""Experiment with a run for each study: its figure and its table."""

FLUSH_SECONDS = 1.0


class Tracker:
    """One MLflow run, as orders to the process that writes it; or nothing, where tracking is off or has failed."""

    def __init__(self, orders: IO[str] | None = None) -> None:
        self._orders = orders
        self._metrics: list[tuple[str, float, int, int]] = []
        self._flushed = time.monotonic()

    @property
    def active(self) -> bool:
        return self._orders is not None

    def params(self, params: Mapping[str, object]) -> None:
        self.order("params", {key: str(value) for key, value in params.items()})

    def tags(self, tags: Mapping[str, object]) -> None:
        self.order("tags", {key: str(value) for key, value in tags.items()})

    def metrics(self, metrics: Mapping[str, float], *, step: int = 0) -> None:
        """Kept back and handed over about once a second: a database write costs more than a training step."""
        at = now()
        self._metrics += [(key, round(float(value), 6), at, step) for key, value in metrics.items()]
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        for first in range(0, len(self._metrics), 1000):
            self.order("metrics", self._metrics[first : first + 1000])
        self._metrics = []
        self._flushed = time.monotonic()

    def artifact(self, path: Path, folder: str | None = None) -> None:
        """Copy a file, or the files of a folder, to the run; they must stay as they are until it ends."""
        self.order("artifact", [str(path.resolve()), folder])

    def heat_maps(self, grids: Iterable[tuple[str, Any, Any]]) -> None:
        """Draw the heads of a model by their norms, as `lofit.report.plots.heat_maps` does, into `heads.png`."""
        self.order("heat_maps", [[title, norms.tolist(), heads] for title, norms, heads in grids])

    def show_columns(self, metrics: Iterable[str]) -> None:
        """Give these metrics a column of their own in the runs table."""
        self.order("columns", list(metrics))

    def finish(self, status: str) -> None:
        self.flush()
        self.order("finish", [status, now()])

    def order(self, what: str, content: object) -> None:
        """One line of JSON to the writer; where it has left, it has said why."""
        if self._orders is None:
            return
        try:
            self._orders.write(json.dumps([what, content]) + "\n")
            self._orders.flush()
        except OSError:
            self._orders = None


@contextmanager
def track(experiment: str, name: str, tags: Mapping[str, object]) -> Iterator[Tracker]:
    """Open a run called `name` and close it however the block ends.

    Runs of the experiment that a kill left open on this host are closed too.
    """
    if not read_runtime().tracking:
        yield Tracker()
        return
    before = signal.signal(signal.SIGTERM, _exit_on_signal)
    writer = subprocess.Popen([sys.executable, "-m", "stages.mlflow_writer"], stdin=subprocess.PIPE, text=True)
    widen(writer.stdin)
    tracker = Tracker(writer.stdin)
    facts = {"mlflow.source.name": os.environ.get("DVC_STAGE", Path(sys.argv[0]).name), "pid": os.getpid(), **tags}
    tracker.order("open", [experiment, name, {key: str(value) for key, value in facts.items()}, now()])
    try:
        yield tracker
    except BaseException as error:
        tracker.finish("KILLED" if isinstance(error, KeyboardInterrupt | SystemExit) else "FAILED")
        raise
    else:
        tracker.finish("FINISHED")
    finally:
        with suppress(OSError):
            writer.stdin.close()  # type: ignore[union-attr]
        writer.wait()
        signal.signal(signal.SIGTERM, before)


def widen(pipe: IO[str] | None) -> None:
    """Let a pipe hold what is ordered while the writer still imports MLflow, where the system allows it."""
    if sys.platform == "linux" and pipe is not None:
        import fcntl

        with suppress(OSError):
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, 2**20)


def ui_link(*, host: str = "http://127.0.0.1:5000") -> str | None:
    """The runs table of the local store, with the columns that matter; None where there is no local store."""
    import sqlite3

    database = project_root() / "mlflow.db"
    if not database.exists():
        return None
    with sqlite3.connect(database) as connection:
        row = connection.execute(
            "select experiment_id from experiments where name = ? and lifecycle_stage = 'active'", (CELLS,)
        ).fetchone()
    # A bare MLflow opens in its GenAI mode, with no columns.
    query = "workflowType=machine_learning&viewStateShareKey=cells"
    return f"{host}/#/experiments/{row[0]}/runs?{query}" if row else None


def flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested blocks as one level of `block.key`."""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        flat.update(flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value})
    return flat


def md5_of(files: Sequence[Path]) -> str:
    """One md5 for several files: that of the file itself where there is only one."""
    sums = [md5(file.read_bytes()).hexdigest() for file in files]
    return sums[0] if len(sums) == 1 else md5("".join(sums).encode()).hexdigest()


def now() -> int:
    """Milliseconds since 1970: the writer carries out later what the stage orders now."""
    return int(time.time() * 1000)


def _exit_on_signal(number: int, _: object) -> None:
    raise SystemExit(128 + number)
