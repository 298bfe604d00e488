"""ITI: inference-time intervention (Li, Patel, Viegas, Pfister and Wattenberg, NeurIPS 2023, arXiv 2306.03341).

Nothing is trained. The output z of each chosen head (l, h) is shifted along a direction in which the head tells true
answers from false ones,

    z <- z + alpha * sigma_l,h * theta_l,h        (section 3)

theta has length 1: the mean of z at the end of true answers less that of false ones, or the weights of the head's
probe. sigma is the standard deviation of `theta . z` at the ends of questions that follow an answer, which is what the
published code measures, though the paper does not say so; at the ends of answers it is far larger, and the same alpha
then too strong.

This differs from the published code: sigma is measured on training and validation questions alone, not on those of the
test; theta by default comes from the training answers alone, so that alpha can be chosen on validation; a question's
end is taken after one of its answers, not after each, and with the whole prompt of the next. The published code has
edited several places over time: from the second token of an answer on, then the last token of a text alone, which
changes no score of a multiple choice. Here `positions: all` shifts every token, which equals a bias of the output
projection and can be exported; `positions: answer` all tokens that predict or belong to an answer.
"""

from typing import TYPE_CHECKING, Literal

import numpy as np

from lofit.errors import LofitError
from lofit.models.layout import Head
from lofit.settings import NotNegative
from lofit.settings import Settings as BaseSettings

if TYPE_CHECKING:
    # Whoever reads the settings alone should not wait for torch to load.
    from lofit.adapters.answer_heads import AnswerHeadAdapter
    from lofit.adapters.heads import HeadAdapter
    from lofit.training.activations import Activations
    from lofit.training.subject import Subject

RANKING = "probe"
NEEDS = "activations"


class Settings(BaseSettings):
    alpha: NotNegative = 15.0
    """Strength, in standard deviations."""

    direction: Literal["mass_mean", "probe", "random"] = "mass_mean"
    """Along which direction: from the mean of false answers to that of true ones; the weights of a probe with C = 1; or
    one drawn evenly by the seed, a control."""

    sigma_bank: Literal["question_end", "answer_end"] = "question_end"
    """Where the standard deviation is measured: at the ends of questions that follow an answer, or at those of answers;
    of both splits."""

    positions: Literal["all", "answer"] = "all"
    """Which tokens are shifted: all; or those that predict or belong to the answer, from the prompt's last one on."""

    fit_on: Literal["train", "train_and_val"] = "train"
    """Whose answers the direction comes from. With validation's, as in the published code, scores on validation are too
    good to choose alpha by."""


def fit(subject: "Subject", settings: Settings, heads: list[Head]) -> "HeadAdapter | AnswerHeadAdapter":
    """An offset for each of `heads`, K x head_dim.

    Raises:
        LofitError: a record has no wrong answer, or a head puts out the same on true and false answers.
    """
    import torch

    from lofit.adapters.answer_heads import AnswerHeadAdapter
    from lofit.adapters.heads import HeadAdapter

    given = subject.collected()
    theta = directions(given, settings, heads, seed=subject.seed)
    bank = given.question_ends if settings.sigma_bank == "question_end" else given.heads
    sigma = [along(bank[:, layer, head], unit).std() for (layer, head), unit in zip(heads, theta, strict=True)]
    offsets = torch.from_numpy(settings.alpha * np.array(sigma)[:, None] * theta).float()
    kind = HeadAdapter if settings.positions == "all" else AnswerHeadAdapter
    return kind(heads, offsets)


def directions(given: "Activations", settings: Settings, heads: list[Head], *, seed: int) -> np.ndarray:
    """A direction of length 1 for each head, K x head_dim in float64.

    Raises:
        LofitError: a head puts out the same on true and false answers, or there are answers of one sort alone.
    """
    from lofit.training.probes import fit_probes

    _, layers, count, size = given.heads.shape
    if settings.direction == "random":
        # Drawn for all heads, so that a head's direction does not depend on which others are chosen.
        drawn = np.random.default_rng(seed).standard_normal((layers, count, size))
        theta = np.stack([drawn[head] for head in heads])
    else:
        used = np.full(len(given.labels), True) if settings.fit_on == "train_and_val" else ~given.in_val
        labels = given.labels[used]
        if settings.direction == "probe":
            # One at a time: they may be of many layers.
            features = (np.asarray(given.heads[:, layer, head])[None, used] for layer, head in heads)
            theta = np.stack([fit_probes(one, labels).weights[0] for one in features])
        else:
            theta = np.stack([mean_shift(given.heads[:, layer, head][used], labels) for layer, head in heads])
    lengths = np.linalg.norm(theta, axis=1)
    if not lengths.all():
        raise LofitError(f"head {heads[int(lengths.argmin())]}: got the same output on true and false answers")
    return theta / lengths[:, None]


def mean_shift(outputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The mean of a head's N x head_dim outputs on true answers less that on false ones, in float64."""
    z = outputs.astype(np.float64)
    return z[labels].mean(0) - z[~labels].mean(0)


def along(outputs: np.ndarray, unit: np.ndarray) -> np.ndarray:
    """N numbers: how far each of N x head_dim outputs goes along a direction."""
    return outputs.astype(np.float64) @ unit
