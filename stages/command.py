"""How a stage starts: as a command whose options are its parameters."""

import os
import sys
from collections.abc import Callable
from typing import Annotated

import typer

from lofit.errors import LofitError

Task = Annotated[str, typer.Option(help="A task of params.yaml.")]
Seed = Annotated[int, typer.Option(help="Decides initial vectors, order of examples and random heads.")]
Run = Annotated[str, typer.Option("--run-name", help="run.name of params.yaml: the folder of metrics and reports.")]
Method = Annotated[str, typer.Option(help="A row of params.yaml, from its block `methods`.")]


def is_first_process() -> bool:
    """Whether this is the process that writes, of those that train together."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


def main(stage: Callable[..., None]) -> None:
    """Run a stage as a command; a fault is one line and exit status 1."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(stage)
    try:
        app()
    except LofitError as error:
        # Of several processes, all meet it.
        if not is_first_process():
            sys.exit(1)
        sys.exit("\n".join(f"error: {line}" for line in str(error).splitlines()))
