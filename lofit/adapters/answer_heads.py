"""AnswerHeadAdapter: offsets of some heads at the tokens that predict or belong to an answer, and at no others."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import Field
from torch import Tensor, nn

from lofit.adapters.attachment import Attachment, attach
from lofit.adapters.base import Adapter
from lofit.adapters.card import head_table
from lofit.adapters.folder import Shape
from lofit.adapters.heads import HeadAdapter, in_order
from lofit.adapters.heads_shape import HeadPlace, json_heads
from lofit.adapters.named import check_read
from lofit.adapters.provenance import Provenance
from lofit.models.layout import Head, HeadLayout, head_layout
from lofit.models.tokens import Encoded


class AnswerHeadShape(Shape):
    """The content of config.json. The rows of the tensor are in the order of `heads`."""

    kind: Literal["answer_heads"] = "answer_heads"
    head_dim: Annotated[int, Field(ge=1)]
    heads: list[HeadPlace]


class AnswerHeadAdapter(Adapter):
    """Offsets for K heads: z becomes `z + offset` from the last token of the prompt on.

    That token predicts the answer's first one. In generation it is the last of the prompt and all that follow; where
    nothing says what is prompt and what is answer, as when the model is called by itself, every position is edited.

    Args:
        heads: K pairs (layer, head), each at most once.
        offsets: K x head_dim.
        provenance: where they come from.

    Raises:
        LofitError: a head comes twice or is negative, or the offsets have the wrong shape or hold NaN or infinity.
    """

    kind = "answer_heads"
    site = "head outputs"
    where = "answer"
    Shape = AnswerHeadShape
    edits_generated = True
    scales = None

    def __init__(self, heads: Sequence[Head], offsets: Tensor, *, provenance: Provenance | None = None) -> None:
        super().__init__()
        self.provenance = provenance or Provenance()
        everywhere = HeadAdapter(heads, offsets)
        self.heads = everywhere.heads
        self.offsets = nn.Parameter(offsets.detach().clone().float())

    @property
    def head_dim(self) -> int:
        return int(self.offsets.shape[1])

    @property
    def lowest_layer(self) -> int | None:
        return min((layer for layer, _ in self.heads), default=None)

    def positions(self, row: Encoded) -> range:
        return range(max(row.start - 1, 0), len(row.ids))

    def attach(self, model: nn.Module, layout: HeadLayout | None = None) -> Attachment:
        """Edit the heads of `model` until `detach()` or the end of the `with` block, as `HeadAdapter.attach` does.

        Raises:
            LofitError: a head or the head size does not fit the model.
        """
        model = getattr(model, "_orig_mod", model)
        layout = layout or head_layout(model)
        HeadAdapter(self.heads, self.offsets, provenance=self.provenance).check_fits(layout)
        return attach(self, model, layout)

    def facts(self) -> dict[str, Any]:
        return {"head_dim": self.head_dim, "heads": json_heads(self.heads)}

    def tensors(self) -> dict[str, Tensor]:
        return {"offsets": in_order(self.heads, self.offsets)}

    @classmethod
    def from_parts(cls, shape: AnswerHeadShape, tensors: dict[str, Tensor]) -> Self:
        check_read(tensors, {"offsets": (len(shape.heads), shape.head_dim)}, axes="heads x head_dim")
        return cls([(place.layer, place.head) for place in shape.heads], tensors["offsets"])

    def summary(self) -> str:
        return (
            f"Offsets of {len(self.heads)} attention heads, {self.offsets.numel():,} numbers in all. From the last "
            "token of the prompt on, an edited head's output z becomes z + offset."
        )

    def details(self) -> str:
        return f"## Heads\n\n{head_table(sorted(self.heads), self.tensors())}" if self.heads else ""


ADAPTER = AnswerHeadAdapter
