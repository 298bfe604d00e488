"""Not a stage: write a known model's settings into params.yaml, or list the presets that there are."""

import subprocess
from pathlib import Path
from typing import Annotated

import typer

from lofit.cli.terminal import columns, terminal
from lofit.errors import LofitError
from stages import paths
from stages.command import main
from stages.params import presets


def preset(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="One of presets/, or a file; without it, they are listed.")
    ] = None,
    params: Annotated[Path, typer.Option(help="The file to change.")] = paths.PARAMS,
    on_top: Annotated[bool, typer.Option("--on-top", help="Put it on top of changes that are not committed.")] = False,
) -> None:
    """Write a preset into params.yaml, or list the presets."""
    if name is None:
        table = columns("preset", "what it sets up")
        for preset, description in presets.descriptions(paths.PRESETS).items():
            table.add_row(preset, description)
        terminal().print(table)
        return
    file = presets.find(name, paths.PRESETS)
    if not on_top and has_changes(params):
        raise LofitError(
            f"{params}: got changes that are not committed, which the preset would be mixed with; "
            f"expected none: run `git checkout {params}` first, or add --on-top"
        )
    changed = presets.apply(params, file)
    print(*changed or [f"{params} says so already"], sep="\n")
    if changed:
        print(f"\n`git diff {params}` shows it, `git checkout {params}` undoes it.")


def has_changes(file: Path) -> bool:
    """Whether git has another version of the file than this one; not, where git is not there or does not track it."""
    command = ["git", "status", "--porcelain", "--untracked-files=no", "--", file.name]
    done = subprocess.run(command, cwd=file.absolute().parent, capture_output=True, text=True, check=False)
    return done.returncode == 0 and bool(done.stdout)


if __name__ == "__main__":
    main(preset)
