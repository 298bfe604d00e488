"""Where the stages keep things, and how each of them starts. The same paths stand in dvc.yaml."""

import logging
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from hashlib import md5
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lofit import blocks, config
from lofit.errors import LofitError
from lofit.files import read_json
from lofit.tracking import TRAINING, Tracker, project_root, track

if TYPE_CHECKING:
    from lofit.checkpoint import Checkpoint
    from lofit.models import BaseModel

Task = Annotated[str, typer.Option(help="A task of params.yaml.")]
Seed = Annotated[int, typer.Option(help="Decides initial vectors, order of examples and random heads.")]
Method = Annotated[str, typer.Option(help="A method of params.yaml.")]

PARAMS = Path("params.yaml")
ARTIFACTS = Path("artifacts")
TABLES = ARTIFACTS / "tables"
METRICS = Path("metrics")
REPORTS = Path("reports")
BASE_MODEL = ARTIFACTS / "base_model.json"
DEMO = ARTIFACTS / "demo"
PAPER = Path("presets/paper.csv")


@dataclass(frozen=True)
class Place:
    """The folders of a task, of a (task, seed) or of a whole cell (task, seed, method)."""

    artifacts: Path

    tables: Path
    """What the report reads: small tables, kept apart so that it can depend on all of them at once."""

    metrics: Path
    """Figures that go to git."""


def place(*parts: str | int) -> Place:
    names = [str(part) for part in parts]
    return Place(ARTIFACTS.joinpath(*names), TABLES.joinpath(*names), METRICS.joinpath(*names))


def raw_folder(task: str) -> Path:
    return ARTIFACTS / task / "raw"


def data_folder(task: str) -> Path:
    return ARTIFACTS / task / "data"


def reference_file(task: str) -> Path:
    return ARTIFACTS / task / "reference.csv"


def adapter_folder(where: Place, fold: int, name: str = "adapter") -> Path:
    """Where the adapter of a fold is: that of fold 0 is the cell's own, as other tasks have no other.

    `adapter` is as trained, `release` the same with its scores in the card.
    """
    folder = where.artifacts / name
    return folder / f"fold_{fold}" if fold else folder


def scratch_folder() -> Path:
    """Where a stage may put what it does not keep."""
    folder = project_root() / ".cache"
    folder.mkdir(exist_ok=True)
    return folder


def scales_name(fold: int) -> str:
    """What the tensor of a fold is called in scales.safetensors."""
    return f"scales_fold_{fold}" if fold else "scales"


def joined_md5(files: Sequence[Path]) -> str:
    """One md5 for several files: that of the file itself where there is only one."""
    sums = [md5(file.read_bytes()).hexdigest() for file in files]
    return sums[0] if len(sums) == 1 else md5("".join(sums).encode()).hexdigest()


def training_name(stage: str, task: str, seed: int, *method: str) -> str:
    """What the run of a training stage is called, in MLflow and beside its progress bar."""
    return "/".join(map(str, (stage, task, *method, seed)))


def training_run(stage: str, task: str, seed: int, *method: str) -> AbstractContextManager[Tracker]:
    """The MLflow run of a training stage; see `lofit.tracking.track`."""
    return track(TRAINING, training_name(stage, task, seed, *method), {"stage": stage, "task": task, "seed": seed})


def read_params() -> blocks.Params:
    return config.load(PARAMS)


def read_base_model(params: blocks.Params) -> "BaseModel":
    """The resolved base model, once every K in params.yaml is known to fit it."""
    from lofit.models import BaseModel

    base = BaseModel.from_json(read_json(BASE_MODEL))
    check_heads(params, base.layout.size)
    return base


def check_heads(params: blocks.Params, size: int) -> None:
    """Refuse a K beyond the `size` heads of the model, in any cell of `run`.

    Raises:
        LofitError: one line per key.
    """
    faults = [
        f"{PARAMS}: {select_heads_key(params, task, method, 'k')}: met {k}; allowed: 1 to {size}, "
        f"the heads of {params.model.name}"
        for task, method in tuned_cells(params)
        if (k := params.cell(task, method).select_heads.k) > size
    ]
    if faults:
        raise LofitError("\n".join(dict.fromkeys(faults)))


def tuned_cells(params: blocks.Params) -> list[tuple[str, str]]:
    """The tasks and methods of `run` that tune heads."""
    tuning = [method for method in params.run.methods if params.methods[method].kind != "base"]
    return [(task, method) for task in params.run.tasks for method in tuning]


def select_heads_key(params: blocks.Params, task: str, method: str, name: str) -> str:
    """Where in params.yaml a key of select_heads stands that a cell listens to."""
    overridden = name in params.methods[method].select_heads
    return f"methods.{method}.select_heads.{name}" if overridden else f"tasks.{task}.select_heads.{name}"


def open_checkpoint(stage: str, *inputs: object) -> "Checkpoint":
    """The checkpoint of this loop over these inputs; drops those of the same stage over other inputs."""
    from lofit.checkpoint import Checkpoint, fingerprint

    in_workspace = project_root() == Path.cwd()
    home = project_root() / "checkpoints" / ("workspace" if in_workspace else "experiments") / stage
    # The code counts among the inputs: half a run by the old code and half by the new would be neither's result.
    code = sorted([*Path("lofit").rglob("*.py"), *Path("stages").glob("*.py")])
    folder = home / fingerprint(*inputs, *code)
    # Experiments of a queue run side by side, each with inputs of its own: none may drop another's.
    for stale in list(home.iterdir()) if in_workspace and home.exists() and is_first_process() else ():
        if stale != folder:
            print(f"{stage}: its inputs have changed; dropping the checkpoint of an unfinished run", file=sys.stderr)
            shutil.rmtree(stale)
    return Checkpoint(folder)


def is_first_process() -> bool:
    """Whether this is the process that writes, of those that train together."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


def main(stage: Callable[..., None]) -> None:
    """Run a stage as a command whose options are its parameters; a fault is one line and exit status 1."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(stage)
    try:
        app()
    except LofitError as error:
        # Of several processes, all meet it.
        if not is_first_process():
            sys.exit(1)
        sys.exit("\n".join(f"error: {line}" for line in str(error).splitlines()))


def share_work(stage: str) -> None:
    """Begin the stage anew as several processes, where LOFIT_PROCESSES asks for them.

    It is no key of params.yaml: like the number of threads it decides how fast a result comes, not what it is.

    Raises:
        LofitError: it is not a number of processes.
    """
    count = os.environ.get("LOFIT_PROCESSES", "1")
    if not count.isdecimal() or int(count) < 1:
        raise LofitError(f"LOFIT_PROCESSES: met {count!r}; allowed: a whole number from 1")
    if int(count) == 1 or "LOCAL_RANK" in os.environ:
        return
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    threads = os.environ.setdefault("OMP_NUM_THREADS", str(max((os.cpu_count() or 1) // int(count), 1)))
    print(f"{stage}: {count} processes, {threads} CPU threads each", file=sys.stderr)
    # The processes have said by themselves what went wrong.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    options = ["--standalone", "--nproc-per-node", count, "--log-dir", str(project_root() / ".cache" / "processes")]
    try:
        run.main([*options, "--module", f"stages.{stage}", *sys.argv[1:]])
    except ChildFailedError:
        sys.exit(1)
    sys.exit(0)
