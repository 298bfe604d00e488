"""Models by the names that users write: a folder, a hub id, a shipped name, or a GGUF file, here or on the hub.

A GGUF file is converted once into a folder, which then is the model.
"""

import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from lofit.errors import LofitError
from lofit.models import gguf, gguf_tokenizer
from lofit.models.conversion import Conversion
from lofit.models.gguf import convert
from lofit.models.identity import file_hash, folder_hash
from lofit.models.shipped import SHIPPED, joined, show_licence
from lofit.storage.files import read_json, write_json

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SUFFIX = ".gguf"
CACHE = Path(".cache/models")
"""Where converted models are, outside the pipeline."""


@dataclass(frozen=True)
class Found:
    """Where a model is."""

    name: str
    """What it is called in manifests and adapters; with it, it is found again."""

    source: str
    """The folder or the hub id to load from."""

    revision: str | None
    """Branch, tag or commit of a hub id."""

    conversion: Conversion | None = None
    """What the folder was converted from."""


def is_gguf(name: str) -> bool:
    """Whether a name stands for a GGUF file: a shipped one, one here, or `owner/name/file.gguf` on the hub.

    What is there under a name of its own, such as a folder, comes first.
    """
    return not Path(name).is_dir() and (name in SHIPPED or name.endswith(SUFFIX))


def find_model(name: str, *, cache: Path, revision: str | None = None) -> Found:
    """Find a model; a GGUF file is converted into a folder in `cache`, where none has been.

    Args:
        cache: the folder for converted models.
        revision: of a hub id, or of the hub id of a GGUF file.

    Raises:
        LofitError: there is no such file or package, it cannot be converted, or it has no revisions.
    """
    if not is_gguf(name):
        return Found(name, name, revision)
    show_licence(name, say)
    if revision is not None and (name in SHIPPED or Path(name).exists()):
        raise LofitError(f"revision: got {revision!r}; expected none, since {name} is one file")
    file = None if name in SHIPPED else gguf_file(name, revision)
    sha256 = SHIPPED[name].sha256 if file is None else file_hash(file, notes=cache)
    made = Conversion.now(sha256)
    folder = cache / f"{name if file is None else file.stem}-{sha256[:12]}"
    note = folder.with_name(f"{folder.name}.json")
    by = {**asdict(made), "code": [file_hash(Path(str(page.__file__))) for page in (gguf, gguf_tokenizer)]}
    known = read_json(note) if note.exists() and folder.is_dir() else None
    if known is None or known["by"] != by or known["folder"] != folder_hash(folder, notes=cache):
        say(f"{name}: converting its GGUF file into {os.path.relpath(folder)}, once")
        make_folder(name, file, folder)
        write_json(note, {"by": by, "folder": folder_hash(folder, notes=cache)})
    return Found(name, str(folder), None, made)


def make_folder(name: str, file: Path | None, folder: Path) -> None:
    """Convert the file of a name into `folder`, in place of what is there; without a file it is a shipped one."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder.parent, prefix=".joined.") as scratch:
        convert(file or joined(name, Path(scratch, f"{name}{SUFFIX}")), folder, force=True)


def load_model(
    name: str, *, revision: str | None = None, dtype: str = "float32", device: str = "auto"
) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    """The frozen model of a name in evaluation mode, and its tokenizer.

    What transformers does not load by its name is brought to that: `smollm2-135m` and `gemma3-270m`, which come as
    packages, and GGUF files, here or as `owner/name/file.gguf` on the hub. They are converted once, into
    `.cache/models` of the current folder.

    Args:
        name: one of these, a folder, or a hub id.
        revision: branch, tag or commit on the hub.
        dtype: float32, bfloat16, float16, or auto: bfloat16 where the device computes in it, else float32.
        device: where to put it; `auto` is the first accelerator there is, or the CPU.

    Raises:
        LofitError: there is no such model, or it cannot be converted or loaded.
    """
    from lofit.models import base
    from lofit.models.runtime import pick_dtype

    found = find_model(name, revision=revision, cache=CACHE)
    resolved = base.resolve(found.name, source=found.source, revision=found.revision, dtype=pick_dtype(dtype, device))
    return base.load(resolved, device=device)


def gguf_file(name: str, revision: str | None) -> Path:
    """A GGUF file that is here, or that the hub has."""
    if (here := Path(name)).is_file():
        return here
    parts = name.split("/")
    if len(parts) < 3 or name.startswith((".", "/")):
        raise LofitError(f"model {name!r}: no such file; expected a GGUF file, or owner/name/file.gguf on the hub")
    from huggingface_hub import hf_hub_download

    owner, repository, *rest = parts
    try:
        return Path(hf_hub_download(f"{owner}/{repository}", "/".join(rest), revision=revision))
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise LofitError(f"model {name!r}: neither here nor on the Hugging Face hub ({reason})") from None


def say(line: str) -> None:
    """A line about what takes time or binds; results go elsewhere."""
    print(line, file=sys.stderr)
