"""Where the plan of a cell is, and what it says; `stages.params.plan` makes it."""

from pathlib import Path
from typing import Any

from lofit.errors import LofitError
from lofit.storage.files import read_json
from stages import paths

Plan = dict[str, Any]
"""What decides a cell's result, as plain values."""


def plan_file(stage: str, task: str | None = None, row: str | None = None) -> Path:
    """Where the plan of a cell is."""
    folder = paths.PLAN / stage
    return folder / task / f"{row}.json" if task and row else folder / f"{task or 'plan'}.json"


def read_plan(stage: str, task: str | None = None, row: str | None = None) -> Plan:
    """The plan of a cell, as the stage check wrote it.

    Raises:
        LofitError: there is none.
    """
    file = plan_file(stage, task, row)
    if not file.exists():
        raise LofitError(f"{file}: no such file; expected a cell of params.yaml's run, after `dvc repro check`")
    return read_json(file)
