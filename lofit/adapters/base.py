"""Adapter: what changes a model while it is attached, and what training and scoring need to know of it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from lofit.adapters.folder import WEIGHTS_FILE, Shape, read_adapter, write_adapter
from lofit.adapters.provenance import Provenance
from lofit.models.layout import HeadLayout
from lofit.models.tokens import Encoded, Reading


class Adapter(nn.Module):
    """Trainable parameters, and how they act on a model.

    A subclass stands in a page of this package that is called like its `kind`, as `ADAPTER`. It says how it is
    attached and what its folder holds (`Shape`, `facts`, `from_parts`), and overrides what is not so for it:

    - it acts at every token position (`positions`, `where`, `edits_generated`);
    - nothing is known of the layers that it leaves alone (`lowest_layer`);
    - it draws no random numbers in training (`begin_step`), and nothing follows an update (`end_step`);
    - all of its parameters are kept (`tensors`);
    - nobody else can serve it (`served_as`).
    """

    kind: ClassVar[str]
    """The name of its page, which its folder says."""

    site: ClassVar[str]
    """What it changes, for tables: `head outputs`, `block outputs`, ..."""

    Shape: ClassVar[type[Shape]] = Shape
    """What its config.json holds."""

    weights_file: ClassVar[str] = WEIGHTS_FILE
    """The file of its tensors."""

    provenance: Provenance
    """Where its numbers come from."""

    where: str = "all"
    """At which token positions it acts, for tables."""

    edits_generated: bool = False
    """Whether an adapter that acts at some positions acts at those of generated tokens, too: at all of them."""

    mask: Tensor | None = None
    """B x T: where the pass that is being made is to be edited; None for everywhere. `reading` sets it."""

    def attach(self, model: nn.Module, layout: HeadLayout | None = None) -> AbstractContextManager[Any]:
        """Change `model` until the block ends; after it the model is what it was, to the bit."""
        raise NotImplementedError

    def positions(self, row: Encoded) -> Sequence[int] | None:
        """The positions of a row that are edited, from 0; None for all of them.

        Of a prompt that is to be continued, `row` holds the prompt alone; `edits_generated` says of what follows.
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

    def end_step(self, lr: float) -> None:
        """Called after each update of the parameters, which `lr` was the learning rate of, in every process."""

    @property
    def is_idle(self) -> bool:
        """Whether its numbers alone say that it changes nothing: it has none, or all are zero."""
        return all(not tensor.any() for tensor in self.tensors().values())

    @property
    def served_as(self) -> str | None:
        """What an engine without lofit can run of it, as `o_proj bias`; None where there is nothing."""
        return None

    def facts(self) -> dict[str, Any]:
        """What config.json says of it besides its provenance: the fields that its `Shape` adds."""
        raise NotImplementedError

    def tensors(self) -> dict[str, Tensor]:
        """What model.safetensors holds of it, by name."""
        return {name: value.detach() for name, value in self.state_dict().items()}

    def other_files(self) -> dict[str, str]:
        """What else its folder holds, by the name of the file."""
        return {}

    @classmethod
    def from_parts(cls, shape: Any, tensors: dict[str, Tensor]) -> Self:
        """The adapter with this `shape` and these `tensors`.

        Raises:
            LofitError: they do not fit each other.
        """
        raise NotImplementedError

    def summary(self) -> str:
        """What it is, in a sentence of its card."""
        raise NotImplementedError

    def usage(self) -> str:
        """What its card says of using it without lofit; nothing where it can not."""
        return ""

    def limits(self) -> str:
        """What its card says that it does not do, as a list."""
        return (
            "- It runs in lofit alone: no engine has a place for it.\n"
            "- It is tried on the base model and revision named above only."
        )

    def details(self) -> str:
        """What else its card shows."""
        return ""

    def save_pretrained(self, save_directory: str | Path, *, card: bool = True) -> None:
        """Write `config.json`, `model.safetensors` and, with `card`, a model card; the same adapter, the same bytes.

        Raises:
            LofitError: the provenance holds what JSON cannot.
        """
        write_adapter(Path(save_directory), self, card=card)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **download_options: Any) -> Self:
        """Read an adapter of this kind from a folder or the hub; `lofit.load_adapter` reads one of any kind.

        Raises:
            LofitError: a file is missing, cut short, foreign, of a newer format, or does not fit the other.
        """
        return read_adapter(cls, pretrained_model_name_or_path, **download_options)

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
        acts at some positions leaves alone a pass whose width is not that of `mask`; or None, where it edits what is
        generated, of which such a pass reads the last token.
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
        before, self.mask = self.mask, mask

        def finished() -> None:
            self.mask = None if self.edits_generated else mask[:, :0]

        try:
            yield finished
        finally:
            self.mask = before
