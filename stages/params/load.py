"""params.yaml, read and validated in one go: every fault is reported at once."""

from collections.abc import Callable, Iterator
from functools import cache
from math import prod
from pathlib import Path
from string import Formatter
from typing import Any

from pydantic import ValidationError

from lofit import methods, rankings
from lofit.errors import LofitError
from lofit.models.shipped import SHIPPED
from lofit.pages import find_page, page_names
from lofit.settings import faults_in
from lofit.tasks.user_data import HUB_ID
from stages.params import effective, out_of_domain, studies
from stages.params.schema import GROUPS, Model, Params, Task
from stages.params.yaml_file import read_yaml


def load(file: Path) -> Params:
    """Read and validate params.yaml.

    Raises:
        LofitError: the message has one line per fault, each naming the key, the value and what is expected.
    """
    return validate(read_yaml(file), name=str(file))


def validate(raw: Any, *, name: str = "params.yaml") -> Params:
    """Turn plain values into `Params`, or report every fault at once (see `load`)."""
    faults: list[str] = []
    params: Params | None = None
    try:
        params = Params.model_validate(raw)
    except ValidationError as error:
        faults += faults_in(error, Params)
    faults += names_in_run(raw)
    if params is not None:
        faults += cross_check(params)
    if faults or params is None:
        raise LofitError("\n".join(f"{name}: {fault}" for fault in dict.fromkeys(faults)))
    return params


def names_in_run(raw: Any) -> list[str]:
    """Tasks and rows in `run` that are defined nowhere; looked for even where other blocks are faulty."""
    run: Any = raw.get("run") if isinstance(raw, dict) else None
    faults = []
    for key in ("tasks", *GROUPS) if isinstance(run, dict) else ():
        listed, known = run.get(key), raw.get("tasks" if key == "tasks" else "methods")
        if isinstance(listed, list) and isinstance(known, dict):
            unknown = [name for name in listed if isinstance(name, str) and name not in known]
            faults += [f"run.{key}: got {name!r}; expected {', '.join(map(str, known))}" for name in unknown]
    return faults


def cross_check(params: Params) -> list[str]:
    """Faults that only show when two blocks are read together."""
    faults = []
    lists: dict[str, list[Any]] = {"tasks": params.run.tasks, "seeds": params.run.seeds}
    for key, values in lists.items():
        twice = dict.fromkeys(value for value in values if values.count(value) > 1)
        faults += [f"run.{key}: got {value!r} twice; expected each once" for value in twice]
    faults += model_faults(params.model)
    for name, task in params.tasks.items():
        faults += task_faults(name, task, params)
    for name in params.methods:
        faults += row_faults(name, params)
    faults += run_faults(params)
    return faults


def model_faults(model: Model) -> Iterator[str]:
    """Keys that only a model on the hub can have."""
    one_file = model.name in SHIPPED or Path(model.name).suffix == ".gguf"
    for key in ("revision", "file"):
        if (value := getattr(model, key)) is not None and (one_file or model.name == "demo"):
            yield f"model.{key}: got {value!r}; expected null for {model.name}"
    if model.file is not None and not one_file and model.name != "demo" and not HUB_ID.fullmatch(model.name):
        yield f"model.name: got {model.name!r}; expected the id of a model on the hub, since model.file is a file of it"


@cache
def task_kinds() -> list[str]:
    """The modules of lofit/tasks that are tasks: those that say how their records are trained on and scored."""
    package = "lofit.tasks"
    return [name for name in page_names(package) if hasattr(find_page(package, name, what="task"), "aims")]


def task_faults(name: str, task: Task, params: Params) -> Iterator[str]:
    """What is wrong with a task's blocks."""
    kinds = task_kinds()
    if task.kind not in kinds:
        yield f"tasks.{name}.kind: got {task.kind!r}; expected {', '.join(kinds)}"
        return
    yield from (f"tasks.{name}.{fault}" for fault in foreign_keys(task))
    source = task.fetch_data.source
    if task.kind == "jsonl" and source in ("demo", "public"):
        yield f"tasks.{name}.fetch_data.source: got {source!r}; expected a file, folder or hub id for jsonl"
    elif name in params.run.tasks and source == "demo" and params.model.name != "demo":
        yield (
            f"tasks.{name}.fetch_data.source: got 'demo'; expected public, or a folder, since model.name is "
            f"{params.model.name!r}"
        )
    try:
        list(Formatter().parse(task.preprocess.template))
    except ValueError as error:
        template = f"{task.preprocess.template!r} ({error})"
        yield f"tasks.{name}.preprocess.template: got {template}; expected text and {{field}}"
    folds = task.preprocess.folds
    if folds != sorted(set(folds)):
        yield f"tasks.{name}.preprocess.folds: got {folds}; expected [0], [1] or [0, 1]"
    if (task.preprocess.val_ratio or 0) + (task.preprocess.test_ratio or 0) >= 1:
        yield f"tasks.{name}.preprocess: val_ratio and test_ratio leave nothing; expected a sum below 1"


