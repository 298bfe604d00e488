"""Records as tokens, ready for training."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from lofit.models.tokens import Encoded, encode
from lofit.models.vocabulary import Vocabulary
from lofit.tasks.record import Objective, Record


@dataclass(frozen=True)
class Example:
    """A record as tokens. A preference pair carries its completions' log-probabilities under DPO's reference."""

    chosen: Encoded

    rejected: Encoded | None = None

    reference: tuple[float, float] | None = None


def encode_record(
    tokenizer: PreTrainedTokenizerBase,
    record: Record,
    objective: Objective,
    vocabulary: Vocabulary,
    *,
    max_length: int | None = None,
) -> tuple[Encoded, Encoded | None]:
    """The completion that a record is tuned on, and the other half of its pair where the objective is DPO.

    Raises:
        LofitError: see `encode`, and `Vocabulary`: there is no end token, or the model cannot read the record.
    """
    texts = [record.completion] if objective.kind == "cross_entropy" else [record.completion, record.rejected or ""]
    rows = [encode(tokenizer, record.prompt, text, end=vocabulary.end, max_length=max_length) for text in texts]
    for row in rows:
        vocabulary.check(row.ids, record.prompt)
    chosen, *rejected = rows
    return chosen, rejected[0] if rejected else None


def prepare(
    tokenizer: PreTrainedTokenizerBase,
    records: Sequence[Record],
    objective: Objective,
    vocabulary: Vocabulary,
    *,
    max_length: int,
    references: Iterable[tuple[float, float]] | None = None,
) -> list[Example]:
    """Tokenise records for training; DPO needs the `references` of `lofit.training.reference`, one for each record.

    Raises:
        LofitError: a record cannot be tokenised, or is longer than `max_length` tokens.
    """
    rows = [encode_record(tokenizer, record, objective, vocabulary, max_length=max_length) for record in records]
    if references is None:
        return [Example(*row) for row in rows]
    return [Example(*row, reference) for row, reference in zip(rows, references, strict=True)]


def rows_of(examples: Sequence[Example]) -> list[Encoded]:
    """The rows that go through the model: all completions, then, of pairs, all rejected ones."""
    rejected = [example.rejected for example in examples if example.rejected is not None]
    return [example.chosen for example in examples] + rejected


def mean_over(examples: Sequence[Example]) -> int:
    """What the task's loss is a mean over: pairs, or the completions' tokens."""
    if examples[0].rejected is not None:
        return len(examples)
    # The first token of a sequence is never predicted.
    return sum(len(example.chosen.ids) - max(example.chosen.start, 1) for example in examples)
