"""A plain checkpoint with an adapter folded in, written only once it has been seen to work."""

import sys
from pathlib import Path
from typing import get_args

import torch
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from lofit.adapters.base import Adapter
from lofit.errors import LofitError
from lofit.export.bias_sites import Home
from lofit.export.card import write_export_card
from lofit.export.engines import Engine, verdict
from lofit.export.merge import fold, home_for
from lofit.export.verify import Expected, Verification, expect, fixed_rows, verify
from lofit.models.base import BaseModel, load, skeleton
from lofit.models.identity import tokenizer_hash
from lofit.storage.files import whole_folder

LOAD = """
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("THIS_FOLDER")
tokenizer = AutoTokenizer.from_pretrained("THIS_FOLDER")
"""


def export_checkpoint(
    base: BaseModel,
    adapter: Adapter,
    out: Path,
    *,
    engine: Engine = "transformers",
    device: torch.device | str = "auto",
    tolerance: float | None = None,
    force: bool = False,
) -> Verification:
    """Write `base` with `adapter` folded in to the folder `out`: weights, config, tokenizer and a card.

    The folder appears once a process without lofit has read it back and given the logits of the base with the adapter
    attached; else nothing is left of it. The same inputs give the same bytes. One model is in memory at a time.

    Args:
        engine: what is to serve the checkpoint; what it is known to lose is refused.
        device: where to fold it, and to read it back.
        tolerance: see `verify`.
        force: replace what is in `out`.

    Raises:
        LofitError: the checkpoint would have no place for the adapter, cannot be written, or differs from the base
            with the adapter attached; or `out` is not empty.
    """
    # Refuses before the weights are loaded, where the architecture alone is the reason.
    revision = None if Path(base.source).is_dir() else base.revision
    home_for(skeleton(base.source, revision=revision), adapter, base.layout, engine)
    with whole_folder(out, force=force) as folder:
        home, expected, placed = _write(base, adapter, folder, engine, device)
        verification = verify(
            folder,
            expected,
            dtype=base.dtype,
            device=placed,
            quantised=base.quantization is not None,
            tolerance=tolerance,
        )
        if verdict(home.model_type, engine, home.place).keeps is None:
            print(
                f"warning: nobody has looked whether {engine} keeps what this {home.model_type} holds", file=sys.stderr
            )
        verdicts = [verdict(home.model_type, name, home.place) for name in get_args(Engine)]
        limits = [f"{found.engine} {found.version}: {found}" for found in verdicts if found.keeps is not True]
        write_export_card(
            folder,
            base=base,
            adapter=adapter,
            route=home.route(adapter),
            load=LOAD,
            limits=limits,
            verification=verification,
        )
    return verification


def _write(
    base: BaseModel, adapter: Adapter, folder: Path, engine: Engine, device: torch.device | str
) -> tuple[Home, Expected, torch.device]:
    """Write the checkpoint, and say what it must do; no model outlives the call."""
    model, tokenizer = load(base, device=device)
    placed = model.device
    rows = fixed_rows(tokenizer, model.config.get_text_config(decoder=True).vocab_size)
    # Weights stand in for the model's own, so they have to be where those are.
    expected = expect(model, adapter.to(placed), base.layout, rows)
    home = home_for(model, adapter, base.layout, engine)
    _save(fold(model, adapter, base.layout, home), tokenizer, folder)
    if tokenizer_hash(AutoTokenizer.from_pretrained(folder)) != tokenizer_hash(tokenizer):
        raise LofitError(f"{folder}: the tokenizer, read back, is not that of {base.source!r}; expected the same one")
    return home, expected, placed


def _save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    try:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    except (OSError, ValueError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0]
        raise LofitError(f"{folder}: transformers cannot write this {type(model).__name__} ({reason})") from None
