"""The settings that a row sees on a task: the task's blocks with the row's overrides, and every default filled in."""

from dataclasses import dataclass
from types import ModuleType
from typing import Any

from pydantic import ValidationError

from lofit import methods, rankings
from lofit.errors import LofitError
from lofit.fitting.grid import grid
from lofit.settings import Settings, faults_in
from stages.params.schema import Evaluate, Params, SelectHeads

FIT_ARGUMENTS = ("k", "ranking", "ranking_settings", "scale_settings")
"""Keys of a baseline's block `fit` that are no settings of the method, but arguments of `lofit.fit`."""


@dataclass(frozen=True)
class Fit:
    """How a row is fitted on a task."""

    settings: dict[str, Any]
    """Those that are not searched, with every default filled in."""

    tune: dict[str, list[Any]]
    """Those that are, with their values."""

    candidates: tuple[Settings, ...]
    """What they make together: one, or all the points of the grid."""


@dataclass(frozen=True)
class Selection:
    """Which heads a row tunes on a task."""

    k: int | str
    """A number, or a share as `3%`."""

    ranking: str

    settings: Settings
    """Those of the ranking."""

    page: ModuleType
    """The ranking's page."""


def block_key(params: Params, task: str, row: str, block: str, key: str) -> str:
    """Where in params.yaml a key stands that a row listens to on a task."""
    overrides = getattr(params.methods[row], block) or {}
    return f"methods.{row}.{block}.{key}" if key in overrides else f"tasks.{task}.{block}.{key}"


def merged(params: Params, task: str, row: str, block: str) -> dict[str, Any]:
    """A task's block as plain values, with what the row overrides in it."""
    base = getattr(params.tasks[task], block)
    return {**(base.model_dump(exclude_unset=True) if base else {}), **(getattr(params.methods[row], block) or {})}


def selection(params: Params, task: str, row: str) -> Selection:
    """The heads that a row of LoFiT tunes.

    Raises:
        LofitError: one line per fault.
    """
    overrides = params.methods[row].select_heads or {}
    values = merged(params, task, row, "select_heads")
    if "ranking" in overrides:
        # Another ranking does not have the settings of the task's own.
        values = {"k": values.get("k"), **overrides}
    block = validated(SelectHeads, values, params, task, row, "select_heads")
    key = block_key(params, task, row, "select_heads", "ranking")
    if block.ranking not in rankings.names():
        raise LofitError(f"{key}: got {block.ranking!r}; expected {', '.join(rankings.names())}")
    page = rankings.find(block.ranking)
    settings = validated(page.Settings, block.settings, params, task, row, "select_heads", also=("k", "ranking"))
    return Selection(block.k, block.ranking, settings, page)


def tune_bias(params: Params, task: str, row: str) -> Fit:
    """How the offsets of a row of LoFiT are tuned."""
    page = methods.find("lofit")
    return searched(page.Settings, merged(params, task, row, "tune_bias"), params, task, row, "tune_bias")


def evaluate(params: Params, task: str, row: str) -> Evaluate:
    """How a row is scored on a task."""
    return validated(Evaluate, merged(params, task, row, "evaluate"), params, task, row, "evaluate")


def fit(params: Params, task: str, row: str) -> tuple[Fit, dict[str, Any]]:
    """How a row that is no LoFiT is fitted on a task, and the other arguments of `lofit.fit`."""
    block = params.methods[row]
    values = {**(block.fit or {}), **block.tasks.get(task, {})}
    page = methods.find(block.kind)
    arguments = {key: values.pop(key) for key in FIT_ARGUMENTS if key in values}
    check_arguments(arguments, page.RANKING, f"methods.{row}.fit")
    return searched(page.Settings, values, params, task, row, "fit", also=FIT_ARGUMENTS), arguments


def searched(
    kind: type[Settings],
    values: dict[str, Any],
    params: Params,
    task: str,
    row: str,
    block: str,
    *,
    also: tuple[str, ...] = (),
) -> Fit:
    """`values` as a `kind`, at every point of the row's grid."""
    tune = params.methods[row].tune or {}
    try:
        points = grid(tune)
    except LofitError as error:
        raise LofitError(f"methods.{row}.{error}") from None
    if unknown := sorted(set(tune) - set(kind.model_fields)):
        known = ", ".join(kind.model_fields) or "no key at all"
        raise LofitError(f"methods.{row}.tune.{unknown[0]}: unknown key; expected {known}")
    made = [validated(kind, {**values, **point}, params, task, row, block, also=also) for point in points]
    fixed = made[0].model_dump(mode="json", exclude=set(tune))
    return Fit(fixed, {key: list(values) for key, values in tune.items()}, tuple(made))


def check_arguments(arguments: dict[str, Any], default: str | None, place: str) -> None:
    """Refuse arguments of a baseline's fit that `lofit.fit` would refuse once it runs.

    Raises:
        LofitError: one line for the first fault.
    """
    if default is None and arguments:
        raise LofitError(f"{place}.{min(arguments)}: got a value; expected none, as the method selects no heads")
    k, name = arguments.get("k", 1), arguments.get("ranking", default)
    if type(k) is not int or k < 1:
        raise LofitError(f"{place}.k: got {k!r}; expected a whole number from 1")
    usable = [ranking for ranking in rankings.names() if rankings.find(ranking).NEEDS != "other_scales"]
    if name is not None and name not in usable:
        raise LofitError(f"{place}.ranking: got {name!r}; expected {', '.join(usable)}")
    blocks = {"scale_settings": rankings.find("scale_norm").ScaleSettings}
    if name is not None:
        blocks["ranking_settings"] = rankings.find(name).Settings
    for key, kind in ((key, kind) for key, kind in blocks.items() if key in arguments):
        try:
            kind.of(arguments[key] or {})
        except LofitError as error:
            raise LofitError("\n".join(f"{place}.{key}.{fault}" for fault in str(error).splitlines())) from None


def validated(
    kind: type[Settings],
    values: dict[str, Any],
    params: Params,
    task: str,
    row: str,
    block: str,
    *,
    also: tuple[str, ...] = (),
) -> Any:
    """`values` as a `kind`; faults name the place in params.yaml. `also`: other keys of the block."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        faults = [
            fault.replace("; expected no key at all", "; expected " + ", ".join(also)) if also else fault
            for fault in faults_in(error, kind)
        ]
    lines = []
    for fault in faults:
        key = fault.split(":")[0].split(".")[0]
        if block in ("fit", "tune_bias") and key in (params.methods[row].tune or {}):
            place = f"methods.{row}.tune"
        elif block == "fit":
            place = f"methods.{row}.fit"
        else:
            place = block_key(params, task, row, block, key).rpartition(".")[0]
        lines.append(f"{place}.{fault}")
    raise LofitError("\n".join(lines))