def row_faults(name: str, params: Params) -> Iterator[str]:
    """What is wrong with a row's own block."""
    row = params.methods[name]
    if row.kind not in methods.names():
        yield f"methods.{name}.kind: got {row.kind!r}; expected {', '.join(methods.names())}"
    if "split" in (row.evaluate or {}):
        yield f"methods.{name}.evaluate.split: got an override; expected none, as all rows of a task share its split"
    for task in row.tasks:
        if task not in params.tasks:
            yield f"methods.{name}.tasks: got {task!r}; expected {', '.join(params.tasks)}"


def run_faults(params: Params) -> Iterator[str]:
    """What is wrong with the cells that are to be computed: rows in the wrong list, blocks missing or faulty."""
    run = params.run
    # Where no task is known, any shows what is wrong with the rows.
    tasks = [task for task in dict.fromkeys(run.tasks) if task in params.tasks] or list(params.tasks)[:1]
    rows = [row for row in dict.fromkeys(run.rows) if row in params.methods]
    if not run.rows:
        yield f"run: got no row; expected at least one in {', '.join(GROUPS)}"
    for row in (row for row in rows if run.rows.count(row) > 1):
        lists = [f"run.{group}" for group in GROUPS for listed in getattr(run, group) if listed == row]
        yield f"{lists[-1]}: got {row!r} twice; expected each once, in one list"
    for task in tasks:
        for block in ("train_scales", *(("select_heads", "tune_bias") if run.lofit_rows else ())):
            if getattr(params.tasks[task], block) is None:
                yield f"tasks.{task}.{block}: missing; expected a block, {{}} for its defaults"
    for row in rows:
        kind = params.methods[row].kind
        if kind not in methods.names():
            continue
        lofit_row = row in run.lofit_rows
        if lofit_row and kind != "lofit":
            yield f"run: got {row!r}, of kind {kind}, among the rows of LoFiT; expected it in run.baselines"
            continue
        blocks = ("select_heads", "tune_bias", "tune", "evaluate") if lofit_row else ("fit", "tune", "evaluate")
        missing = [block for block in blocks if getattr(params.methods[row], block) is None]
        # DVC reads each of them, and stops at a key that is not there.
        yield from (
            f"methods.{row}.{block}: missing; expected a block, {{}} where nothing differs" for block in missing
        )
        others = {"fit", "tasks"} if lofit_row else {"select_heads", "tune_bias"}
        for block in sorted(block for block in others if getattr(params.methods[row], block)):
            place = "rows that are no LoFiT" if not lofit_row else "the rows of LoFiT"
            yield f"methods.{row}.{block}: got a block; expected none for {place}, where nothing reads it"
        if not lofit_row:
            yield from list_faults(params, row)
        for task in tasks:
            yield from cell_faults(params, task, row)
    yield from comparison_faults(params)
    yield from out_of_domain.faults(params)
    yield from studies.faults(params)


def list_faults(params: Params, row: str) -> Iterator[str]:
    """A row that is no LoFiT stands among those that look at activations, or it does not."""
    page = methods.find(params.methods[row].kind)
    ranking = (params.methods[row].fit or {}).get("ranking") or page.RANKING
    pages = [page, *([rankings.find(ranking)] if ranking in rankings.names() else [])]
    reads = any(getattr(found, "NEEDS", None) == "activations" for found in pages)
    expected = "readers" if reads else "baselines"
    if row not in getattr(params.run, expected):
        what = "looks at activations" if reads else "looks at no activations"
        yield f"run: got {row!r}, which {what}; expected it in run.{expected}"


