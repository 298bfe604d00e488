"""What a stage has cost: seconds and memory. No result depends on it, so DVC does not know of it.

Each stage that fits writes a file of `artifacts/costs`; the report makes `costs.csv` and `costs.md` of those that it
finds. They are not the same twice, so they are no outs of any stage.
"""

import resource
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lofit.storage.files import read_json, write_json
from lofit.training.loop import Progress
from stages import paths

STEP_1 = "step_1"
"""In place of a row: step 1 serves all rows of a task."""


def write_costs(stage: str, task: str, seed: int, row: str, parts: Iterable[Progress], draws: int = 1) -> dict:
    """Note what the parts of a cell have taken: seconds for one draw of heads, and the process's peak of memory."""
    known = list(parts)
    figures = {
        "seconds": round(sum(part.seconds for part in known) / draws, 2),
        "search_seconds": round(sum(part.search_seconds for part in known) / draws, 2),
        "host_bytes": peak_host_bytes(),
        "device_bytes": peak_device_bytes(),
    }
    write_json(costs_file(stage, task, seed, row), figures)
    return figures


def costs_file(stage: str, task: str, seed: int, row: str) -> Path:
    return paths.ARTIFACTS / "costs" / task / str(seed) / row / f"{stage}.json"


def cost_of_cell(task: str, seed: int, row: str, *, fitting: str, selecting: str | None) -> dict[str, float | None]:
    """What a row has cost on a task, as `lofit.report.costs.Cost` names it; a figure that is not known is left out.

    Args:
        fitting: the stage that fitted it.
        selecting: the stage that scored its heads: train_scales, measure_heads, or none.
    """
    fitted = read_costs(fitting, task, seed, row)
    if not fitted:
        return {}
    figures = {
        "training_seconds": fitted["search_seconds"] or fitted["seconds"],
        "host_bytes": fitted["host_bytes"],
        "device_bytes": fitted["device_bytes"],
    }
    shared = STEP_1 if selecting == "train_scales" else row
    chosen = read_costs(selecting, task, seed, shared) if selecting else {}
    return figures | ({"selection_seconds": chosen["seconds"]} if chosen else {})


def read_costs(stage: str, task: str, seed: int, row: str) -> dict[str, Any]:
    """What `write_costs` noted; nothing where the stage ran elsewhere, or DVC took its result from the cache."""
    file = costs_file(stage, task, seed, row)
    return read_json(file) if file.exists() else {}


def peak_host_bytes() -> int:
    """The largest share of memory that this process has held."""
    # Linux counts kilobytes, macOS bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def peak_device_bytes() -> int | None:
    """The same of the accelerator; None where there is none that tells."""
    import torch

    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None
