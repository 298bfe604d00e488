"""Adapter: what changes a model while it is attached, and what training and scoring need to know of it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lofit.models.layout import HeadLayout
from lofit.models.tokens import Encoded, Reading


class Adapter(nn.Module):
    """Trainable parameters, and how they act on a model.

    A subclass says how it is attached, and overrides what is not so for it:

    - it acts at every token position (`positions`);
    - nothing is known of the layers that it leaves alone (`lowest_layer`);
    - it draws no random numbers in training (`begin_step`).
    """

    mask: Tensor | None = None
    """B x T: where the pass that is being made is to be edited; None for everywhere. `reading` sets it."""

    def attach(self, model: nn.Module, layout: HeadLayout | None = None) -> AbstractContextManager[Any]:
        """Change `model` until the block ends; after it the model is what it was, to the bit."""
        raise NotImplementedError

    def positions(self, row: Encoded) -> Sequence[int] | None:
        """The positions of a row that are edited, from 0; None for all of them.

        Of a prompt that is to be continued, `row` holds the prompt alone: what is generated is then not edited.
        """
        return None

    @property
    def lowest_layer(self) -> int | None:
        """The lowest of the layers with heads whose output it changes; None where that is not known.

        The layers below it need to be run only once for each training example.
        """
        return None

    def begin_step(self, step: int) -> None:
        """Called before each training step, counted from 0, in every process.

        Random numbers of a step have to come from a seed and `step` alone, so that a resumed run draws the same.
        """

    @property
    def acts_everywhere(self) -> bool:
        """Whether every position is edited, so that rows may share what they have in common."""
        return type(self).positions is Adapter.positions

    @property
    def reader(self) -> Reading | None:
        """`reading`, for scoring and generation; None where every position is edited and there is nothing to say."""
        return None if self.acts_everywhere else self.reading

    @contextmanager
    def reading(self, rows: Sequence[Encoded], width: int, *, left: bool = False) -> Iterator[Callable[[], None]]:
        """Until the block ends, the model reads these rows, padded to `width` on the right, or on the `left`.

        `width` may leave out the last tokens of the longest rows. What the block gets is to be called once the rows are
        read, where other passes follow, such as those that generate: from then on `mask` is B x 0, and an adapter that
        acts at some positions leaves alone a pass whose width is not that of `mask`.
        """
        if self.acts_everywhere:
            yield lambda: None
            return
        mask = torch.zeros(len(rows), width, dtype=torch.bool)
        for i, row in enumerate(rows):
            shift = width - len(row.ids) if left else 0
            places = self.positions(row)
            chosen = range(len(row.ids)) if places is None else places
            mask[i, [shift + place for place in chosen if shift + place < width]] = True
        self.mask = mask

        def finished() -> None:
            self.mask = mask[:, :0]

        try:
            yield finished
        finally:
            self.mask = None
