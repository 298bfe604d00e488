"""Case: which model shape, task, seed and draw a ranking is for; all that a ranking without a model needs."""

from dataclasses import dataclass

from lofit.models.layout import HeadLayout


@dataclass
class Case:
    layout: HeadLayout

    task: str = ""

    seed: int = 42

    draw: int = 1
    """Which draw of a random ranking."""
