"""StreamAdapter: offsets of the residual stream, each added to the output of one layer."""

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import Field
from torch import Tensor, nn

from lofit.adapters.attachment import Attachment, forget_compiled_code, refuse_no_effect
from lofit.adapters.base import Adapter
from lofit.adapters.card import table
from lofit.adapters.folder import Shape
from lofit.adapters.named import check_read, hold_vectors
from lofit.adapters.provenance import Provenance
from lofit.errors import LofitError
from lofit.models.layout import HeadLayout, head_layout, hidden_size

EXPORT = """\
Folded into a plain checkpoint, where the architecture has a bias at the end of its MLP:

```bash
lofit export THIS_FOLDER MERGED --to hf
```
"""

LIMITS = """\
- The edit acts at every token position, those of the prompt included.
- The vectors live in the residual stream and are tried on the base model and revision named above only.
- Layers are counted among those that have attention heads, from 0.
"""


class StreamShape(Shape):
    """The content of config.json. The rows of the tensor are in the order of `layers`."""

    kind: Literal["stream"] = "stream"
    hidden_size: Annotated[int, Field(ge=1)]
    layers: list[Annotated[int, Field(ge=0)]]

    def check(self) -> None:
        for layer in self.layers:
            if self.num_layers is not None and layer >= self.num_layers:
                raise LofitError(f"layers: got {layer}; expected 0 to {self.num_layers - 1}, as num_layers says")


class StreamAdapter(Adapter):
    """Vectors for K layers: the output h of a layer becomes `h + offset` at every token position.

    Args:
        layers: K layers, counted among those with heads, each at most once.
        offsets: K x hidden size.
        provenance: where they come from; goes into the folder and its card.

    The offsets are float32 whatever the model's dtype. A tensor that already requires grad is used as it is, so that
    gradients reach whatever it was computed from; any other is copied into a trainable `nn.Parameter`.

    Raises:
        LofitError: a layer comes twice or is negative, or the offsets have the wrong shape or hold NaN or infinity.
    """

    kind = "stream"
    site = "block outputs"
    Shape = StreamShape

    offsets: Tensor

    def __init__(self, layers: Sequence[int], offsets: Tensor, *, provenance: Provenance | None = None) -> None:
        super().__init__()
        self.provenance = provenance or Provenance()
        self.layers = [int(layer) for layer in layers]
        if twice := [layer for place, layer in enumerate(self.layers) if layer in self.layers[:place]]:
            raise LofitError(f"layers: got {twice[0]} twice; expected each layer once")
        if negative := [layer for layer in self.layers if layer < 0]:
            raise LofitError(f"layers: got {negative[0]}; expected layers counted from 0")
        hold_vectors(self, "offsets", offsets, len(self.layers), each="hidden_size")

    @property
    def hidden_size(self) -> int:
        """Size of each vector."""
        return self.offsets.shape[1]

    @property
    def lowest_layer(self) -> int | None:
        """The lowest layer whose output is edited; it has to be run itself, those below it only once."""
        return min(self.layers, default=None)

    def extra_repr(self) -> str:
        return f"offsets of {len(self.layers)} layers, {self.hidden_size} numbers each: {self.layers}"

    def attach(self, model: nn.Module, layout: HeadLayout | None = None) -> Attachment:
        """Edit the outputs of the layers of `model` until `detach()` or the end of the `with` block.

        **The model is changed in place** (forward hooks on its layers); its weights are not, and detaching leaves it
        as it was.

        Raises:
            LofitError: a layer or the hidden size does not fit the model; or, from the model's first pass, a layer was
                not called, so that an edit would have had no effect.
        """
        # torch.compile wraps a model, and the hooks are for what is inside.
        model = getattr(model, "_orig_mod", model)
        layout = layout or head_layout(model)
        self.check_fits(model, layout)
        paths = [layout.blocks[layer] for layer in self.layers]
        handles = [model.get_submodule(path).register_forward_hook(self._edit(row)) for row, path in enumerate(paths)]
        handles += refuse_no_effect(model, paths)
        forget_compiled_code()
        return Attachment(handles)

    def _edit(self, row: int) -> Callable:
        """The hook that adds one of the offsets to what a layer returns: a tensor, or a tuple that begins with it."""

        def hook(_: nn.Module, __: tuple, output: Any) -> Any:
            h = output if isinstance(output, Tensor) else output[0]  # ... x hidden size
            # A float32 offset promotes a bf16 h, so that the sum is rounded once. The device is that of the call:
            # weights may be offloaded or spread.
            edited = (h + self.offsets[row].to(h.device)).to(h.dtype)
            return edited if isinstance(output, Tensor) else (edited, *output[1:])

        return hook

    def check_fits(self, model: nn.Module, layout: HeadLayout) -> None:
        """A LofitError where a layer or the hidden size does not fit the model."""
        for layer in self.layers:
            if layer >= layout.num_layers:
                raise LofitError(
                    f"adapter layer {layer} is not in the model; expected layers 0 to {layout.num_layers - 1}"
                )
        if self.layers and self.hidden_size != (width := hidden_size(model)):
            raise LofitError(f"adapter offsets have {self.hidden_size} numbers; expected the model's {width}")
        self.provenance.check_fits(layout)

    @property
    def served_as(self) -> str | None:
        return None if self.is_idle else "down_proj bias"

    def summary(self) -> str:
        return (
            f"Offsets of the residual stream: {self.offsets.numel():,} numbers in all, added to the output of "
            f"{len(self.layers)} of the model's layers: h becomes h + offset."
        )

    def usage(self) -> str:
        return EXPORT

    def limits(self) -> str:
        return LIMITS

    def details(self) -> str:
        rows = [(str(layer), f"{self.offsets[row].norm().item():.4g}") for row, layer in self._ordered()]
        return f"## Layers\n\n{table(('layer', 'norm of the offset'), rows)}" if rows else ""

    def _ordered(self) -> list[tuple[int, int]]:
        """The rows with their layers, by layer."""
        return sorted(enumerate(self.layers), key=lambda pair: pair[1])

    def facts(self) -> dict[str, Any]:
        return {"hidden_size": self.hidden_size, "layers": sorted(self.layers)}

    def tensors(self) -> dict[str, Tensor]:
        return {"offsets": self.offsets.detach().cpu()[[row for row, _ in self._ordered()]]}

    @classmethod
    def from_parts(cls, shape: StreamShape, tensors: dict[str, Tensor]) -> Self:
        size = (len(shape.layers), shape.hidden_size)
        check_read(tensors, {"offsets": size}, axes="layers x hidden_size")
        return cls(shape.layers, tensors["offsets"])


def is_edited(block: nn.Module) -> bool:
    """Whether a StreamAdapter is attached to a layer."""
    return any(getattr(hook, "__module__", None) == __name__ for hook in block._forward_hooks.values())


ADAPTER = StreamAdapter
