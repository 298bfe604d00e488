"""Where unfinished work is kept, and when it is dropped."""

import shutil
import sys
from pathlib import Path

from lofit.training.checkpoint import Checkpoint, fingerprint
from stages.command import is_first_process
from stages.paths import project_root


def checkpoint_home(stage: str) -> Path:
    """The folder for the checkpoints of a stage's cell."""
    in_workspace = project_root() == Path.cwd()
    return project_root() / "checkpoints" / ("workspace" if in_workspace else "experiments") / stage


def checkpoint_folder(stage: str, *inputs: object) -> Path:
    """The folder for a loop over these inputs, in the home of its stage."""
    return checkpoint_home(stage) / fingerprint(*inputs)


def drop_stale(stage: str, keep: list[Path]) -> None:
    """Drop the checkpoints of a stage that are for other inputs than those to keep."""
    home = checkpoint_home(stage)
    # Experiments of a queue run side by side, each with inputs of its own: none may drop another's.
    if project_root() != Path.cwd() or not home.exists() or not is_first_process():
        return
    stale = [folder for folder in home.iterdir() if folder not in keep]
    if stale:
        print(f"{stage}: its inputs have changed; dropping {len(stale)} checkpoints", file=sys.stderr)
    for folder in stale:
        shutil.rmtree(folder)


def open_checkpoint(stage: str, *inputs: object) -> Checkpoint:
    """The checkpoint of a stage that is one loop."""
    folder = checkpoint_folder(stage, *inputs)
    drop_stale(stage, [folder])
    return Checkpoint(folder)
