"""The base model as stages use it: what the manifest says, and nothing else under the same name."""

from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lofit.errors import LofitError
from lofit.models import base
from lofit.models.base import BaseModel
from lofit.models.identity import folder_hash
from lofit.storage.files import read_json
from stages import paths
from stages.runtime import read_runtime


def read_base() -> BaseModel:
    """The model that the stage base_model has resolved.

    Raises:
        LofitError: it is a folder whose files have changed since.
    """
    known = BaseModel.from_json(read_json(paths.BASE_MODEL))
    folder = Path(known.source)
    if folder.is_dir() and (found := folder_hash(folder, notes=paths.model_notes())) != known.revision:
        raise LofitError(
            f"model {known.name!r}: its files have changed, got revision {found[:12]}; expected {known.revision[:12]}, "
            "or `dvc repro --force --single-item base_model`, then `dvc repro`"
        )
    return known


def load_base(known: BaseModel, device: Any = None) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model and its tokenizer, where runtime.yaml wants it, or on `device`."""
    runtime = read_runtime()
    return base.load(known, device=device or runtime.device, device_map=runtime.device_map)
