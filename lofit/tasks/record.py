"""What a task hands to training and evaluation: records, how to train on them, and how to score them."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field

from lofit.errors import LofitError
from lofit.settings import Count, Ratio, Seed, Settings, Text
from lofit.storage.files import read_json, read_jsonl, write_json, write_jsonl

Split = Literal["train", "val", "test"]
Protocol = Literal["clean", "lofit"]
"""`lofit` repeats the published code's choices, `clean` corrects its faults."""
SPLITS: tuple[Split, ...] = ("train", "val", "test")
TUNING_SPLITS: tuple[Split, ...] = ("train", "val")
"""Those that the training stages read."""


Turn = Mapping[str, str]
"""`role` (system, user or assistant) and `content` of a message."""
Column = Literal["id", "messages", "completion", "aliases", "chosen", "rejected", "choices", "answer"]


class Source(Settings):
    """Where a task's files come from."""

    source: Text
    """`demo` for the generated files, `public` to download the published ones, or a folder. For kind jsonl: a file, a
    folder of split files, or the id of a dataset on the Hugging Face hub."""

    revision: str | None = None
    """Kind jsonl: branch, tag or commit of the hub dataset."""

    subset: str | None = None
    """Kind jsonl: which configuration of the hub dataset."""

    splits: dict[Literal["train", "val", "test"], Text] = Field(default_factory=dict)
    """Kind jsonl: what the hub dataset calls our splits, where that is not train, validation and test."""


class Options(Settings):
    """How published files, or a user's own, become records."""

    protocol: Protocol = "clean"

    folds: Annotated[list[Annotated[int, Field(ge=0, le=1)]], Field(min_length=1)] = [0]  # noqa: RUF012
    """Kind truthfulqa: which of its two folds; both together make a cross-validation over all its questions."""

    prompt: Literal["question", "six_shot", "instruction"] | None = None
    """Kind truthfulqa: what is scored. The bare question; six examples before it, as in lm-eval; these and an
    instruction, as in the published code. Null: what the protocol uses, `question` (clean) or `instruction` (lofit).
    Under `clean` with examples, answers end in a full stop as the examples do, in tuning as in scoring."""

    pairs: Literal["first", "each_incorrect", "all"] = "first"
    """Kind truthfulqa: which pairs a training question makes. The best answer against the first incorrect one, as in
    the published code; the best against each incorrect one; each correct one against each incorrect one. Validation
    stays with the first, so that its loss is the same figure whatever is trained on."""

    train_size: Count | None = None
    """How many training examples to draw of each fold; null for all."""

    seed: Seed = 42
    """Decides that draw, and the split by ratio."""

    template: Text = "{prompt}"
    """Kind jsonl: the prompt, from the fields of a line."""

    columns: dict[Column, Text | None] = Field(default_factory=dict)
    """Kind jsonl: which field holds what, where the names differ; `id: null` makes no use of a field called id."""

    chat: bool = False
    """Kind jsonl: put the prompt into the tokenizer's chat template, as the user's turn. Messages always are."""

    system: Text | None = None
    """Kind jsonl: the system's turn of chats that have none."""

    chat_options: dict[str, Any] = Field(default_factory=dict)
    """Kind jsonl: further variables of the chat template, such as `enable_thinking: false`."""

    group: Text | None = None
    """Kind jsonl: a field whose value keeps examples in one split, where splits are drawn by ratio."""

    val_ratio: Ratio | None = None
    """Kind jsonl: share of the examples that become the validation split, where no file does."""

    test_ratio: Ratio | None = None
    """Kind jsonl: share of the examples that become the test split, where no file does."""

    overlong: Literal["refuse", "drop", "cut_prompt"] = "refuse"
    """What becomes of an example with more tokens than the steps' `max_length` or the model's positions: it is a fault,
    it is left out, or its prompt loses its beginning."""


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

    contrast: tuple[str, ...] = ()
    """Wrong completions for methods that read activations; never trained on or scored."""

    scoring_prompt: str | None = None
    """The prompt of multiple-choice scoring, where it is not the one of training."""

    turns: tuple[Turn, ...] = ()
    """The chat that the prompt is to be, before a chat template has written it (see `lofit.tasks.prompts`)."""

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
class Objective:
    """How records are trained on; the stage preprocess writes it next to them."""

    kind: Literal["cross_entropy", "dpo"]

    reference: Literal["base", "initial"] = "base"
    """DPO's reference: the untouched base model, or the one that already carries the fresh, untrained adapter."""

    @property
    def shares_reference(self) -> bool:
        """Whether there is a reference that data and base model alone decide: the same for every seed and step."""
        return self.kind == "dpo" and self.reference == "base"

    def to_json(self) -> dict:
        return asdict(self)

    @classmethod
    def from_json(cls, row: dict) -> Self:
        return cls(**row)


@dataclass(frozen=True)
class Metric:
    """How records are scored; the stage preprocess writes it next to them."""

    kind: Literal["exact_match", "multiple_choice", "accuracy", "preference_accuracy"]

    protocol: str = ""
    """Part of every metric's name, so that numbers of two protocols cannot be mistaken for each other; may be empty."""

    after: str | None = None
    """Exact match: the prediction begins after the last of these."""

    stops: tuple[str, ...] = ("\n",)
    """Exact match: the prediction ends before the first of these."""

    strip: bool = True
    """Exact match: surrounding blanks do not count."""

    plain: bool = True
    """Exact match: nor does how Unicode writes the same text: composed letters, cases such as ß and SS, kinds and
    numbers of blanks, marks without width."""

    def to_json(self) -> dict:
        return asdict(self)

    @classmethod
    def from_json(cls, row: dict) -> Self:
        return cls(**{**row, "stops": tuple(row["stops"])})


def write_records(folder: Path, objective: Objective, metric: Metric, splits: Mapping[Split, Sequence[Record]]) -> None:
    """Write `objective.json`, `metric.json` and one `<split>.jsonl` for each split."""
    write_json(folder / "objective.json", objective.to_json())
    write_json(folder / "metric.json", metric.to_json())
    for split, records in splits.items():
        write_jsonl(folder / f"{split}.jsonl", (record.to_json() for record in records))


def read_objective(folder: Path) -> Objective:
    return Objective.from_json(read_json(folder / "objective.json"))


def read_metric(folder: Path) -> Metric:
    return Metric.from_json(read_json(folder / "metric.json"))


def read_records(folder: Path, split: Split) -> list[Record]:
    """The records of all folds of a split.

    Raises:
        LofitError: there is no such file.
    """
    file = folder / f"{split}.jsonl"
    if not file.exists():
        raise LofitError(f"{file}: no such file; expected a folder written by preprocess")
    return [Record.from_json(row) for row in read_jsonl(file)]


def by_fold(records: Sequence[Record]) -> dict[int, list[Record]]:
    """The records of each fold, lowest fold first."""
    folds: dict[int, list[Record]] = {fold: [] for fold in sorted({record.fold for record in records})}
    for record in records:
        folds[record.fold].append(record)
    return folds
