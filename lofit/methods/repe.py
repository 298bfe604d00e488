"""RepE: a reading direction of truth in the residual stream, added as it is (Zou et al. 2023, arXiv 2310.01405).

The states h of each layer l are read at the last token of true and false answers to the same questions. Their
differences give one direction u_l of unit norm for each layer (section 3.1: linear artificial tomography),

    D_i = h(true_i) - h(false_i)
    mean:  u_l = mean_i D_i, normalised
    pca:   u_l = first principal component of s_i D_i, s_i = +1 or -1 at random

and the row adds it to the output of the best layer, or the best few, at every token position (section 3.2: control
with the reading vector):

    h_l <- h_l + strength * mean |h_l| * u_l

**Pairs.** The i-th true answer of a question goes with its i-th false one; the shorter list starts anew at its end, so
that each answer is in a pair. Pairs of training records make the direction and its sign; pairs of validation records
choose the layers, those of training where there are no others. `strength` is meant to be searched: `tune`.

**Where it differs from the published code.** PCA subtracts the mean of what it gets. If all differences were true minus
false, that would be the direction itself; the published code therefore turns each pair round at random, and here just
half of them are, so that the mean that is subtracted holds none of the direction but for chance. `strength` is in units
of the layer's mean norm over the training answers, since the published numbers (2 for a 7B model, 8 for a 30B one) do
not carry over from model to model. All states are outputs of layers, before the final norm; the last of
transformers' hidden states is after it. Nothing is chosen on test records.
"""

from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import Field

from lofit.errors import LofitError
from lofit.models.layout import Head
from lofit.settings import Count, Positive
from lofit.settings import Settings as BaseSettings

if TYPE_CHECKING:
    # Whoever reads the settings alone should not wait for torch to load.
    from lofit.adapters.stream import StreamAdapter
    from lofit.training.activations import Activations
    from lofit.training.subject import Subject

RANKING = None

NEEDS = "activations"


class Settings(BaseSettings):
    direction: Literal["mean", "pca"] = "mean"
    """The mean of the differences, or their first principal component in random order."""

    strength: Positive = 0.1
    """Length of the offset, as a share of the mean norm of the layer's output."""

    layers: Count = 1
    """How many layers to edit, those whose direction tells most validation pairs apart."""

    layer: Annotated[int, Field(ge=0)] | None = None
    """The one layer to edit, in place of that choice, counted from 0 among those with heads."""


def fit(subject: "Subject", settings: Settings, heads: list[Head]) -> "StreamAdapter":
    """The direction of the best layers as offsets.

    Raises:
        LofitError: the model has fewer layers; no question has both true and false answers; or the answers' states
            give no direction.
    """
    import torch

    from lofit.adapters.stream import StreamAdapter

    check_layers(settings, subject.layout.num_layers)
    layers, offsets = chosen_offsets(subject.collected(), settings, seed=subject.seed)
    return StreamAdapter(layers, torch.from_numpy(offsets.astype(np.float32)))


def check_layers(settings: Settings, count: int) -> None:
    if settings.layer is not None and settings.layers != 1:
        raise LofitError(f"layers: got {settings.layers} beside layer {settings.layer}; expected one of the two")
    if settings.layer is not None and settings.layer >= count:
        raise LofitError(f"layer: got {settings.layer}; expected 0 to {count - 1}, the layers of the model")
    if settings.layers > count:
        raise LofitError(f"layers: got {settings.layers}; expected 1 to {count}, the layers of the model")


