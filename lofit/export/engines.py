"""What inference engines do with an offset that lives in a checkpoint: `engines.csv`, looked up and rendered.

An engine that has no place for a bias either drops it, and serves the base model without a word, or refuses the file.
"""

import csv
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from typing import Literal, get_args

from lofit.errors import LofitError

Engine = Literal["transformers", "vllm", "llama.cpp"]
"""What a checkpoint can be exported for."""

COLUMNS = (*get_args(Engine), "peft")
HOMES = ("o_proj", "v_proj", "down_proj", "weights")
"""Where an offset can live: in the bias of the output projection, of the values, or of the end of the MLP; `weights` is
for scales alone."""

NO_USE = ("unserved", "misreads")
"""Of an architecture that the engine does not load, or loads as something else, whatever has been edited."""

VERDICTS: dict[str, bool | None] = {
    **{"keeps": True, "drops": False, "refuses": False, "unknown": None},
    **dict.fromkeys(NO_USE, False),
}
"""Whether the edit is still there."""

MARKS = ("tested", "source", "unknown")


@dataclass(frozen=True)
class Verdict:
    """What an engine does with the checkpoints of an architecture."""

    model_type: str
    engine: str
    version: str
    home: str
    verdict: str
    mark: str
    """How it is known: from a test, from the engine's source, or not."""
    detail: str

    @property
    def keeps(self) -> bool | None:
        """Whether the offset works there; None where nobody has looked."""
        return VERDICTS[self.verdict]

    def __str__(self) -> str:
        how = f"{self.verdict}, {self.mark}" if self.mark != "unknown" else "unknown"
        return f"{how}: {self.detail}"


def verdict(model_type: str, engine: str, home: str) -> Verdict:
    """What `engine` does with a checkpoint of `model_type` whose offsets live in `home`.

    Args:
        model_type: of the checkpoint as it is written: `llama` where a Mistral has been relabelled.

    Raises:
        LofitError: there is no such engine or home.
    """
    for what, met, allowed in (("engine", engine, COLUMNS), ("home", home, HOMES)):
        if met not in allowed:
            raise LofitError(f"{what}: got {met!r}; expected {', '.join(allowed)}")
    rows = {(row.model_type, row.engine, row.home): row for row in _rows()}
    if exact := rows.get((model_type, engine, home)):
        return exact
    bias = rows.get((model_type, engine, "o_proj"))
    if bias and bias.verdict in NO_USE:
        return replace(bias, home=home)
    if bias and bias.mark != "unknown" and home == "weights":
        return replace(bias, home=home, verdict="keeps", mark="source", detail="a scale is part of the weight")
    return Verdict(model_type, engine, _version(engine), home, "unknown", "unknown", "nobody has looked")


def table(model_type: str) -> list[Verdict]:
    """What each engine does with the output projection's bias of an architecture, in the order of `COLUMNS`."""
    return [verdict(model_type, engine, "o_proj") for engine in COLUMNS]


def markdown() -> str:
    """The table of all architectures: that of the output projection's bias, and below it the other homes."""
    heads = [f"{engine} {_version(engine)}" for engine in COLUMNS]
    lines = [_line("model type", *heads), _line(*["---"] * (len(heads) + 1))]
    for model_type in dict.fromkeys(row.model_type for row in _rows()):
        lines.append(_line(f"`{model_type}`", *map(str, table(model_type))))
    lines += ["", _line("model type", "engine", "home", ""), _line(*["---"] * 4)]
    for row in _rows():
        if row.home != "o_proj":
            lines.append(_line(f"`{row.model_type}`", row.engine, f"`{row.home}`", str(row)))
    return "\n".join(lines) + "\n"


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


@cache
def _rows() -> tuple[Verdict, ...]:
    with files("lofit.export").joinpath("engines.csv").open(encoding="utf-8") as opened:
        return tuple(Verdict(**row) for row in csv.DictReader(opened))


def _version(engine: str) -> str:
    """The version that the table is about."""
    return next(row.version for row in _rows() if row.engine == engine)
