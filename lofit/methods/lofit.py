"""LoFiT: localized fine-tuning on LLM representations (Yin, Ye and Durrett, NeurIPS 2024, arXiv 2406.01563).

Step 1, `lofit.rankings.scale_norm`, finds the heads that matter for a task. Step 2, this page, adds a trained vector to
the output z of each of the K chosen heads (l, i), at every token position and before the output projection:

    z <- z + v_l,i        v_l,i ~ N(0, 0.001) at first (section 3, equation 3; appendix D.1)

The model is frozen; the vectors v, which the paper calls biases and this library offsets, are all that is trained:
K x head_dim numbers.

Two options are not in the paper. `vectors: scales_and_offsets` trains a scale next to each offset, which doubles the
numbers: z <- (1 + A_l,i) * z + v_l,i. `strength` multiplies the trained vectors; training does not depend on it, so a
search over strengths that keeps its checkpoints trains once.
"""

from typing import TYPE_CHECKING, Literal

from lofit.models.layout import Head
from lofit.settings import NotNegative, Positive
from lofit.training.settings import TrainingSettings

if TYPE_CHECKING:
    # Whoever reads the settings alone should not wait for torch to load.
    from torch import Tensor

    from lofit.adapters.heads import HeadAdapter
    from lofit.training.subject import Subject

RANKING = "scale_norm"


class Settings(TrainingSettings):
    """Step 2."""

    lr: Positive = 0.1

    vectors: Literal["offsets", "scales_and_offsets"] = "offsets"
    """What is trained for each head."""

    strength: NotNegative = 1.0
    """What the trained vectors are multiplied by; to be chosen on validation records."""


def fit(subject: "Subject", settings: Settings, heads: list[Head]) -> "HeadAdapter":
    """Train an offset vector for each of `heads`, and scales where they are wanted."""
    from lofit.adapters.heads import HeadAdapter
    from lofit.training.initial import fresh_vectors

    def fresh(seed: int) -> "Tensor":
        return fresh_vectors(len(heads), subject.layout.head_dim, seed=seed)

    scales = fresh(subject.seed + 1) if settings.vectors == "scales_and_offsets" else None
    adapter = HeadAdapter(heads, offsets=fresh(subject.seed), scales=scales)
    # The checkpoint of a run is found by its settings: those of another strength have to be the same.
    subject.train(adapter, settings.model_copy(update={"strength": 1.0}))
    if settings.strength == 1:
        return adapter
    adapter = adapter * settings.strength
    if subject.progress.val_loss is not None:
        subject.progress.val_loss = subject.loss_on_val(adapter, settings)
    return adapter
