"""A base model with an adapter, by whichever way its users will get it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lofit import models
from lofit.adapter import HeadAdapter
from lofit.export.checkpoint import export_checkpoint
from lofit.export.peft_folder import export_peft
from lofit.models import BaseModel

Through = Literal["hooks", "merged", "peft"]

load_once = lru_cache(maxsize=1)(models.load)
"""Hooks leave a model as it was, so that adapters can take turns on one."""


@contextmanager
def served(
    base: BaseModel, adapter: HeadAdapter, through: Through, *, scratch: Path
) -> Iterator[tuple[PreTrainedModel, PreTrainedTokenizerBase]]:
    """The adapted model and its tokenizer, for the length of the block.

    `merged` and `peft` write the export below `scratch`, verify it, and load it as someone without lofit would; it is
    dropped at the end. An adapter without vectors leaves nothing to export: that is the base model.

    Raises:
        LofitError: the architecture has no place for the edit, or the export is not what it should be.
    """
    if through == "hooks" or not adapter.vectors():
        model, tokenizer = load_once(base)
        with adapter.attach(model, base.layout):
            yield model, tokenizer
        return
    with TemporaryDirectory(dir=scratch, prefix=".export-") as folder:
        out = Path(folder, through)
        if through == "merged":
            export_checkpoint(base, adapter, out)
            yield models.load(replace(base, source=str(out)))
        else:
            export_peft(base, adapter, out)
            model, tokenizer = models.load(base)
            model.load_adapter(str(out))
            yield model, tokenizer
