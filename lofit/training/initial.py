"""What trained vectors start from."""

import torch
from torch import Tensor

INIT_STD = 0.001
"""Standard deviation of fresh vectors (LoFiT appendix D.1)."""


def fresh_vectors(rows: int, head_dim: int, *, seed: int) -> Tensor:
    """rows x head_dim numbers drawn from N(0, 0.001)."""
    return INIT_STD * torch.randn(rows, head_dim, generator=torch.Generator().manual_seed(seed))
