"""The base model of an adapter: where it is, and whether it is still the one that the adapter was made from."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from lofit.cli.arguments import DEMO
from lofit.errors import LofitError

if TYPE_CHECKING:
    # `lofit --help` should not wait for torch to load.
    from lofit.adapters.provenance import Provenance
    from lofit.models.base import BaseModel

FOLDER_HASH = 64
"""Length of a revision that is the SHA-256 of a folder; that of a commit is 40."""


def base_of(adapter: str, made_from: "Provenance") -> tuple[str, str]:
    """What an adapter calls its base model, and what to find it by now: a folder, a hub id, or a GGUF file's name.

    A relative path is looked for here and then in each of the folders around the adapter's, since it was relative to
    the project in which the adapter was made. What was a folder is never looked for on the hub.

    Raises:
        LofitError: no base model is named, or it was a folder, which is nowhere there.
    """
    from lofit.models.named import is_gguf
    from lofit.models.places import looks_like_path

    if made_from.base_model is None:
        raise LofitError(f"{adapter}: names no base model; expected --model with the one that it was made from")
    name = str(DEMO) if made_from.base_model == "demo" else made_from.base_model
    if made_from.commit and not Path(name).is_dir():
        return name, name
    parents = Path(adapter).resolve().parents if Path(adapter).is_dir() else ()
    for place in (Path(), *parents):
        if (place / name).is_dir() or (is_gguf(name) and (place / name).is_file()):
            return name, str(place / name)
    if is_gguf(name):
        # A package has it, or the hub.
        return name, name
    was_folder = len(made_from.base_revision or "") == FOLDER_HASH
    if was_folder or name == str(DEMO) or looks_like_path(name):
        raise LofitError(
            f"{adapter}: its base model is the folder {name}, which is not here; expected --model with where it is now"
        )
    return name, name


def check_revision(adapter: str, made_from: "Provenance", base: "BaseModel", *, chosen: bool) -> None:
    """Warn where the base model is not at the revision that the adapter was made from; refuse unless the user chose it.

    Raises:
        LofitError: it is not, and the adapter alone has said which model it is.
    """
    made = made_from.base_revision
    if made in (None, base.revision):
        return
    if not chosen:
        raise LofitError(
            f"{adapter}: made from {base.name} at {made[:12]}, got {base.revision[:12]}; expected that one, or --model "
            f"{base.source} to use it all the same"
        )
    print(
        f"warning: {base.name} is at {base.revision[:12]}, and the adapter was trained at {made[:12]}; its scores are "
        "those of the latter",
        file=sys.stderr,
    )
