"""Tensors of an adapter: how a module holds them by name, and what is expected of those that a folder holds."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lofit.errors import LofitError


def hold(root: nn.Module, name: str, tensor: Tensor, *, trained: bool = True) -> None:
    """Make `tensor` a parameter of `root` called `name`, or, where it is not trained, a buffer.

    The parts of the name before the last dot become empty modules.
    """
    *path, last = name.split(".")
    for part in path:
        if part not in root._modules:
            root.add_module(part, nn.Module())
        root = root.get_submodule(part)
    if trained:
        root.register_parameter(last, nn.Parameter(tensor))
    else:
        root.register_buffer(last, tensor)


def hold_vectors(root: nn.Module, name: str, vectors: Tensor, count: int, *, each: str) -> None:
    """Make `vectors`, `count` x `each`, the float32 tensor of `root` called `name`.

    A parameter, and a tensor that requires grad, is used as it is, so that gradients reach whatever it was computed
    from; any other is copied into a trainable parameter.

    Raises:
        LofitError: it has another shape, or holds NaN or infinity.
    """
    if vectors.ndim != 2 or len(vectors) != count:
        raise LofitError(f"{name}: got shape {tuple(vectors.shape)}; expected ({count}, {each})")
    if not torch.isfinite(vectors).all():
        raise LofitError(f"{name}: got NaN or infinity; expected finite numbers")
    if isinstance(vectors, nn.Parameter) and vectors.dtype == torch.float32:
        root.register_parameter(name, vectors)
    elif vectors.requires_grad:
        root.register_buffer(name, vectors.float())
    else:
        root.register_parameter(name, nn.Parameter(vectors.detach().clone().float()))


def check_read(tensors: Mapping[str, Tensor], expected: Mapping[str, tuple[int | None, ...]], *, axes: str) -> None:
    """Raise a LofitError unless a folder's tensors are those `expected` by its config: name, shape and float32.

    Args:
        axes: what the numbers of a shape count.
    """
    if sorted(tensors) != sorted(expected):
        raise LofitError(f"got tensors {sorted(tensors)}; expected the config's {sorted(expected)}")
    for name, tensor in tensors.items():
        if tensor.shape != expected[name] or tensor.dtype != torch.float32:
            raise LofitError(
                f"{name}: got shape {tuple(tensor.shape)} of {tensor.dtype}; expected {expected[name]}, {axes} of the "
                f"config, of {torch.float32}"
            )
