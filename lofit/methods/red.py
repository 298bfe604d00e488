"""RED as LoFiT's authors compare it: a scale and an offset for every head (LoFiT, section 4; RED is arXiv 2402.15179).

The output z of every head (l, i) is edited at every token position, before the output projection:

    z <- (1 + A_l,i) * z + v_l,i        A = v = 0 at first

A and v are trained together, in one step, without a penalty and without a choice of heads: 2 x layers x heads x
head_dim numbers.

The original RED (Wu et al. 2024) has the same formula, h <- s * h + b with s = 1 and b = 0 at first, at another place:
the output of each layer's feed-forward network. Its code keeps s in bfloat16 for Llama, where a step of 2e-5 is lost
next to 1, so that the published scales are exactly 1. Here both vectors are float32, and A is kept as a difference
from 1. Our schedule is that of all rows: no warm-up, and no epoch chosen by a test score.
"""

from typing import TYPE_CHECKING

from lofit.models.layout import Head
from lofit.settings import Positive
from lofit.training.settings import TrainingSettings

if TYPE_CHECKING:
    # Whoever reads the settings alone should not wait for torch to load.
    from lofit.adapters.heads import HeadAdapter
    from lofit.training.subject import Subject

RANKING = None


class Settings(TrainingSettings):
    """One step, all heads."""

    lr: Positive = 0.003


def fit(subject: "Subject", settings: Settings, heads: list[Head]) -> "HeadAdapter":
    """Train a scale and an offset for every head of the model."""
    import torch

    from lofit.adapters.heads import HeadAdapter

    layout = subject.layout
    zeros = torch.zeros(layout.size, layout.head_dim)
    adapter = HeadAdapter(layout.all_heads(), offsets=zeros, scales=zeros)
    subject.train(adapter, settings)
    return adapter
