"""DPO's reference: log-probabilities of the pairs under the model that tuning is to stay near, and the file of them."""

import csv
from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

from lofit.errors import LofitError
from lofit.storage.files import write_whole
from lofit.tasks.record import Objective, Record, Split

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from lofit.models.tokens import Reading

COLUMNS = ("split", "chosen", "rejected")

# No setting: the last digits depend on it, and these are to be the same for every setting of training.
BATCH_SIZE = 8

Pairs = list[tuple[float, float]]
"""Log-probabilities (chosen, rejected), in nats, one pair for each record."""


def pair_logprobs(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    records: Sequence[Record],
    objective: Objective,
    *,
    reading: "Reading | None" = None,
) -> Pairs:
    """Log-probabilities of both completions of each record under `model` as it is, whatever is attached to it.

    `reading` is that of an attached edit which does not act at every position.

    Raises:
        LofitError: a record cannot be tokenised.
    """
    # A task without pairs only writes the file, and should not wait for torch to load.
    from lofit.models.logprobs import score_groups
    from lofit.models.vocabulary import vocabulary_of
    from lofit.training.examples import encode_record

    vocabulary = vocabulary_of(model, tokenizer)
    pairs = [
        [row for row in encode_record(tokenizer, record, objective, vocabulary) if row is not None]
        for record in records
    ]
    scores = score_groups(
        model, pairs, pad_id=vocabulary.padding, batch_size=BATCH_SIZE, progress="Reference", reading=reading
    )
    return [(chosen, rejected) for chosen, rejected in scores]


def write_references(file: Path, splits: Mapping[Split, Pairs]) -> None:
    """Save the pairs of each split as CSV, in the order of its records and to the last bit."""
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for split, pairs in splits.items():
        writer.writerows((split, repr(chosen), repr(rejected)) for chosen, rejected in pairs)
    write_whole(file, text.getvalue())


def read_references(file: Path, splits: Mapping[Split, Sequence[Record]]) -> dict[Split, dict[int, Pairs]]:
    """What `write_references` wrote for these records, by split and fold.

    Raises:
        LofitError: the file has another number of rows for a split than there are records.
    """
    with file.open(newline="") as opened:
        rows = list(csv.DictReader(opened))
    references: dict[Split, dict[int, Pairs]] = {}
    for split, records in splits.items():
        pairs = [(float(row["chosen"]), float(row["rejected"])) for row in rows if row["split"] == split]
        if len(pairs) != len(records):
            raise LofitError(f"{file}: got {len(pairs)} rows of {split}; expected {len(records)}, one for each record")
        references[split] = {}
        for record, pair in zip(records, pairs, strict=True):
            references[split].setdefault(record.fold, []).append(pair)
    return references
