"""Tensors held by a module under dotted names, which `state_dict` gives back as they are."""

from torch import Tensor, nn


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
