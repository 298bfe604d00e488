"""The heads of another task: LoFiT's ranking by the scales that step 1 has trained there (LoFiT, section 5.1)."""

import numpy as np

from lofit.rankings import scale_norm
from lofit.settings import Name
from lofit.settings import Settings as BaseSettings
from lofit.training.case import Case

NEEDS = "other_scales"


class Settings(BaseSettings):
    task: Name
    """The task whose heads to take."""


def rank(case: Case, settings: Settings, scales: np.ndarray) -> np.ndarray:
    """Norms of the other task's scales, layers x heads."""
    return scale_norm.rank(case, scale_norm.Settings(), scales)
