"""Arguments that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

from lofit.errors import LofitError

DEMO = Path("artifacts/demo/model")

ModelName = Annotated[str, typer.Argument(metavar="MODEL", help="A folder, a Hugging Face id, or demo.")]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit on the hub.")]


def model_source(model: str) -> str:
    """Where to read the model called so from; `demo` is the one that the pipeline has trained."""
    if model == "demo" and not DEMO.is_dir():
        raise LofitError(f"{DEMO}: no such folder; expected once `dvc repro base_model` has trained the demo model")
    return str(DEMO) if model == "demo" else model
