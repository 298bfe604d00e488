"""Prompts and completions as token ids, and batches of them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from lofit.errors import LofitError

IGNORED = -100
"""Label of a token that takes no part in a loss."""


@dataclass(frozen=True)
class Encoded:
    """Token ids of a prompt and its completion; the completion begins at `start`."""

    ids: tuple[int, ...]

    start: int


Reading = Callable[..., AbstractContextManager[Callable[[], None]]]
"""Entered around each pass with its rows and their width, `reading(rows, width, left=False)`, by an edit that does not
act at every position (see `lofit.adapters.base`)."""


def encode(
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    completion: str,
    *,
    end: int | None = None,
    max_length: int | None = None,
) -> Encoded:
    """Tokenise `prompt + completion` as one text and find the completion by character offsets.

    A token that holds the last character of the prompt and the first of the completion belongs to the completion.

    Args:
        end: the end token to append, as a part of the completion; None for none.
        max_length: longest sequence allowed, in tokens.

    Raises:
        LofitError: the tokenizer knows no offsets, the completion has no token, or the sequence is too long.
    """
    if not tokenizer.is_fast:
        raise LofitError(f"{type(tokenizer).__name__}: no character offsets; expected a fast tokenizer")
    encoding = tokenise(tokenizer, prompt + completion, return_offsets_mapping=True)
    ids = list(encoding["input_ids"])
    # Special tokens span (0, 0), so they never end beyond the prompt. A blank that the tokenizer trims from its span
    # leaves an empty one at the blank's end, which does.
    completed = [i for i, (_, last) in enumerate(encoding["offset_mapping"]) if last > len(prompt)]
    if not completed:
        raise LofitError(f"completion {completion!r} of prompt {prompt[-60:]!r} has no token of its own")
    # What the tokenizer puts at the end by itself is dropped, so that `end` alone decides.
    start, ids = completed[0], ids[: completed[-1] + 1]
    if end is not None:
        ids.append(end)
    if max_length is not None and len(ids) > max_length:
        raise LofitError(
            f"prompt {prompt[:60]!r}...: {len(ids)} tokens with its completion; expected max_length, {max_length}"
        )
    return Encoded(tuple(ids), start)


def tokenise(tokenizer: PreTrainedTokenizerBase, text: str, **options: Any) -> Any:
    """The tokenizer's encoding of `text`; one that begins with the beginning token itself gets no second.

    Chat templates write that token, with or without a line break before it, and tokenizers put one in front.
    """
    begin = tokenizer.bos_token
    return tokenizer(text, add_special_tokens=not (begin and text.lstrip().startswith(begin)), **options)


def collate(rows: Sequence[Encoded], *, pad_id: int, device: torch.device | str) -> dict[str, Tensor]:
    """Right-padded `input_ids`, `attention_mask` and `labels`, each B x T; labels cover the completions only."""
    length = max(len(row.ids) for row in rows)
    ids = torch.full((len(rows), length), pad_id)
    mask = torch.zeros((len(rows), length), dtype=torch.long)
    labels = torch.full((len(rows), length), IGNORED)
    for i, row in enumerate(rows):
        ids[i, : len(row.ids)] = torch.tensor(row.ids)
        mask[i, : len(row.ids)] = 1
        labels[i, row.start : len(row.ids)] = torch.tensor(row.ids[row.start :])
    return {
        name: value.to(device) for name, value in (("input_ids", ids), ("attention_mask", mask), ("labels", labels))
    }


def longest_first(lengths: Sequence[int], *, batch_size: int) -> Iterator[list[int]]:
    """Batches of indices by falling length: little padding, and memory runs out at once or not at all."""
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    for first in range(0, len(order), batch_size):
        yield order[first : first + batch_size]
