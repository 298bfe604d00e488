"""ITI's ranking: how well a head alone tells true answers from false ones (Li et al. 2023, arXiv 2306.03341).

For each head a logistic regression reads the head's output at the last token of a question and an answer,

    min 0.5 w'w + C sum_n log(1 + exp(-y_n (w'x_n + b)))

fitted on the training questions; its accuracy on the answers to the validation questions is the head's score. As in the
published code: C is 1, features are not standardised, the bias is free. There heads of one accuracy come in no certain
order; here by (layer, head).
"""

from typing import TYPE_CHECKING

import numpy as np

from lofit.errors import LofitError
from lofit.settings import Positive
from lofit.settings import Settings as BaseSettings
from lofit.training.case import Case
from lofit.training.probes import fit_probes

if TYPE_CHECKING:
    from lofit.training.activations import Activations

NEEDS = "activations"


class Settings(BaseSettings):
    c: Positive = 1.0
    """Weight of the data against the penalty on the probe's weights; the smaller, the more it is held back."""


def rank(case: Case, settings: Settings, given: "Activations") -> np.ndarray:
    """Accuracies on the validation answers, layers x heads.

    Raises:
        LofitError: there are no validation answers, or the answers of training are all true or all false.
    """
    check_val(given)
    scores = []
    # A layer at a time: in float64 the features of a large model would not fit in memory.
    for layer in range(given.heads.shape[1]):
        features = np.asarray(given.heads[:, layer]).transpose(1, 0, 2)
        probes = fit_probes(features[:, ~given.in_val], given.labels[~given.in_val], c=settings.c)
        scores.append(probes.accuracy(features[:, given.in_val], given.labels[given.in_val]))
    return np.stack(scores)


def check_val(given: "Activations") -> None:
    """A LofitError where there is nothing to measure a probe's accuracy on."""
    if not given.in_val.any():
        raise LofitError("val: got no validation records; expected some, whose answers a probe is scored on")
