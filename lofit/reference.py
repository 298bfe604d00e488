"""DPO's reference: log-probabilities of the pairs under the model that tuning is to stay near, and the file of them."""

import csv
from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

from lofit.errors import LofitError
from lofit.files import write_whole
from lofit.tasks.record import Judgement, Record, Split

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

COLUMNS = ("split", "chosen", "rejected")

# No key of params.yaml: the last digits depend on it, and these are to be the same for every setting of training.
BATCH_SIZE = 8

Pairs = list[tuple[float, float]]
"""Log-probabilities (chosen, rejected), in nats, one pair for each record."""


def pair_logprobs(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", records: Sequence[Record], judgement: Judgement
) -> Pairs:
    """Log-probabilities of both completions of each record under `model` as it is, whatever is attached to it.

    Raises:
        LofitError: a record cannot be tokenised.
    """
    # Most stages have no reference to compute, and should not wait for transformers to load.
    from lofit.completions import encode_record, padding_id
    from lofit.logprobs import score_groups

    pairs = [[row for row in encode_record(tokenizer, record, judgement) if row is not None] for record in records]
    pad_id = padding_id(tokenizer)
    scores = score_groups(model, pairs, pad_id=pad_id, batch_size=BATCH_SIZE, progress="Reference")
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
            raise LofitError(f"{file}: met {len(pairs)} rows of {split}; allowed: {len(records)}, one for each record")
        references[split] = {}
        for record, pair in zip(records, pairs, strict=True):
            references[split].setdefault(record.fold, []).append(pair)
    return references
