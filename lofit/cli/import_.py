"""lofit import: a checkpoint of the published code, or one with offsets baked in, as an adapter folder."""

from pathlib import Path
from typing import Annotated

import typer

from lofit.cli.arguments import KINDS, find_base
from lofit.errors import LofitError
from lofit.storage.files import check_free


def import_(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="A folder, a .safetensors file, or a Hugging Face id.")
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to write.")],
    base: Annotated[
        str | None,
        typer.Option(help=f"The unedited model, where SOURCE has offsets baked into biases. {KINDS}"),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Write into OUT even if it holds something.")] = False,
) -> None:
    """Turn a checkpoint of the published code (github.com/fc2869/lo-fit) into an adapter folder.

    With --base, one whose offsets are baked into biases (github.com/likenneth/honest_llama).
    """
    if Path(source).suffix == ".npy":
        raise LofitError(
            f"{source}: a list of heads holds no vectors to import; name it in params.yaml instead, as "
            "`ranking: listed` with `file:` below tasks.<task>.select_heads"
        )
    check_free(out, force=force)
    if out.resolve() in (Path(source).resolve(), Path(source).resolve().parent):
        raise LofitError(f"{out}: got the folder of the checkpoint itself; expected another one")
    from lofit.adapters.baked import import_baked
    from lofit.adapters.published import import_checkpoint
    from lofit.models.base import resolve

    if base is None:
        adapter = import_checkpoint(source)
    else:
        found = find_base(base)
        adapter = import_baked(source, resolve(base, source=found.source, dtype="float32"))
    adapter.save_pretrained(out)
    kinds = " and ".join(adapter.vectors())
    numbers = sum(vector.numel() for vector in adapter.parameters())
    layers = len({layer for layer, _ in adapter.heads})
    model = adapter.provenance.base_model or "BASE_MODEL"
    print(
        f"{out}: {kinds} of {len(adapter.heads)} heads in {layers} layers, {adapter.head_dim} numbers each, "
        f"{numbers:,} in all\n\nTry it:\n\n"
        f'  lofit generate "..." --model {model} --adapter {out}\n\nUse it:\n\n'
        f'  adapter = lofit.HeadAdapter.from_pretrained("{out}")\n'
        "  with adapter.attach(model):\n      ..."
    )
