"""Layers ranked by a probe: how well all heads of a layer together tell a true answer from a false one.

The control of LoFiT's table 2 that selects by layer: the probe of `lofit.rankings.probe` reads the outputs of all heads
of a layer side by side, at the last token of the best answer and of one false answer, drawn by the seed, to each
question. Heads score what their layer does, so whole layers are filled, best first. The paper gives no more than that:
which false answer is drawn, and C, are this library's choice.
"""

from typing import TYPE_CHECKING

import numpy as np

from lofit.rankings.probe import Settings as Settings
from lofit.rankings.probe import check_val
from lofit.training.case import Case
from lofit.training.probes import fit_probes

if TYPE_CHECKING:
    from lofit.training.activations import Activations

NEEDS = "activations"


def rank(case: Case, settings: Settings, given: "Activations") -> np.ndarray:
    """The accuracy of each layer's probe on the validation answers, for all heads of the layer: layers x heads.

    Raises:
        LofitError: there are no validation answers.
    """
    check_val(given)
    pairs = best_against_one(given, seed=case.seed)
    in_val, labels = given.in_val[pairs], given.labels[pairs]
    scores = np.empty(given.heads.shape[1:3])
    for layer in range(len(scores)):
        features = np.asarray(given.heads[:, layer])[pairs].reshape(1, len(pairs), -1)
        probe = fit_probes(features[:, ~in_val], labels[~in_val], c=settings.c)
        scores[layer] = probe.accuracy(features[:, in_val], labels[in_val])[0]
    return scores


def best_against_one(given: "Activations", *, seed: int) -> np.ndarray:
    """Places of each question's first true answer and of one of its false ones, drawn by the seed and the question."""
    chosen = []
    for question in np.unique(given.questions):
        places = np.flatnonzero(given.questions == question)
        true, false = places[given.labels[places]], places[~given.labels[places]]
        chosen += [true[0], np.random.default_rng([seed, int(question)]).choice(false)]
    return np.array(chosen)