def chosen_offsets(known: "Activations", settings: Settings, *, seed: int) -> tuple[list[int], np.ndarray]:
    """The layers to edit, lowest first, and their offsets, K x hidden, float64."""
    train = pairs(known.labels, known.questions, ~known.in_val)
    judged = pairs(known.labels, known.questions, known.in_val)
    if not len(train):
        raise LofitError("records: got no question with a true and a false answer; expected some to contrast")
    # Without validation records the layers are chosen by what has made the directions.
    judged = judged if len(judged) else train
    candidates = range(known.blocks.shape[1]) if settings.layer is None else [settings.layer]
    found: list[tuple[tuple[float, float, int], np.ndarray]] = []
    for layer in candidates:
        # One layer at a time: in float64, all of them would not fit.
        states = known.blocks[:, layer].astype(np.float64)
        # Float16 has overflowed there.
        if not np.isfinite(states).all():
            continue
        direction = direction_of(states, train, settings.direction, seed=seed)
        if direction is None:
            continue
        norm = np.linalg.norm(states[~known.in_val], axis=1).mean()
        gaps = (states[judged[:, 0]] - states[judged[:, 1]]) @ direction
        # Ties go to the larger margin, and then to the lower layer.
        rank = (float((gaps > 0).mean()), float(gaps.mean() / norm), -layer)
        found.append((rank, settings.strength * norm * direction))
    if len(found) < settings.layers:
        raise LofitError(
            f"repe: got a direction from {len(found)} layers; expected {settings.layers} whose states are finite in "
            "float16 and differ between true and false answers"
        )
    best = sorted(found, key=lambda item: item[0], reverse=True)[: settings.layers]
    best.sort(key=lambda item: -item[0][2])
    return [-rank[2] for rank, _ in best], np.stack([offset for _, offset in best])


def pairs(labels: np.ndarray, questions: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Rows of a true and of a false answer to the same question, P x 2, among the `chosen` ones.

    Args:
        labels: N, bool: whether an answer is true.
        questions: N: which question it answers.
        chosen: N, bool.
    """
    found = []
    for question in np.unique(questions[chosen]):
        own = chosen & (questions == question)
        true, false = np.flatnonzero(own & labels), np.flatnonzero(own & ~labels)
        if len(true) and len(false):
            places = np.arange(max(len(true), len(false)))
            found.append(np.stack([true[places % len(true)], false[places % len(false)]], axis=1))
    return np.concatenate(found) if found else np.empty((0, 2), dtype=int)


def direction_of(states: np.ndarray, rows: np.ndarray, kind: str, *, seed: int) -> np.ndarray | None:
    """A unit vector, hidden, float64, that points from false to true; None where the pairs do not differ.

    Args:
        states: N x hidden, float64.
        rows: P x 2, those of a true and of a false answer.
        kind: `mean` or `pca`.
    """
    differences = states[rows[:, 0]] - states[rows[:, 1]]
    if kind == "mean":
        found = differences.mean(axis=0)
    else:
        found = first_component(in_random_order(differences, seed=seed))
        gaps = differences @ found
        if (gaps > 0).sum() < (gaps < 0).sum():
            found = -found
    length = np.linalg.norm(found)
    return found / length if length > 0 else None


def in_random_order(differences: np.ndarray, *, seed: int) -> np.ndarray:
    """Half of the differences, P x hidden, turned round; which ones, the seed decides."""
    turned = np.random.default_rng(seed).permutation(len(differences)) < len(differences) // 2
    return np.where(turned[:, None], -differences, differences)


def first_component(rows: np.ndarray) -> np.ndarray:
    """The direction in which centred rows, P x hidden, vary most: their first right singular vector, of unit norm.

    Its sign means nothing. All zeros where the rows are all alike.
    """
    centred = rows - rows.mean(axis=0)
    # By the smaller of the two products: there are fewer pairs than numbers in a state, or the other way round.
    if len(centred) <= centred.shape[1]:
        strengths, vectors = np.linalg.eigh(centred @ centred.T)
        component = centred.T @ vectors[:, -1]
    else:
        strengths, vectors = np.linalg.eigh(centred.T @ centred)
        component = vectors[:, -1]
    length = np.linalg.norm(component)
    return component / length if strengths[-1] > 0 and length > 0 else np.zeros_like(component)
