"""An adapter at work on a model: hooks before its attention output projections, and their removal."""

import sys
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Protocol, Self

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lofit.errors import LofitError
from lofit.models.layout import Head, HeadLayout


class Edits(Protocol):
    """What hooks need of an adapter: K heads, their vectors, K x head_dim each, and where a pass is to be edited."""

    heads: list[Head]
    mask: Tensor | None

    @property
    def scales(self) -> Tensor | None: ...

    @property
    def offsets(self) -> Tensor | None: ...

    @property
    def head_dim(self) -> int | None: ...

    def parameters(self) -> Iterator[nn.Parameter]: ...


class Attachment:
    """Hooks on a model. A context manager; `detach()` may be called more than once, and in any order with others."""

    def __init__(self, handles: list[RemovableHandle]) -> None:
        self._handles = handles

    def detach(self) -> None:
        for handle in self._handles:
            handle.remove()
        forget_compiled_code()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.detach()


def attach(adapter: Edits, model: nn.Module, layout: HeadLayout) -> Attachment:
    """Hook the layers of `model` that hold a head of `adapter`; see `HeadAdapter.attach`."""
    layers = sorted({layer for layer, _ in adapter.heads}) if adapter.head_dim else []
    paths = [layout.projections[layer] for layer in layers]
    handles = [
        model.get_submodule(path).register_forward_pre_hook(edit(adapter, layer, layout, model.get_submodule(path)))
        for path, layer in zip(paths, layers, strict=True)
    ]
    handles += refuse_no_effect(model, paths)
    forget_compiled_code()
    return Attachment(handles)


def forget_compiled_code() -> None:
    """Drop torch.compile's cache: it does not see hooks being added or removed."""
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()


def edit(adapter: Edits, layer: int, layout: HeadLayout, projection: nn.Module) -> Callable:
    """The pre-hook that edits the heads of one layer in the input of its projection."""
    rows = torch.tensor([row for row, (at, _) in enumerate(adapter.heads) if at == layer])
    heads = torch.tensor([head for at, head in adapter.heads if at == layer])
    # In step 1 a layer's heads are all there and in order: their vectors need only be laid end to end.
    first = int(rows[0])
    every = heads.tolist() == list(range(layout.num_heads)) and rows.tolist() == list(range(first, first + len(rows)))
    # Where the layer's vectors sit in the projection's input: heads of this layer x head_dim.
    columns = heads[:, None] * layout.head_dim + torch.arange(layout.head_dim)
    width = layout.num_heads * layout.head_dim
    copies: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def on(device: torch.device) -> tuple[Tensor, Tensor]:
        """`rows` and `columns` on a device that only a call can tell: weights may be offloaded or spread."""
        if device not in copies:
            # A copy made in inference mode could not serve a later backward pass.
            with torch.inference_mode(False):
                copies[device] = rows.to(device), columns.to(device)
        return copies[device]

    # Make the copies for known devices now: torch.compile cannot trace `.to()`.
    for tensor in (*projection.parameters(), *adapter.parameters()):
        on(tensor.device)

    def full_width(vectors: Tensor, like: Tensor) -> Tensor:
        """The layer's vectors among zeros, as wide as the projection's input."""
        if every:
            return vectors[first : first + layout.num_heads].flatten().to(like.device)
        spread = torch.zeros(width, dtype=torch.float32, device=like.device)
        return spread.index_put((on(like.device)[1],), vectors[on(vectors.device)[0]].to(like.device))

    def pre_hook(_: nn.Module, args: tuple) -> tuple:
        z, *rest = args
        edited = z  # ... x (num_heads * head_dim)
        # float32 vectors promote a bf16 z: in bf16, 1 + scale would round to 1 for |scale| < 0.002.
        if adapter.scales is not None:
            edited = edited * (1 + full_width(adapter.scales, z))
        if adapter.offsets is not None:
            edited = edited + full_width(adapter.offsets, z)
        edited = edited.to(z.dtype)
        if (mask := adapter.mask) is not None:
            if mask.shape != z.shape[:-1]:
                return args
            edited = edited.where(mask.to(z.device)[..., None], z)
        return (edited, *rest)

    return pre_hook


def refuse_no_effect(model: nn.Module, paths: Sequence[str]) -> list[RemovableHandle]:
    """Hooks that raise where the first pass through `model` leaves out one of these modules, and then are gone."""
    watches: dict[str, RemovableHandle] = {}

    def refuse(*_: object) -> None:
        # Handles cannot be traced; the first pass that is not compiled does it.
        if torch.compiler.is_compiling():
            return
        after.remove()
        if watches:
            raise LofitError(
                f"{next(iter(watches))}: not called in a pass through {type(model).__name__}, so that an edit there "
                "has no effect; expected a module that every pass calls"
            )

    def seen(path: str) -> None:
        # Passes of several threads may meet here.
        if not torch.compiler.is_compiling() and (handle := watches.pop(path, None)):
            handle.remove()

    after = model.register_forward_hook(refuse)
    for path in paths:
        watches[path] = model.get_submodule(path).register_forward_pre_hook(lambda *_, path=path: seen(path))
    return [after, *watches.values()]
