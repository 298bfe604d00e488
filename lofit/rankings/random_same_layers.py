"""Heads drawn evenly within layers: as many of each layer as step 1 chooses, whatever K.

A ranking often finds the layer more than the head. This control keeps the layers and draws the heads.
"""

import numpy as np

from lofit.rankings import scale_norm, scores_of, top_heads
from lofit.rankings.random import Settings as Settings
from lofit.rankings.random import shuffled
from lofit.training.case import Case

NEEDS = "scales"


def rank(case: Case, settings: Settings, scales: np.ndarray) -> np.ndarray:
    """Place by place, a head of the layer that the norms of the scales have there, so it holds for every K."""
    norms = scale_norm.rank(case, scale_norm.Settings(), scales)
    layers, heads = norms.shape
    left = {layer: shuffled([(layer, head) for head in range(heads)], case, layer) for layer in range(layers)}
    return scores_of([left[layer].pop(0) for layer, _ in top_heads(norms, norms.size)], norms.shape)
