"""Between LoFiT's steps: from scales, or from scores of any kind, to the K best heads."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np

from lofit.errors import LofitError
from lofit.rankings import top_heads

if TYPE_CHECKING:
    # A stage that has the scores already needs no torch.
    from torch import Tensor

    from lofit.adapters.heads import HeadAdapter
    from lofit.models.layout import Head


def select_heads(scores: HeadAdapter | Tensor | np.ndarray, k: int) -> list[Head]:
    """The K best heads, as (layer, head), best first, ties by (layer, head).

    Args:
        scores: the scales that `train_scales` returns, whose norms are ranked; or layers x heads scores.

    Raises:
        LofitError: there are fewer than `k` heads to choose from.
    """
    if isinstance(scores, np.ndarray):
        return top_heads(scores, k)
    # A stage that has the scores already has no torch to compare types with.
    if hasattr(scores, "heads"):
        return top_heads(np.linalg.norm(by_head(cast("HeadAdapter", scores)), axis=-1), k)
    return top_heads(cast("Tensor", scores).detach().cpu().numpy(), k)


def by_head(scales: HeadAdapter) -> np.ndarray:
    """The scales of all heads as layers x heads x head_dim.

    Raises:
        LofitError: the adapter has no scales, or not those of all heads of a model.
    """
    layers, heads = (1 + max((head[part] for head in scales.heads), default=-1) for part in (0, 1))
    if scales.scales is None or len(scales.heads) != layers * heads:
        raise LofitError("scales: got some heads'; expected those of all heads, as `train_scales` returns them")
    order = sorted(range(len(scales.heads)), key=scales.heads.__getitem__)
    return scales.scales.detach().cpu().numpy()[order].reshape(layers, heads, -1)
