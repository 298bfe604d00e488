"""Arguments that several commands share."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from lofit.errors import LofitError

if TYPE_CHECKING:
    from lofit.models.named import Found

DEMO = Path("artifacts/demo/model")
KINDS = "A folder, a Hugging Face id, a GGUF file, smollm2-135m, gemma3-270m, or demo."
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
DTYPE_HELP = "Of the weights; auto is bfloat16 where this machine computes in it."

ModelName = Annotated[str, typer.Argument(metavar="MODEL", help=KINDS)]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit on the hub.")]


def find_base(model: str, revision: str | None = None) -> "Found":
    """The model called so; `demo` is the one that the pipeline has trained, and GGUF files are converted."""
    from lofit.models.named import CACHE, find_model

    if model == "demo" and not DEMO.is_dir():
        raise LofitError(f"{DEMO}: no such folder; expected once `dvc repro base_model` has trained the demo model")
    return find_model(str(DEMO) if model == "demo" else model, revision=revision, cache=CACHE)


def find_dtype(dtype: str, device: str = "auto") -> str:
    """The dtype called so; what `auto` is on this machine is said."""
    from lofit.models.runtime import pick_dtype

    found = pick_dtype(dtype, device)
    if dtype == "auto":
        print(f"--dtype: auto is {found} on this machine", file=sys.stderr)
    return found
