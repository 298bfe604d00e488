"""No method: the untouched base model, which gains are measured against."""

from lofit.adapters.heads import HeadAdapter
from lofit.models.layout import Head
from lofit.settings import Settings as BaseSettings
from lofit.training.subject import Subject

RANKING = None


class Settings(BaseSettings):
    """There is nothing to set."""


def fit(subject: Subject, settings: Settings, heads: list[Head]) -> HeadAdapter:
    """An adapter that edits nothing."""
    return HeadAdapter([])
