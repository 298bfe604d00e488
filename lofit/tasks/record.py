"""What a task hands to training and evaluation: records, and how they are to be trained on and judged."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, Self

from lofit.errors import LofitError
from lofit.files import read_json, read_jsonl, write_json, write_jsonl

Split = Literal["train", "val", "test"]
Protocol = Literal["clean", "lofit"]
"""`lofit` repeats the published code's choices, `clean` corrects its faults."""
SPLITS: tuple[Split, ...] = ("train", "val", "test")
TUNING_SPLITS: tuple[Split, ...] = ("train", "val")
"""Those that the training stages read."""


@dataclass(frozen=True)
class Options:
    """How published files, or one's own, become records; `lofit.blocks.Preprocess` says what each key means."""

    protocol: Protocol = "clean"

    folds: tuple[int, ...] = (0,)

    prompt: str | None = None

    train_size: int | None = None

    seed: int = 42

    template: str = "{prompt}"

    columns: Mapping[str, str] = field(default_factory=dict)

    chat: bool = False

    val_ratio: float | None = None

    test_ratio: float | None = None


@dataclass(frozen=True)
class Record:
    """One example. Completions continue the prompt to the letter: where a space belongs between them, they hold it."""

    id: str

    prompt: str

    completion: str
    """What the model is tuned to write: the target, or the chosen answer of a preference pair."""

    rejected: str | None = None
    """The other half of a preference pair."""

    correct: tuple[str, ...] = ()
    """True answers of a multiple-choice question, as completions; the best one first."""

    incorrect: tuple[str, ...] = ()
    """False answers of a multiple-choice question, as completions."""

    aliases: tuple[str, ...] = ()
    """Other texts that count as an exact match."""

    scoring_prompt: str | None = None
    """The prompt of multiple-choice scoring, where it is not the one of training."""

    fold: int = 0
    """Which fold of a cross-validation the record belongs to; each fold is tuned and tested on its own records."""

    @classmethod
    def from_json(cls, row: dict) -> Self:
        values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in row.items()}
        return cls(**values)

    def to_json(self) -> dict:
        defaults = {entry.name: entry.default for entry in fields(self)}
        return {key: value for key, value in asdict(self).items() if value != defaults[key]}


@dataclass(frozen=True)
class Judgement:
    """How the records of a task are trained on and scored; written beside them."""

    objective: Literal["cross_entropy", "dpo"]

    metric: Literal["exact_match", "multiple_choice", "accuracy", "preference_accuracy"]

    protocol: str
    """Part of every metric's name, so that numbers of two protocols cannot be mistaken for each other; may be empty."""

    after: str | None = None
    """Exact match: the prediction begins after the last of these."""

    stops: tuple[str, ...] = ("\n",)
    """Exact match: the prediction ends before the first of these."""

    strip: bool = True
    """Exact match: surrounding blanks do not count."""

    reference: Literal["base", "initial"] = "base"
    """DPO's reference: the untouched base model, or the one that already carries the fresh, untrained vectors."""

    chat: bool = False
    """Prompts are a user's turn in the tokenizer's chat template."""

    @property
    def shares_reference(self) -> bool:
        """Whether there is a reference that data and base model alone decide: the same for every seed and step."""
        return self.objective == "dpo" and self.reference == "base"

    def to_json(self) -> dict:
        return asdict(self)

    @classmethod
    def from_json(cls, row: dict) -> Self:
        return cls(**{**row, "stops": tuple(row["stops"])})


def write_records(folder: Path, judgement: Judgement, splits: Mapping[Split, Sequence[Record]]) -> None:
    """Write `judgement.json` and one `<split>.jsonl` for each split."""
    write_json(folder / "judgement.json", judgement.to_json())
    for split, records in splits.items():
        write_jsonl(folder / f"{split}.jsonl", (record.to_json() for record in records))


def read_judgement(folder: Path) -> Judgement:
    return Judgement.from_json(read_json(folder / "judgement.json"))


def read_records(folder: Path, split: Split) -> list[Record]:
    """The records of all folds of a split.

    Raises:
        LofitError: there is no such file.
    """
    file = folder / f"{split}.jsonl"
    if not file.exists():
        raise LofitError(f"{file}: no such file; allowed: a folder written by preprocess")
    return [Record.from_json(row) for row in read_jsonl(file)]


def by_fold(records: Sequence[Record]) -> dict[int, list[Record]]:
    """The records of each fold, lowest fold first."""
    folds: dict[int, list[Record]] = {fold: [] for fold in sorted({record.fold for record in records})}
    for record in records:
        folds[record.fold].append(record)
    return folds
