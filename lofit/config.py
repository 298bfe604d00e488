"""params.yaml, read and validated in one go: every fault is reported at once."""

from pathlib import Path
from string import Formatter
from typing import Any

import yaml
from pydantic import ValidationError

from lofit.blocks import Params, Task, cell
from lofit.errors import LofitError
from lofit.faults import describe


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
        raw = parse(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise LofitError(f"{file}: {error.strerror}; allowed: a file; run from the project's root") from None
    except UnicodeDecodeError as error:
        raise LofitError(f"{file}: byte {error.start} is not UTF-8") from None
    except yaml.YAMLError as error:
        raise LofitError(f"{file}: {' '.join(str(error).split())}") from None
    return validate(raw, name=str(file))


def parse(text: str) -> Any:
    """YAML as plain values; a yaml.YAMLError where it is none."""
    return yaml.load(text, Loader=UniqueKeyLoader)


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
    if params.model.name == "demo" and params.model.revision is not None:
        faults.append(f"model.revision: met {params.model.revision!r}; allowed for demo: null")
    if params.model.device_map is not None and params.model.device != "auto":
        faults.append(f"model.device: met {params.model.device!r}; allowed with device_map: auto")
    for name, task in params.tasks.items():
        faults += [f"tasks.{name}.{fault}" for fault in foreign_keys(task)]
        source = task.fetch_data.source
        if task.kind == "jsonl" and source in ("demo", "public"):
            faults.append(
                f"tasks.{name}.fetch_data.source: met {source!r}; allowed for jsonl: a file, folder or hub id"
            )
        elif name in params.run.tasks and source == "demo" and params.model.name != "demo":
            allowed = f"public, or a folder, since model.name is {params.model.name!r}"
            faults.append(f"tasks.{name}.fetch_data.source: met 'demo'; allowed: {allowed}")
        try:
            list(Formatter().parse(task.preprocess.template))
        except ValueError as error:
            met = f"{task.preprocess.template!r} ({error})"
            faults.append(f"tasks.{name}.preprocess.template: met {met}; allowed: text and {{field}}")
        if task.select_heads.source is not None:
            if task.select_heads.ranking != "scale_norm":
                faults.append(f"tasks.{name}.select_heads.ranking: met 'random'; allowed: that or a source, not both")
            if len(task.preprocess.folds) > 1:
                # One fold's test questions are the other's training data.
                faults.append(f"tasks.{name}.select_heads.source: met a list of heads; allowed with one fold only")
        if task.preprocess.folds != sorted(set(task.preprocess.folds)):
            faults.append(f"tasks.{name}.preprocess.folds: met {task.preprocess.folds}; allowed: [0], [1] or [0, 1]")
        if (task.preprocess.val_ratio or 0) + (task.preprocess.test_ratio or 0) >= 1:
            faults.append(f"tasks.{name}.preprocess: val_ratio and test_ratio leave nothing; allowed: a sum below 1")
    for name, method in params.methods.items():
        if "split" in method.evaluate:
            faults.append(f"methods.{name}.evaluate.split: met an override; allowed only in the task's own block")
        if method.kind == "base" and (method.select_heads or method.tune_bias):
            faults.append(f"methods.{name}: met overrides of training; allowed for kind base: those of evaluate")
    for name, method in params.methods.items() if params.tasks else ():
        try:
            cell(next(iter(params.tasks.values())).model_dump(), method)
        except ValidationError as error:
            faults += [f"methods.{name}.{describe(fault, Task)}" for fault in error.errors()]
    return faults


Keys = dict[str, tuple[str, ...]]

OWN_KEYS: Keys = {
    "fetch_data": ("revision", "subset", "splits"),
    "preprocess": ("template", "columns", "chat", "val_ratio", "test_ratio"),
}
PUBLISHED_KEYS: Keys = {"preprocess": ("protocol",)}
TRUTHFULQA_KEYS: Keys = {"preprocess": ("folds", "prompt")}


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
                f"{stage}.{key}: met {value!r}; allowed only for kind {kinds}"
                for key in keys
                if (value := getattr(block, key)) != plain[key]
            ]
    return faults
