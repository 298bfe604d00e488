"""A method of your own: LoFiT's step 2 with a pull of the offsets towards zero, at heads of any ranking.

    z <- z + v_l,i        minimising        loss + l2 * sum |v_l,i|^2

Put this file into lofit/methods/ under a name of your choice, say `ridge.py`, and it is there:

    lofit.fit(model, tokenizer, records, method="ridge", k=3, l2=0.0001)

In the pipeline it is a row of params.yaml: its name in `run.baselines`, and below `methods`

    ridge:
      kind: ridge
      fit: {k: 3, l2: 0.0001, epochs: 10}
      tune: {}
      evaluate: {}
"""

from torch import Tensor

from lofit.adapters.heads import HeadAdapter
from lofit.models.layout import Head
from lofit.settings import NotNegative, Positive
from lofit.training.initial import fresh_vectors
from lofit.training.settings import TrainingSettings
from lofit.training.subject import Subject

RANKING = "random"
"""Where heads come from, unless `ranking` names another, such as scale_norm; None for a method without heads."""


class Settings(TrainingSettings):
    """`lr`, `epochs`, `batch_size` and what else training takes, and a weight of our own."""

    lr: Positive = 0.1

    l2: NotNegative = 0.0001
    """Weight of the pull towards zero."""


def fit(subject: Subject, settings: Settings, heads: list[Head]) -> HeadAdapter:
    """Train an offset vector for each of `heads`."""
    adapter = HeadAdapter(heads, offsets=fresh_vectors(len(heads), subject.layout.head_dim, seed=subject.seed))

    def pull() -> Tensor:
        (offsets,) = adapter.parameters()
        return settings.l2 * offsets.square().sum()

    subject.train(adapter, settings, penalty=pull)
    return adapter
