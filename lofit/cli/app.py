"""The commands, put together.

torch and transformers are imported by the commands that need them, so that `lofit --help` answers at once.
"""

from importlib.metadata import version
from typing import Annotated

import typer

from lofit.cli.export import export
from lofit.cli.generate import generate
from lofit.cli.import_ import import_
from lofit.cli.inspect import inspect

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
