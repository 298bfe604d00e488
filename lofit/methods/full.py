"""Full fine-tuning: every weight of the model is trained, what adapters of few numbers are measured against.

    theta <- theta - lr * AdamW(grad of the loss)        for all weights theta

The row differs from the usual recipe in what all rows here share: no weight decay, no warm-up, a rate that falls to
zero, and no dropout. Weights are trained as float32 copies, and the model's own come back afterwards. A model in 16
bits is refused: steps smaller than its weights' last digit would be lost.
"""

from typing import TYPE_CHECKING

from lofit.errors import LofitError
from lofit.models.layout import Head
from lofit.settings import Count, Positive
from lofit.training.settings import TrainingSettings

if TYPE_CHECKING:
    # Whoever reads the settings alone should not wait for torch to load.
    from lofit.adapters.weights import WeightsAdapter
    from lofit.training.subject import Subject

RANKING = None


class Settings(TrainingSettings):
    """How all weights are trained."""

    lr: Positive = 1e-4

    max_parameters: Count = 50_000_000
    """Largest model that is trained, in weights: beside the model it takes four times its memory, and the folder holds
    all of them."""


def fit(subject: "Subject", settings: Settings, heads: list[Head]) -> "WeightsAdapter":
    """Train a copy of every weight; `heads` is empty.

    Raises:
        LofitError: the model is larger than `max_parameters`, quantised, offloaded, or in 16 bits.
    """
    from lofit.adapters.weights import WeightsAdapter

    count = sum(weight.numel() for weight in subject.model.parameters())
    if count > settings.max_parameters:
        raise LofitError(
            f"full: got {count:,} weights; expected at most {settings.max_parameters:,}, or a larger max_parameters"
        )
    adapter = WeightsAdapter.fresh(subject.model)
    subject.train(adapter, settings)
    return adapter
