"""What the folder of a SubspaceAdapter says of it."""

from typing import Annotated, Literal

from pydantic import Field

from lofit.adapters.folder import Shape
from lofit.errors import LofitError
from lofit.settings import Count

Whole = Annotated[int, Field(ge=0)]


class SubspaceShape(Shape):
    """The content of config.json. The tensors' first axis is in the order of `layers`, the second of first and last."""

    kind: Literal["subspace"] = "subspace"

    layers: list[Whole]

    rank: Count

    hidden_size: Count

    first: Whole

    last: Whole

    tied: bool

    def check(self) -> None:
        if self.num_layers is not None and max(self.layers, default=0) >= self.num_layers:
            raise LofitError(f"layers: got {max(self.layers)}; expected 0 to {self.num_layers - 1}, as num_layers says")
