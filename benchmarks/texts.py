"""The questions that are scored, continued and tuned on, and a tokenizer for random models, trained on the spot."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from lofit.demo import world
from lofit.demo.recipe import Recipe
from lofit.tasks import mquake, truthfulqa
from lofit.tasks.record import Objective, Options, Record

LARGEST_VOCABULARY = 8000
TUNED = {"mquake": mquake, "truthfulqa": truthfulqa}
"""Tasks to train on: completions, and preference pairs."""


@dataclass(frozen=True)
class Tuning:
    """What a task's training reads."""

    records: list[Record]

    objective: Objective


@dataclass(frozen=True)
class Texts:
    """TruthfulQA as records of the protocol `lofit`: instruction and six examples before each question."""

    records: list[Record]

    tokenizer: PreTrainedTokenizerBase

    source: str
    """What the tables call them."""

    six_shot: list[Record]
    """The same questions with six examples alone before each, as lm-eval asks them."""

    tuning: dict[str, Tuning]
    """Training records by task: MQuAKE for cross-entropy, TruthfulQA for preference pairs."""

    def with_end(self) -> PreTrainedTokenizerBase:
        """A copy of the tokenizer; the one that was trained here, whose answers nothing ends, gets an end token."""
        tokenizer = deepcopy(self.tokenizer)
        if tokenizer.eos_token is None:
            tokenizer.eos_token = tokenizer.convert_ids_to_tokens(0)
        return tokenizer


def read_texts(folder: Path | None, *, vocabulary: int, tokenizer: PreTrainedTokenizerBase | None = None) -> Texts:
    """The published files in `folder`, both folds of TruthfulQA's test questions; or those of a generated world.

    Args:
        folder: holds `truthfulqa` and `mquake`; None for the generated world.
        vocabulary: rows of the model's embedding, for a tokenizer that is trained here.
        tokenizer: the model's own; None to train one.

    Raises:
        LofitError: a file is missing or malformed.
    """
    folds = [0] if folder is None else [0, 1]
    source = "TruthfulQA" if folder else "generated in TruthfulQA's format"
    with published_files(folder) as files:
        records = truthfulqa.load(files / "truthfulqa", "test", Options(protocol="lofit", folds=folds))
        six_shot = truthfulqa.load(files / "truthfulqa", "test", Options(prompt="six_shot", folds=folds))
        tuning = {
            name: Tuning(
                page.load(files / name, "train", Options()),
                page.aims(files / name, Options())[0],
            )
            for name, page in TUNED.items()
        }
    tokenizer = tokenizer or train_tokenizer(records, min(LARGEST_VOCABULARY, vocabulary))
    return Texts(records, tokenizer, source, six_shot, tuning)


@contextmanager
def published_files(folder: Path | None) -> Iterator[Path]:
    """`folder`, or one with the files of a generated world that is gone afterwards."""
    if folder is not None:
        yield folder
        return
    with tempfile.TemporaryDirectory() as made:
        world.write_data(world.create(0, Recipe()), Path(made))
        yield Path(made)


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
