"""LoReFT: low-rank linear subspace representation finetuning (Wu et al., NeurIPS 2024, arXiv 2404.03592).

The output h of a layer, in the residual stream, is edited at the first and the last tokens of the prompt:

    h <- h + R^T (W h + b - R h)        R: rank x hidden with orthonormal rows, W: rank x hidden, b: rank (equation 2)

Of a prompt of P tokens these are min(P // 2, first) and min(P // 2, last), as in the published code. Tied positions
share one edit; otherwise the first ones have one and the last ones another, with twice the numbers. Of the last layer's
outputs only that at the prompt's last token is read, so an edit of its first tokens alone is trained to nothing.

R is orthogonal at first and W, b are those of a fresh linear layer, so the edit is not the identity before training:
DPO's reference is the bare model.

Other than the published code: W is float32, too, not of the model's dtype; rows of R are kept orthonormal by a QR
decomposition of rank columns in each step, in place of torch's parametrization, which is where most of the published
code's time and memory go; there is no dropout, which there acts on the whole state; short prompts need no extra
padding token; and our schedule is that of all rows, without warm-up.
"""

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from lofit.models.layout import Head, hidden_size
from lofit.settings import Count, Positive
from lofit.training.settings import TrainingSettings

if TYPE_CHECKING:
    # Whoever reads the settings alone should not wait for torch to load.
    from lofit.adapters.subspace import SubspaceAdapter
    from lofit.training.subject import Subject

RANKING = None

Whole = Annotated[int, Field(ge=0)]


class Settings(TrainingSettings):
    """One step."""

    lr: Positive = 0.0009

    rank: Count = 8

    layers: Annotated[list[Whole], Field(min_length=1)] | None = None
    """Which layers, from 0; null for all."""

    first: Whole = 7
    """How many tokens at the beginning of the prompt, at most half of them."""

    last: Whole = 7
    """How many at its end, at most half of them."""

    tied: bool = True
    """Whether first and last tokens share one edit."""


def fit(subject: "Subject", settings: Settings, heads: list[Head]) -> "SubspaceAdapter":
    """Train R, W and b of the chosen layers.

    Raises:
        LofitError: a layer is not in the model, the rank is larger than its width, or no token is to be edited.
    """
    adapter = fresh(subject, settings)
    adapter.check_fits(subject.model, subject.layout)
    subject.train(adapter, settings)
    return adapter


def fresh(subject: "Subject", settings: Settings) -> "SubspaceAdapter":
    """The adapter before training, by the subject's seed alone."""
    import torch

    from lofit.adapters.subspace import SubspaceAdapter
    from lofit.errors import LofitError

    width = hidden_size(subject.model)
    if settings.rank > width:
        raise LofitError(f"rank: got {settings.rank}; expected 1 to {width}, the width of the model")
    layers = list(range(subject.layout.num_layers)) if settings.layers is None else settings.layers
    generator = torch.Generator().manual_seed(subject.seed)
    shape = (len(layers), 1 if settings.tied else 2, settings.rank, width)
    basis = torch.empty(shape)
    for edit in basis.flatten(0, 1):
        torch.nn.init.orthogonal_(edit, generator=generator)
    # What nn.Linear draws its weight and its bias from.
    bound = width**-0.5
    weight = torch.empty(shape).uniform_(-bound, bound, generator=generator)
    bias = torch.empty(shape[:3]).uniform_(-bound, bound, generator=generator)
    return SubspaceAdapter(layers, basis, weight, bias, first=settings.first, last=settings.last, tied=settings.tied)
