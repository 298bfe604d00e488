"""Linear modules, whichever way round they keep their weight."""

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D


def as_matrix(projection: nn.Module, weight: Tensor) -> Tensor:
    """The weight of a linear module as outputs x inputs; GPT-2's Conv1D keeps it as inputs x outputs."""
    return weight.T if isinstance(projection, Conv1D) else weight
