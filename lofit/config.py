"""params.yaml as typed blocks, validated in one go.

Every field that a user can set stands here with its meaning and its bounds; the blocks have the names of the stages.
A default belongs to the file's format: DVC sees the values in params.yaml, not the ones that it leaves out.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lofit.errors import LofitError

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_]*$"
Name = Annotated[str, Field(pattern=NAME_PATTERN)]
Text = Annotated[str, Field(pattern=r"\S")]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, le=2**31 - 1)]


class Block(BaseModel):
    """A block of params.yaml: no unknown key, no silent conversion."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Run(Block):
    """Which cells `dvc repro` computes: every combination of the three lists."""

    tasks: Annotated[list[Name], Field(min_length=1)]

    seeds: Annotated[list[Seed], Field(min_length=1)]

    methods: Annotated[list[Name], Field(min_length=1)]


class Model(Block):
    """The model to adapt."""

    name: Text
    """`demo`, a folder, or a Hugging Face id."""

    revision: str | None = None
    """Branch, tag or commit on the hub; null for its main branch."""

    dtype: Literal["float32", "bfloat16", "float16"]

    world: Seed = 0
    """Which generated world the demo model learns."""


class FetchData(Block):
    """Where a task's published files come from."""

    source: Text
    """`demo` for the generated files, or a folder."""


class Preprocess(Block):
    """How published files become records."""

    protocol: Literal["clean", "lofit"]
    """`lofit` repeats the published code's choices, `clean` corrects its faults."""

    fold: Annotated[int, Field(ge=0, le=1)] = 0
    """Which of TruthfulQA's two folds; 0 for the other tasks."""

    train_size: Count | None = None
    """How many training examples to draw; null for all."""

    seed: Seed = 42
    """Decides that draw."""


class TuneBias(Block):
    """Step 2: offsets of the selected heads."""

    lr: Positive

    epochs: Count

    batch_size: Count

    beta: Positive = 0.5
    """DPO's beta; tasks trained with cross-entropy ignore it."""

    max_length: Count = 512
    """Longest training sequence, in tokens."""


class TrainScales(TuneBias):
    """Step 1: scales of all heads."""

    l1: NotNegative
    """Weight of the L1 penalty, on the sum of absolute values."""


class SelectHeads(Block):
    """Between the steps: which heads to tune."""

    k: Count
    """How many."""

    ranking: Literal["scale_norm", "random"]

    draw: Seed = 1
    """Which random draw; `scale_norm` ignores it."""


class Evaluate(Block):
    """How the tuned model is scored."""

    split: Literal["val", "test"]

    batch_size: Count

    max_new_tokens: Count = 16
    """Length of a generated answer, in tokens."""


class Task(Block):
    """One task with a block for each stage."""

    kind: Literal["truthfulqa", "mquake", "clutrr"]
    """Which loader; two tasks may share one and differ in other keys."""

    fetch_data: FetchData
    preprocess: Preprocess
    train_scales: TrainScales
    select_heads: SelectHeads
    tune_bias: TuneBias
    evaluate: Evaluate


class Method(Block):
    """One row of the table. The blocks override single keys of the task's blocks of the same name."""

    kind: Literal["base", "lofit"]
    """`base` edits no head; `lofit` tunes the selected ones."""

    select_heads: dict[str, Any] = Field(default_factory=dict)
    tune_bias: dict[str, Any] = Field(default_factory=dict)
    evaluate: dict[str, Any] = Field(default_factory=dict)


class Params(Block):
    """The whole of params.yaml."""

    run: Run
    model: Model
    methods: dict[Name, Method]
    tasks: dict[Name, Task]

    def task(self, name: str) -> Task:
        """The task called `name`; a LofitError where there is none."""
        if name not in self.tasks:
            raise LofitError(f"task: met {name!r}; allowed: {', '.join(self.tasks)}")
        return self.tasks[name]

    def cell(self, task: str, method: str) -> Task:
        """The task's blocks as `method` sees them, its overrides applied."""
        if method not in self.methods:
            raise LofitError(f"method: met {method!r}; allowed: {', '.join(self.methods)}")
        return cell(self.task(task).model_dump(), self.methods[method])


OVERRIDABLE = ("select_heads", "tune_bias", "evaluate")


def cell(task: dict, method: Method) -> Task:
    """A task, as plain values, with the overrides of `method`, validated."""
    merged = {**task, **{stage: {**task[stage], **getattr(method, stage)} for stage in OVERRIDABLE}}
    return Task.model_validate(merged)


