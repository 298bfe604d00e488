"""lofit export: an adapter as a plain checkpoint, or as a stock PEFT folder."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from lofit.cli.adapter_base import base_of, check_revision
from lofit.cli.arguments import DTYPE_HELP, KINDS, Dtype, Revision, find_base, find_dtype
from lofit.errors import LofitError
from lofit.storage.files import check_free


def export(
    adapter: Annotated[str, typer.Argument(metavar="ADAPTER", help="A folder that holds an adapter, or its hub id.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to write.")],
    to: Annotated[
        Literal["hf", "peft", "peft-lora"],
        typer.Option(
            help="hf: the whole model with the edit folded in. peft: a PEFT adapter of the fewest numbers. peft-lora: "
            "one that older versions of peft read, too."
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option(help=f"The base model. {KINDS} By default, what the adapter names."),
    ] = None,
    revision: Revision = None,
    engine: Annotated[
        Literal["transformers", "vllm", "llama.cpp"],
        typer.Option(help="What is to run the checkpoint; one that it is known to mangle is not written."),
    ] = "transformers",
    dtype: Annotated[Dtype, typer.Option(help=DTYPE_HELP)] = "float32",
    quantization: Annotated[
        Literal["bitsandbytes_4bit", "bitsandbytes_8bit"] | None, typer.Option(help="Quantise the base model.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
    tolerance: Annotated[
        float | None, typer.Option(min=0, help="Largest difference allowed, as a share of the adapter's effect.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace what OUT holds.")] = False,
) -> None:
    """Write an adapter so that it runs without lofit; read it back in another process and compare."""
    if to != "hf" and engine != "transformers":
        raise LofitError(f"--engine: got {engine}; expected with --to {to}: transformers, which reads PEFT adapters")
    # Before anything is loaded; `whole_folder` looks again.
    check_free(out, force=force)
    if force:
        check_replaceable(out)
    from transformers.utils.logging import enable_progress_bar

    from lofit.adapters.heads import HeadAdapter
    from lofit.adapters.kinds import load_adapter
    from lofit.export.checkpoint import export_checkpoint
    from lofit.export.merge import check_exportable
    from lofit.models.base import resolve
    from lofit.models.runtime import pick_device

    if to != "hf":
        # Fails where peft is not installed, before anything is loaded.
        from lofit.export.peft_folder import export_peft
    enable_progress_bar()
    edits = load_adapter(adapter)
    check_exportable(edits)
    if to != "hf" and not isinstance(edits, HeadAdapter):
        raise LofitError(f"--to: got {to} for an adapter of kind {edits.kind}; expected hf")
    made_from = edits.provenance
    chosen = model is not None or revision is not None
    name, place_of_base = base_of(adapter, made_from) if model is None else (None, model)
    found = find_base(place_of_base, revision if chosen else made_from.commit)
    check_apart(out, adapter, found.source)
    place = pick_device(device)
    base = resolve(
        name or found.name,
        source=found.source,
        revision=found.revision,
        projection=made_from.target_module,
        dtype=find_dtype(dtype, device),
        quantization=quantization,
    )
    check_revision(adapter, made_from, base, chosen=chosen)
    if to == "hf":
        verification = export_checkpoint(
            base, edits, out, engine=engine, device=place, tolerance=tolerance, force=force
        )
    else:
        assert isinstance(edits, HeadAdapter)
        method: Literal["lora"] | None = "lora" if to == "peft-lora" else None
        verification = export_peft(base, edits, out, method=method, device=place, tolerance=tolerance, force=force)
    print(f"{out}: {verification}")


def check_replaceable(out: Path) -> None:
    """Refuse to replace a folder that holds anything but an export."""
    card = out / "README.md"
    front = card.read_text(encoding="utf-8", errors="replace").split("\n---\n")[0] if card.is_file() else ""
    if out.is_dir() and any(out.iterdir()) and ("\n- lofit" not in front or any(map(Path.is_dir, out.iterdir()))):
        raise LofitError(
            f"{out}: got a folder that no export has written; expected with --force: one that an export has"
        )


def check_apart(out: Path, *sources: str) -> None:
    """Refuse to write where the adapter or the base model is."""
    for source in sources:
        if Path(source).is_dir() and Path(source).resolve().is_relative_to(out.resolve()):
            raise LofitError(f"{out}: got the place of {source}, which is read; expected another folder")
