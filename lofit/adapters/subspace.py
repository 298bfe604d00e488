"""SubspaceAdapter: LoReFT's edit of block outputs in a subspace, at the first and the last tokens of a prompt.

h <- h + R^T (W h + b - R h)        R: rank x hidden with orthonormal rows, W: rank x hidden, b: rank
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lofit.adapters.attachment import Attachment, forget_compiled_code
from lofit.adapters.base import Adapter
from lofit.adapters.named import check_read
from lofit.adapters.provenance import Provenance
from lofit.adapters.subspace_shape import SubspaceShape
from lofit.errors import LofitError
from lofit.models.layout import HeadLayout, head_layout, hidden_size
from lofit.models.tokens import Encoded

PAPER = "https://arxiv.org/abs/2404.03592"

Places = tuple[Tensor, Tensor]
"""Rows and positions in them, N each."""


class SubspaceAdapter(Adapter):
    """An edit of the outputs of L layers, of rank r, at the first and last tokens of the prompt.

    Of a prompt of P tokens, the first min(P // 2, `first`) and the last min(P // 2, `last`) are edited, nothing else:
    the token in the middle of a short odd prompt is not, and what is generated never is. So the model has to be told
    what it reads: `reading`, around every pass.

    Args:
        layers: L layers, counted as heads' are.
        basis: L x S x r x hidden, the rows of R, which have to be orthonormal. S is 1 for a tied edit, and 2 for one
            edit of first and another of last tokens.
        weight: L x S x r x hidden, W.
        bias: L x S x r, b.
        first, last: how many tokens at most.
        tied: whether the first and the last tokens have one edit.

    All are float32 and trainable. In a training step R is the Q of a QR decomposition of `basis`, which the gradient
    goes through, and after the step `basis` becomes that Q. So its rows are orthonormal whenever no step is being made,
    it is used as it is then, and a copy that is read from a folder does the same to the bit.

    Raises:
        LofitError: a tensor has the wrong shape or holds NaN or infinity, a layer comes twice, or no token is edited.
    """

    kind = "subspace"
    site = "block outputs"
    Shape = SubspaceShape

    def __init__(
        self,
        layers: Sequence[int],
        basis: Tensor,
        weight: Tensor,
        bias: Tensor,
        *,
        first: int,
        last: int,
        tied: bool = True,
        provenance: Provenance | None = None,
    ) -> None:
        super().__init__()
        self.provenance = provenance or Provenance()
        self.layers = [int(layer) for layer in layers]
        self.first, self.last, self.tied = first, last, tied
        if not self.layers or len(set(self.layers)) != len(self.layers) or min(self.layers) < 0:
            raise LofitError(f"layers: got {self.layers}; expected different layers, counted from 0")
        if not (first or last) or not (tied or (first and last)):
            wanted = "one of them above 0" if tied else "both above 0, since each has an edit of its own"
            raise LofitError(f"first and last: got {first} and {last}; expected {wanted}")
        count = (len(self.layers), 1 if tied else 2)
        known = basis.ndim == 4 and basis.shape[:2] == count and basis.shape[2] <= basis.shape[3]
        if not known or weight.shape != basis.shape or bias.shape != basis.shape[:3]:
            shapes = ", ".join(str(tuple(tensor.shape)) for tensor in (basis, weight, bias))
            raise LofitError(
                f"basis, weight and bias: got shapes {shapes}; expected {count} x rank x hidden twice, with a rank up "
                f"to hidden, and {count} x rank"
            )
        for name, value in (("basis", basis), ("weight", weight), ("bias", bias)):
            if not value.isfinite().all():
                raise LofitError(f"{name}: got NaN or infinity; expected finite numbers")
        self.basis = nn.Parameter(basis.detach().clone().float())
        self.weight = nn.Parameter(weight.detach().clone().float())
        self.bias = nn.Parameter(bias.detach().clone().float())
        sides = [f"{name} {count}" for name, count in (("first", first), ("last", last)) if count]
        self.where = f"{' and '.join(sides)} of the prompt"
        self._in_step = False
        self._firsts: Tensor | None = None

    @property
    def rank(self) -> int:
        return int(self.basis.shape[2])

    @property
    def hidden_size(self) -> int:
        return int(self.basis.shape[3])

    @property
    def lowest_layer(self) -> int:
        return min(self.layers)

    @property
    def is_idle(self) -> bool:
        """W = R and b = 0 leave every state as it is."""
        return torch.equal(self.basis, self.weight) and not self.bias.any()

    def begin_step(self, step: int) -> None:
        self._in_step = True

    @torch.no_grad()
    def end_step(self, lr: float) -> None:
        self.basis.copy_(orthonormal(self.basis))
        self._in_step = False

    def counts(self, row: Encoded) -> tuple[int, int]:
        """How many tokens of a row are edited at the beginning and at the end of its prompt."""
        return min(row.start // 2, self.first), min(row.start // 2, self.last)

    def positions(self, row: Encoded) -> list[int]:
        first, last = self.counts(row)
        return [*range(first), *range(row.start - last, row.start)]

    @contextmanager
    def reading(self, rows: Sequence[Encoded], width: int, *, left: bool = False) -> Iterator[Callable[[], None]]:
        with super().reading(rows, width, left=left) as finished:
            assert self.mask is not None
            firsts = torch.tensor([self.counts(row)[0] for row in rows])
            # The places of a row come in their order: those of its beginning are the first ones.
            before, self._firsts = self._firsts, self.mask & (self.mask.cumsum(1) <= firsts[:, None])
            try:
                yield finished
            finally:
                self._firsts = before

    def edit(self, h: Tensor, row: int, side: int = 0) -> Tensor:
        """What becomes of N states, N x hidden of any dtype: the formula, in float32.

        Args:
            row: which of `layers`.
            side: 0 for the edit of first tokens, or of all; 1 for that of last ones.
        """
        basis, weight = self.basis[row, side], self.weight[row, side]
        if self._in_step:
            basis = orthonormal(basis)
        state = h.float()
        inside = F.linear(state, weight, self.bias[row, side]) - F.linear(state, basis)
        return (state + inside @ basis).to(h.dtype)

    def attach(self, model: nn.Module, layout: HeadLayout | None = None) -> Attachment:
        """Edit the block outputs of `model` until `detach()` or the end of the `with` block.

        Raises:
            LofitError: a layer or the width does not fit the model; or, from a pass outside of `reading`, it is not
                known where the prompts are.
        """
        model = getattr(model, "_orig_mod", model)
        layout = layout or head_layout(model)
        self.check_fits(model, layout)
        handles = [
            model.get_submodule(layout.blocks[layer]).register_forward_hook(self._hook(row))
            for row, layer in enumerate(self.layers)
        ]
        forget_compiled_code()
        return Attachment(handles)

    def check_fits(self, model: nn.Module, layout: HeadLayout) -> None:
        """A LofitError where a layer or the width does not fit the model."""
        if max(self.layers) >= layout.num_layers:
            raise LofitError(f"layers: got {max(self.layers)}; expected 0 to {layout.num_layers - 1}, as in the model")
        if self.hidden_size != (width := hidden_size(model)):
            raise LofitError(f"hidden_size: got {self.hidden_size}; expected the model's {width}")
        self.provenance.check_fits(layout)

    def _hook(self, row: int) -> Callable:
        def hook(_: nn.Module, args: tuple, output: Any) -> Any:
            # transformers 5 has layers that return the states alone, and layers that return a tuple.
            if isinstance(output, tuple):
                return (self._edited(output[0], row), *output[1:])
            return self._edited(output, row)

        return hook

    def _edited(self, h: Tensor, row: int) -> Tensor:
        """Block outputs, B x T x hidden, edited at this pass's places; a new tensor."""
        if self.mask is None or self._firsts is None:
            raise LofitError(
                "subspace: got a pass whose prompts are not known; expected it within `adapter.reading(rows, width)`"
            )
        if h.shape[:2] != self.mask.shape:
            return h
        sides = [self.mask] if self.tied else [self._firsts, self.mask & ~self._firsts]
        for side, mask in enumerate(sides):
            # Found where the mask is, on the CPU: an accelerator would have to be waited for.
            places = tuple(place.to(h.device) for place in mask.nonzero(as_tuple=True))
            h = h.index_put(places, self.edit(h[places], row, side))
        return h

    def facts(self) -> dict[str, Any]:
        return {
            "layers": self.layers,
            "rank": self.rank,
            "hidden_size": self.hidden_size,
            "first": self.first,
            "last": self.last,
            "tied": self.tied,
        }

    @classmethod
    def from_parts(cls, shape: SubspaceShape, tensors: dict[str, Tensor]) -> Self:
        lead = (len(shape.layers), 1 if shape.tied else 2, shape.rank)
        size = (*lead, shape.hidden_size)
        check_read(tensors, {"basis": size, "weight": size, "bias": lead}, axes="layers x edits x rank (x hidden_size)")
        parts = (tensors[name] for name in ("basis", "weight", "bias"))
        return cls(shape.layers, *parts, first=shape.first, last=shape.last, tied=shape.tied)

    def summary(self) -> str:
        numbers = sum(parameter.numel() for parameter in self.parameters())
        edits = "one edit" if self.tied else "one edit of first and one of last tokens"
        return (
            f"A [LoReFT]({PAPER}) adapter: {edits} of rank {self.rank} for the outputs of {len(self.layers)} layers, "
            f"{numbers:,} numbers in all. At the {self.where}, an output h becomes h + R^T (W h + b - R h)."
        )


def orthonormal(rows: Tensor) -> Tensor:
    """... x r x d: an orthonormal basis of what r independent rows span, with the gradient; such a basis is kept."""
    q, triangle = torch.linalg.qr(rows.mT)
    # QR leaves the signs open. With a positive diagonal, an orthonormal basis is its own Q.
    signs = torch.where(triangle.detach().diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0).to(q)
    return (q * signs[..., None, :]).mT


ADAPTER = SubspaceAdapter
