"""The questions that are scored and continued, and a tokenizer for them that is trained on the spot."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from lofit.demo import world
from lofit.demo.recipe import Recipe
from lofit.tasks import truthfulqa
from lofit.tasks.record import Options, Record

LARGEST_VOCABULARY = 8000


@dataclass(frozen=True)
class Texts:
    """TruthfulQA as records of the protocol `lofit`: instruction and six examples before each question."""

    records: list[Record]

    tokenizer: PreTrainedTokenizerFast

    source: str
    """What the tables call them."""


def read_texts(folder: Path | None, *, vocabulary: int) -> Texts:
    """The test questions in `folder`, both folds; without a folder, those of a generated world in the same format.

    Raises:
        LofitError: a file is missing or malformed.
    """
    if folder is not None:
        records = truthfulqa.load(folder, "test", Options(protocol="lofit", folds=[0, 1]))
        source = "TruthfulQA"
    else:
        with tempfile.TemporaryDirectory() as made:
            world.write_data(world.create(0, Recipe()), Path(made))
            records = truthfulqa.load(Path(made, "truthfulqa"), "test", Options(protocol="lofit"))
        source = "generated in TruthfulQA's format"
    return Texts(records, train_tokenizer(records, min(LARGEST_VOCABULARY, vocabulary)), source)


def train_tokenizer(records: Sequence[Record], size: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE on all that is scored: primer, questions and answers."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    texts = [truthfulqa.INSTRUCTION, truthfulqa.PRIMER]
    texts += [text for record in records for text in (record.prompt, *record.correct, *record.incorrect)]
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False)
