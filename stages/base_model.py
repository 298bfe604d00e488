"""Stage base_model: resolve the model to an exact revision; a GGUF file becomes a folder first."""

import os
import shutil

from lofit.errors import LofitError
from lofit.models import base
from lofit.models.named import Found, find_model
from lofit.models.runtime import pick_dtype
from lofit.storage.files import read_json, write_json, write_whole
from stages import paths
from stages.command import Run, main
from stages.params.heads import check_heads
from stages.params.load import load
from stages.plan import read_plan
from stages.runtime import read_runtime

NOTE = "model.name in params.yaml is no GGUF file, so nothing was converted.\n"


def base_model(run: Run) -> None:
    settings = dict(read_plan("base_model")["settings"])
    name, dtype = settings.pop("name"), settings.pop("dtype")
    try:
        found = find(name, settings.pop("file"), settings.pop("revision"))
        resolved = base.resolve(
            found.name,
            source=found.source,
            revision=found.revision,
            conversion=found.conversion,
            dtype=pick_dtype(dtype, read_runtime().device),
            **settings,
        )
    except LofitError as error:
        raise LofitError(f"{paths.PARAMS}: model.name: {error}") from None
    if dtype == "auto":
        print(f"model.dtype: auto is {resolved.dtype} on this machine")
    check_heads(load(paths.PARAMS), resolved.layout.size)
    write_json(paths.BASE_MODEL, resolved.to_json())
    layout = resolved.layout
    shape = {"layers": layout.num_layers, "heads": layout.size, "head_dim": layout.head_dim}
    figures = read_json(paths.DEMO / "figures.json")
    write_json(paths.metrics_folder(run) / "base_model.json", {**shape, **figures})


def find(name: str, file: str | None, revision: str | None) -> Found:
    """Where the model is; a converted one is brought to its place among the artifacts."""
    if name == "demo":
        write_whole(paths.CONVERTED / "README.txt", NOTE)
        return Found(name, str(paths.DEMO / "model"), revision)
    found = find_model(name if file is None else f"{name}/{file}", revision=revision, cache=paths.model_notes())
    if found.conversion is None:
        write_whole(paths.CONVERTED / "README.txt", NOTE)
        return found
    shutil.rmtree(paths.CONVERTED, ignore_errors=True)
    shutil.copytree(found.source, paths.CONVERTED, copy_function=link_or_copy)
    return Found(found.name, str(paths.CONVERTED), None, found.conversion)


def link_or_copy(source: str, target: str) -> None:
    """One copy of gigabytes on a disk is enough."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


if __name__ == "__main__":
    main(base_model)
