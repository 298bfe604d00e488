"""Where the stages keep things. The same paths stand in dvc.yaml."""

import os
from pathlib import Path

from lofit.storage.tables import Part

PARAMS = Path("params.yaml")
RUNTIME = Path("runtime.yaml")
DATA = Path("data")
HEAD_FILES = DATA / "heads"
PRESETS = Path("presets")
PAPER = PRESETS / "paper.csv"
LM_EVAL_TASKS = Path("lofit/scoring/lm_eval_tasks")
ARTIFACTS = Path("artifacts")
PLAN = ARTIFACTS / "plan"
DEMO = ARTIFACTS / "demo"
CONVERTED = ARTIFACTS / "converted"
BASE_MODEL = ARTIFACTS / "base_model.json"
RELEASE = ARTIFACTS / "release"


def project_root() -> Path:
    """The real checkout, also where DVC runs a stage in a temporary copy (`dvc exp run --temp`, `--queue`)."""
    return Path(os.environ.get("DVC_ROOT", ".")).resolve()


def cache_folder() -> Path:
    """Where a stage may put what it does not keep, and what it downloads."""
    folder = project_root() / ".cache"
    folder.mkdir(exist_ok=True)
    return folder


def model_notes() -> Path:
    """Where hashes of models are noted."""
    return cache_folder() / "models"


def raw_folder(task: str) -> Path:
    return ARTIFACTS / "raw" / task


def data_folder(task: str) -> Path:
    return ARTIFACTS / "data" / task


def reference_file(task: str) -> Path:
    return ARTIFACTS / "reference" / f"{task}.csv"


def scales_folder(task: str, seed: int) -> Path:
    """By seed first, so that a row which takes the heads of another task can depend on all tasks of its seed."""
    return ARTIFACTS / "scales" / str(seed) / task


def activations_folder(task: str) -> Path:
    """The folder that holds the activations of each fold in a folder of its own."""
    return ARTIFACTS / "activations" / task


def row_file(kind: str, task: str, seed: int, row: str, suffix: str = "") -> Path:
    """What a row has of some kind: `artifacts/<kind>/<task>/<seed>/<row><suffix>`."""
    return ARTIFACTS / kind / task / str(seed) / f"{row}{suffix}"


def ranking_file(task: str, seed: int, row: str) -> Path:
    """The scores of all heads, where a stage of their own makes them."""
    return row_file("rankings", task, seed, row, ".csv")


def trials_file(task: str, seed: int, row: str) -> Path:
    """What a search of settings has tried."""
    return row_file("trials", task, seed, row, ".csv")


def heads_file(task: str, seed: int, row: str) -> Path:
    return row_file("heads", task, seed, row, ".csv")


def scores_file(task: str, seed: int, row: str) -> Path:
    return row_file("scores", task, seed, row, ".csv")


def out_of_domain_file(task: str, seed: int, row: str) -> Path:
    """The scores of a row on other tasks."""
    return row_file("scores", task, seed, row, ".out_of_domain.csv")


def curve_file(task: str, seed: int, row: str) -> Path:
    return row_file("curves", task, seed, row, ".csv")


def predictions_file(task: str, seed: int, row: str) -> Path:
    return row_file("predictions", task, seed, row, ".jsonl")


def adapter_folder(task: str, seed: int, row: str) -> Path:
    """The folder that holds a row's adapters, one in each folder in it."""
    return row_file("adapters", task, seed, row)


def part_name(part: Part, draws: int = 1) -> str:
    """What a part of a row is called: `fold_0`, or `draw_2_fold_0` where its heads are drawn several times."""
    draw, fold = part
    return f"fold_{fold}" if draws == 1 else f"draw_{draw}_fold_{fold}"


def part_names(parts: list[Part]) -> dict[Part, str]:
    """The names of all parts of a row."""
    draws = len({draw for draw, _ in parts})
    return {part: part_name(part, draws) for part in parts}


def scales_name(fold: int) -> str:
    """What the tensor of a fold is called in scales.safetensors."""
    return f"fold_{fold}"


def metrics_folder(run: str, *cell: str | int) -> Path:
    """The figures of a run that go to git, of the whole run or of a task, a seed, a row."""
    return Path("metrics", run, *map(str, cell))


def reports_folder(run: str) -> Path:
    return Path("reports", run)


def studies_folder(run: str) -> Path:
    return reports_folder(run) / "studies"
