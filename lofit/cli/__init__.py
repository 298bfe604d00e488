"""The command `lofit`: look at a model, try an adapter, export it, import a published one.

torch and transformers are imported by the commands that need them, so that `lofit --help` answers at once.
"""

import signal
import sys
from importlib.metadata import version
from typing import Annotated

import typer

from lofit.cli.export import export
from lofit.cli.generate import generate
from lofit.cli.import_ import import_
from lofit.cli.inspect import inspect
from lofit.errors import LofitError

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Adapt a language model by editing a handful of its attention heads. The pipeline itself runs by `dvc repro`.",
)
for name, command in (
    ("inspect", inspect),
    ("generate", generate),
    ("export", export),
    ("import", import_),
):
    app.command(name)(command)


def main(arguments: list[str] | None = None) -> None:
    """Run the command; what the user can mend is one line per fault and exit status 1."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        # So that half-written folders are dropped, as they are on Ctrl-C.
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    try:
        app(arguments)
    except (LofitError, OSError) as error:
        sys.exit("\n".join(f"error: {line}" for line in str(error).splitlines()))


def show_version(wanted: bool) -> None:
    if wanted:
        print(version("lofit"))
        raise typer.Exit


@app.callback()
def options(
    _: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass
