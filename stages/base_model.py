"""Stage base_model: resolve the model to an exact revision."""

from lofit.errors import LofitError
from lofit.models import base
from lofit.storage.files import read_json, write_json
from stages import paths
from stages.command import Run, main
from stages.params.heads import check_heads
from stages.params.load import load
from stages.plan import read_plan


def base_model(run: Run) -> None:
    settings = dict(read_plan("base_model")["settings"])
    name = settings.pop("name")
    demo = name == "demo"
    try:
        resolved = base.resolve(name, source=str(paths.DEMO / "model") if demo else None, **settings)
    except LofitError as error:
        raise LofitError(f"{paths.PARAMS}: model.name: {error}") from None
    check_heads(load(paths.PARAMS), resolved.layout.size)
    write_json(paths.BASE_MODEL, resolved.to_json())
    layout = resolved.layout
    shape = {"layers": layout.num_layers, "heads": layout.size, "head_dim": layout.head_dim}
    figures = read_json(paths.DEMO / "figures.json")
    write_json(paths.metrics_folder(run) / "base_model.json", {**shape, **figures})


if __name__ == "__main__":
    main(base_model)
