"""Evaluation out of domain: what is wrong with its settings, and what decides its results."""

import hashlib
from collections.abc import Iterator
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from lofit.models.identity import file_hash, folder_hash
from lofit.tasks.question_files import FILES
from stages.params.code import code_hash
from stages.params.schema import OutOfDomain, Params
from stages.paths import LM_EVAL_TASKS
from stages.plan import Plan


def faults(params: Params) -> Iterator[str]:
    """Rows that are not computed, and tasks that are missing; which tasks there are, the stage check asks lm-eval."""
    run, block = params.run, params.out_of_domain
    for key, values in (("run.out_of_domain", run.out_of_domain), ("out_of_domain.tasks", block.tasks)):
        for value in dict.fromkeys(value for value in values if values.count(value) > 1):
            yield f"{key}: got {value!r} twice; expected each once"
    for row in run.out_of_domain:
        if row not in run.rows:
            yield f"run.out_of_domain: got {row!r}; expected {', '.join(run.rows)}, the rows of run"
    if run.out_of_domain and not block.tasks:
        yield "out_of_domain.tasks: got []; expected at least one task, as run.out_of_domain names rows"


def plan(block: OutOfDomain) -> Plan:
    """The same for all cells: which model and which adapter, DVC sees itself."""
    # Tasks of one's own may read any of the files.
    places = [FILES[name] for name in block.tasks if name in FILES] if block.folder is None else [""]
    return {
        "settings": block.model_dump(),
        "files": {place: tree_hash(Path(block.files, place)) for place in places},
        "folder": tree_hash(Path(block.folder)) if block.folder else None,
        "tasks": folder_hash(LM_EVAL_TASKS),
        "lm_eval": version("lm_eval") if find_spec("lm_eval") else None,
        "code": code_hash("stages.out_of_domain", "lofit.tasks.question_files"),
    }


def tree_hash(place: Path) -> str:
    """SHA-256 of a file, or over the files of a folder and of the folders in it."""
    found = [place] if place.is_file() else sorted(path for path in place.rglob("*") if path.is_file())
    lines = (f"{path.relative_to(place).as_posix()} {file_hash(path)}\n" for path in found)
    return hashlib.sha256("".join(lines).encode()).hexdigest()