class UniqueKeyLoader(yaml.SafeLoader):
    """YAML as usual, but a key that stands twice is a fault instead of the last one winning."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        keys = [key.value for key, _ in node.value]
        for key, _ in node.value:
            if keys.count(key.value) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} stands twice", key.start_mark)
        return super().construct_mapping(node, deep)


def load(file: Path) -> Params:
    """Read and validate params.yaml.

    Raises:
        LofitError: the message has one line per fault, each naming the key, the value met and what is allowed.
    """
    try:
        raw = yaml.load(file.read_text(encoding="utf-8"), Loader=UniqueKeyLoader)
    except OSError as error:
        raise LofitError(f"{file}: {error.strerror}; allowed: a file; run from the project's root") from None
    except UnicodeDecodeError as error:
        raise LofitError(f"{file}: byte {error.start} is not UTF-8") from None
    except yaml.YAMLError as error:
        raise LofitError(f"{file}: {' '.join(str(error).split())}") from None
    return validate(raw, name=str(file))


def validate(raw: Any, *, name: str = "params.yaml") -> Params:
    """Turn plain values into `Params`, or report every fault at once (see `load`)."""
    faults: list[str] = []
    params: Params | None = None
    try:
        params = Params.model_validate(raw)
    except ValidationError as error:
        faults += [describe(fault, Params) for fault in error.errors()]
    faults += names_in_run(raw)
    if params is not None:
        faults += cross_check(params)
    if faults or params is None:
        raise LofitError("\n".join(f"{name}: {fault}" for fault in faults))
    return params


def names_in_run(raw: Any) -> list[str]:
    """Tasks and methods in `run` that are defined nowhere; looked for even where other blocks are faulty."""
    run: Any = raw.get("run") if isinstance(raw, dict) else None
    faults = []
    for key in ("tasks", "methods") if isinstance(run, dict) else ():
        listed, known = run.get(key), raw.get(key)
        if isinstance(listed, list) and isinstance(known, dict):
            unknown = [name for name in listed if isinstance(name, str) and name not in known]
            faults += [f"run.{key}: met {name!r}; allowed: {', '.join(map(str, known))}" for name in unknown]
    return faults


def cross_check(params: Params) -> list[str]:
    """Faults that only show when two blocks are read together."""
    faults = [
        f"tasks.{name}: met the name {name!r}; allowed: any other, since artifacts/{name} holds something else"
        for name in ("demo", "tables")
        if name in params.tasks
    ]
    for key, values in params.run:
        twice = dict.fromkeys(value for value in values if values.count(value) > 1)
        faults += [f"run.{key}: met {value!r} twice; allowed: each once" for value in twice]
    for name, task in params.tasks.items():
        if task.kind != "truthfulqa" and task.preprocess.fold != 0:
            faults.append(f"tasks.{name}.preprocess.fold: met {task.preprocess.fold}; allowed for {task.kind}: 0")
        if name in params.run.tasks and task.fetch_data.source == "demo" and params.model.name != "demo":
            allowed = f"a folder, since model.name is {params.model.name!r}"
            faults.append(f"tasks.{name}.fetch_data.source: met 'demo'; allowed: {allowed}")
        if task.kind == "truthfulqa" and task.preprocess.protocol != "clean":
            faults.append(f"tasks.{name}.preprocess.protocol: met 'lofit'; allowed for truthfulqa: 'clean'")
    for name, method in params.methods.items():
        if method.kind == "base" and (method.select_heads or method.tune_bias):
            faults.append(f"methods.{name}: met overrides of training; allowed for kind base: those of evaluate")
    for name, method in params.methods.items() if params.tasks else ():
        try:
            cell(next(iter(params.tasks.values())).model_dump(), method)
        except ValidationError as error:
            faults += [f"methods.{name}.{describe(fault, Task)}" for fault in error.errors()]
    return faults


ALLOWED = {
    "missing": "a value; the key is missing",
    "float_type": "a number (write 0.001, not 1e-3)",
    "int_type": "a whole number",
    "string_type": "a text",
    "list_type": "a list",
    "dict_type": "a block of keys",
    "model_type": "a block of keys",
    "too_short": "at least one entry",
    "finite_number": "a finite number",
}


def describe(fault: Any, root: type[Block]) -> str:
    """One fault of pydantic's as "key: met VALUE; allowed: WHAT"."""
    key = ".".join(str(part) for part in fault["loc"] if part != "[key]") or "the whole file"
    kind, context = fault["type"], fault.get("ctx", {})
    if kind == "extra_forbidden":
        return f"{key}: unknown key; allowed: {', '.join(siblings(fault['loc'], root))}"
    if kind == "missing":
        return (
            f"{key}: missing; allowed: a block with at least {', '.join(siblings(fault['loc'], root, required=True))}"
        )
    allowed = ALLOWED.get(kind) or fault["msg"].removeprefix("Input should be ")
    if kind == "string_pattern_mismatch":
        allowed = "letters, digits and _ only" if context["pattern"] == NAME_PATTERN else "a text that is not blank"
    if kind == "literal_error":
        allowed = context["expected"]
    return f"{key}: met {fault['input']!r}; allowed: {allowed}"


def siblings(place: tuple, root: Any, *, required: bool = False) -> list[str]:
    """The keys that stand beside the last one of `place`, a path into `root`: all of them, or those without default."""
    block = root
    for part in place[:-1]:
        # A dict of named blocks (tasks, methods): any name leads to the same kind of block.
        block = get_args(block)[1] if get_origin(block) is dict else block.model_fields[part].annotation
    return [name for name, field in block.model_fields.items() if field.is_required() or not required]
