"""LoFiT: localized fine-tuning on LLM representations (Yin, Ye and Durrett, NeurIPS 2024, arXiv 2406.01563).

Step 1, `lofit.rankings.scale_norm`, finds the heads that matter for a task. Step 2, this page, adds a trained vector to
the output z of each of the K chosen heads (l, i), at every token position and before the output projection:

    z <- z + v_l,i        v_l,i ~ N(0, 0.001) at first (section 3, equation 3; appendix D.1)

The model is frozen; the vectors v, which the paper calls biases and this library offsets, are all that is trained:
K x head_dim numbers.
"""

from typing import TYPE_CHECKING

from lofit.models.layout import Head
from lofit.settings import Positive
from lofit.training.settings import TrainingSettings

if TYPE_CHECKING:
    # Whoever reads the settings alone should not wait for torch to load.
    from lofit.adapters.heads import HeadAdapter
    from lofit.training.subject import Subject

RANKING = "scale_norm"


class Settings(TrainingSettings):
    """Step 2."""

    lr: Positive = 0.1


def fit(subject: "Subject", settings: Settings, heads: list[Head]) -> "HeadAdapter":
    """Train an offset vector for each of `heads`."""
    from lofit.adapters.heads import HeadAdapter
    from lofit.training.initial import fresh_vectors

    adapter = HeadAdapter(heads, offsets=fresh_vectors(len(heads), subject.layout.head_dim, seed=subject.seed))
    subject.train(adapter, settings)
    return adapter