def comparison_faults(params: Params) -> Iterator[str]:
    """Rows that are to be compared and are none, and rows that are searched more than others."""
    run = params.run
    if run.comparisons is not None:
        named = {"reference": [run.comparisons.reference], "rows": run.comparisons.rows}
        for key, row in ((key, row) for key, rows in named.items() for row in rows):
            if row not in run.rows:
                yield f"run.comparisons.{key}: got {row!r}; expected {', '.join(run.rows)}"
        if run.comparisons.reference in run.comparisons.rows:
            yield f"run.comparisons.rows: got {run.comparisons.reference!r}, the reference; expected other rows"
    searched = {row: tune for row in run.rows if row in params.methods and (tune := params.methods[row].tune)}
    sizes = {row: prod(len(values) for values in tune.values()) for row, tune in searched.items()}
    first = next(iter(sizes), None)
    for row, size in sizes.items():
        if first is not None and size != sizes[first]:
            # More tries on the validation split are an advantage of their own.
            yield f"methods.{row}.tune: got {size} configurations; expected {sizes[first]}, as methods.{first} has"


def cell_faults(params: Params, task: str, row: str) -> Iterator[str]:
    """What is wrong with the settings that a row sees on a task."""
    readers: list[Callable] = [effective.evaluate]
    if row in params.run.fitted_rows:
        readers.append(effective.fit)
    elif params.tasks[task].select_heads and params.tasks[task].tune_bias:
        readers.append(effective.tune_bias)
        yield from selection_faults(params, task, row)
    for read in readers:
        try:
            read(params, task, row)
        except LofitError as error:
            yield from str(error).splitlines()


PLACES: dict[str | None, tuple[str, ...]] = {
    "scales": ("methods",),
    "other_scales": ("transfers",),
    "subject": ("measured",),
    "activations": ("probed",),
    None: ("controls", "methods"),
}
"""Which lists a row of LoFiT may stand in, by what its ranking needs."""


def selection_faults(params: Params, task: str, row: str) -> Iterator[str]:
    """What is wrong with a choice of heads: its settings, or the list that its row stands in."""
    try:
        chosen = effective.selection(params, task, row)
    except LofitError as error:
        yield from str(error).splitlines()
        return
    run, key = params.run, effective.block_key(params, task, row, "select_heads", "ranking")
    group = next(group for group in GROUPS if row in getattr(run, group))
    groups = PLACES[chosen.page.NEEDS]
    if group not in groups:
        yield f"run.{group}: got {row!r}, whose ranking is {chosen.ranking}; expected it in run.{groups[0]}"
    if chosen.page.NEEDS == "other_scales":
        other = getattr(chosen.settings, "task", None)
        if other not in run.tasks:
            place = effective.block_key(params, task, row, "select_heads", "task")
            yield f"{place}: got {other!r}; expected {', '.join(run.tasks)}, the tasks of run"
        elif (
            params.tasks[other].preprocess.folds != params.tasks[task].preprocess.folds
            and len(params.tasks[task].preprocess.folds) > 1
        ):
            yield f"{key}: got {chosen.ranking} of {other}; expected a task with the folds of {task}"
    if chosen.ranking == "listed" and len(params.tasks[task].preprocess.folds) > 1:
        # One fold's test questions are the other's training data.
        yield f"{key}: got a list of heads; expected one only where {task} has one fold"


Keys = dict[str, tuple[str, ...]]

OWN_KEYS: Keys = {
    "fetch_data": ("revision", "subset", "splits"),
    "preprocess": (
        *("template", "columns", "chat", "system", "chat_options", "group"),
        *("val_ratio", "test_ratio"),
    ),
}
PUBLISHED_KEYS: Keys = {"preprocess": ("protocol",)}
TRUTHFULQA_KEYS: Keys = {"preprocess": ("folds", "prompt", "pairs")}


def foreign_keys(task: Task) -> list[str]:
    """Keys that say something which a task of this kind does not listen to."""
    closed: dict[str, Keys] = {} if task.kind == "jsonl" else {"jsonl": OWN_KEYS}
    if task.kind == "jsonl":
        closed["truthfulqa, mquake and clutrr"] = PUBLISHED_KEYS
    if task.kind != "truthfulqa":
        closed["truthfulqa"] = TRUTHFULQA_KEYS
    faults = []
    for kinds, blocks in closed.items():
        for stage, keys in blocks.items():
            block = getattr(task, stage)
            plain = {
                key: field.get_default(call_default_factory=True) for key, field in type(block).model_fields.items()
            }
            faults += [
                f"{stage}.{key}: got {value!r}; expected only for kind {kinds}"
                for key in keys
                if (value := getattr(block, key)) != plain[key]
            ]
    return faults
