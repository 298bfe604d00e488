"""What a model and its tokenizer state about themselves: special tokens, size of the vocabulary, positions.

Tokenizer, config and generation config name special tokens each for itself, and checkpoints are published in which they
differ. They are brought together here, once, for training and generation alike.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lofit.errors import LofitError


@dataclass(frozen=True)
class Vocabulary:
    """The tokens that a model knows, and how many of them it reads."""

    size: int
    """Rows of its embedding; token ids are smaller."""

    ends: tuple[int, ...]
    """End tokens. Training appends the first to a completion; generation stops at any."""

    begin: int | None
    """What texts begin with, where the tokenizer puts it there."""

    padding: int
    """A token to pad with. Padding is masked, so any will do where none is named."""

    positions: int | None
    """The longest sequence it was made for, in tokens; None where it states none, or stretches itself."""

    @property
    def end(self) -> int:
        """What training appends to a completion.

        Raises:
            LofitError: neither tokenizer nor config names an end token that the model has an embedding for.
        """
        if not self.ends:
            raise LofitError(
                f"model: no end-of-sequence token below {self.size}, the rows of its embedding; expected one in its "
                "tokenizer or config"
            )
        return self.ends[0]

    def check(self, ids: Sequence[int], prompt: str, *, new: int = 0) -> None:
        """Refuse what the model cannot read: `ids`, which begin with those of `prompt`, and `new` tokens after them.

        Raises:
            LofitError: they are more than its positions, or one has no embedding.
        """
        if self.positions is not None and len(ids) + new > self.positions:
            length = f"{len(ids)} tokens" + (f", and {new} to be generated" if new else "")
            raise LofitError(
                f"prompt {prompt[:60]!r}...: {length}; expected at most {self.positions}, the positions of the model"
            )
        if ids and max(ids) >= self.size:
            raise LofitError(
                f"prompt {prompt[:60]!r}...: token {max(ids)}; expected below {self.size}, the rows of the model's "
                "embedding; is the tokenizer another model's?"
            )

    def to_json(self) -> dict:
        return asdict(self)

    @classmethod
    def from_json(cls, row: dict) -> Self:
        return cls(**{**row, "ends": tuple(row["ends"])})


def vocabulary_of(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Vocabulary:
    """What `model` and `tokenizer` name together: the tokenizer's word first, then those of the configs.

    An id without an embedding counts as none: a token that was added to the tokenizer alone.
    """
    config = model.config.get_text_config(decoder=True)
    embedding: Any = model.get_input_embeddings()
    size = int(embedding.weight.shape[0])
    settings = (tokenizer, getattr(model, "generation_config", None), config, model.config)

    def named(name: str) -> tuple[int, ...]:
        found: list[Any] = []
        for place in settings:
            ids = getattr(place, name, None)
            found += ids if isinstance(ids, list | tuple) else [ids]
        return tuple(dict.fromkeys(token for token in found if token is not None and 0 <= token < size))

    ends, begins = named("eos_token_id"), named("bos_token_id")
    return Vocabulary(
        size=size,
        ends=ends,
        begin=begins[0] if begins else None,
        padding=(*named("pad_token_id"), *ends, 0)[0],
        positions=positions(config),
    )


def positions(config: Any) -> int | None:
    """How many tokens a model is made for, by its config."""
    # Dynamic RoPE is stretched over whatever comes.
    if "'dynamic'" in str(getattr(config, "rope_parameters", None)):
        return None
    return getattr(config, "max_position_embeddings", None)
