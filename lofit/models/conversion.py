"""What a folder was converted from, as manifests say it."""

from dataclasses import dataclass
from importlib.metadata import version
from typing import Self

from lofit.extras import extra


@dataclass(frozen=True)
class Conversion:
    """A GGUF file, and what has made a folder of it."""

    sha256: str
    """Of the file."""

    transformers: str
    """The version that converted it."""

    gguf: str
    """The version that read it."""

    @classmethod
    def now(cls, sha256: str) -> Self:
        """By what is installed.

        Raises:
            LofitError: the package gguf is not.
        """
        with extra("models", "GGUF files need"):
            import gguf  # noqa: F401
        return cls(sha256, version("transformers"), version("gguf"))
