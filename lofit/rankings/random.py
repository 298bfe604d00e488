"""Heads drawn evenly: the control that shows what a ranking is worth."""

import numpy as np

from lofit.models.layout import Head
from lofit.rankings import scores_of
from lofit.settings import Count
from lofit.settings import Settings as BaseSettings
from lofit.training.case import Case

NEEDS = None


class Settings(BaseSettings):
    draws: Count = 1
    """How many times to draw; the report shows their mean and range."""


def rank(case: Case, settings: Settings, scales: None) -> np.ndarray:
    """The same task, seed and draw give the same order of all heads, so a larger K only adds to a smaller one."""
    return scores_of(shuffled(case.layout.all_heads(), case), case.layout.grid)


def shuffled(heads: list[Head], case: Case, *more: int) -> list[Head]:
    """`heads` in an order that task, seed and draw decide; `more` numbers give others."""
    generator = np.random.default_rng([case.seed, case.draw, *more, *case.task.encode()])
    return [heads[index] for index in generator.permutation(len(heads))]
