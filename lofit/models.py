"""Base models: resolved once to something exact, then loaded from that."""

import hashlib
import logging
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import torch
from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError, RevisionNotFoundError
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils.logging import disable_progress_bar

from lofit.errors import LofitError
from lofit.heads import HeadLayout, head_layout

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

# Hub clients announce every retry; the one line that counts is ours.
logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
disable_progress_bar()


@dataclass(frozen=True)
class BaseModel:
    """Which model, exactly: what every later stage depends on in place of the weights themselves."""

    name: str

    source: str
    """Hub id or folder to load from."""

    revision: str
    """Commit of the hub repository, or SHA-256 over the files of a folder."""

    dtype: str

    layout: HeadLayout

    tokenizer_sha256: str

    def to_json(self) -> dict:
        return asdict(self)

    @classmethod
    def from_json(cls, row: dict) -> Self:
        layout = HeadLayout(**{**row["layout"], "projections": tuple(row["layout"]["projections"])})
        return cls(**{**row, "layout": layout})


def resolve(name: str, *, source: str | None = None, revision: str | None = None, dtype: str) -> BaseModel:
    """Resolve a hub id or a folder to an exact revision, without loading its weights.

    Args:
        name: what to call the model; the hub id or the folder, unless `source` says otherwise.
        revision: branch, tag or commit on the hub.

    Raises:
        LofitError: the model cannot be found or is gated, or its heads cannot be found.
    """
    source = source or name
    local = Path(source).is_dir()
    if local and revision is not None:
        raise LofitError(f"model.revision: met {revision!r}; allowed: null, since {source} is a folder")
    try:
        config = AutoConfig.from_pretrained(source, revision=revision, trust_remote_code=False)
        revision = folder_hash(Path(source)) if local else config._commit_hash
        tokenizer = AutoTokenizer.from_pretrained(source, revision=None if local else revision, trust_remote_code=False)
        with torch.device("meta"):
            skeleton = AutoModelForCausalLM.from_config(config)
    except (OSError, ValueError, KeyError) as error:
        raise LofitError(f"model.name: {_reason(source, error)}") from None
    return BaseModel(name, source, revision, dtype, head_layout(skeleton), tokenizer_hash(tokenizer))


def _reason(source: str, error: Exception) -> str:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, GatedRepoError):
            return f"{source!r} is gated; accept its licence on the hub, then run `hf auth login`"
        if isinstance(cause, RevisionNotFoundError):
            return f"{source!r} has no such model.revision"
        if isinstance(cause, RepositoryNotFoundError | HFValidationError):
            return f"met {source!r}; allowed: demo, a folder with a model, or a model id on the Hugging Face hub"
        cause = cause.__cause__ or cause.__context__
    return f"cannot load {source!r}: {str(error).strip().splitlines()[0]}"


def load(base: BaseModel, *, device: torch.device | str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The frozen model in evaluation mode, and its tokenizer.

    Evaluation mode holds in training too: dropout would make a frozen model noisy and results depend on the device.

    Raises:
        LofitError: the weights cannot be read, some are missing or of another shape, or the checkpoint holds an
            attention output projection's bias that the architecture would drop in silence.
    """
    revision = None if Path(base.source).is_dir() else base.revision
    try:
        tokenizer = AutoTokenizer.from_pretrained(base.source, revision=revision, trust_remote_code=False)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            base.source,
            revision=revision,
            dtype=DTYPES[base.dtype],
            trust_remote_code=False,
            output_loading_info=True,
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise LofitError(f"model.name: {_reason(base.source, error)}") from None
    model, loading = loaded
    dropped = [key for key in loading["unexpected_keys"] if key.startswith(base.layout.projections)]
    for fault, keys in (
        ("lack", loading["missing_keys"]),
        ("have another shape for", loading["mismatched_keys"]),
        ("hold, where the architecture has no place for it,", dropped),
    ):
        if keys:
            raise LofitError(f"model.name: the weights of {base.source!r} {fault} {min(map(str, keys))}")
    model.requires_grad_(False)
    return model.to(device).eval(), tokenizer


def be_deterministic() -> None:
    """Have torch choose algorithms that give the same bytes for the same inputs, for the rest of this process."""
    # cuBLAS needs a fixed workspace for that, named before its first use.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)


def best_device() -> torch.device:
    """The first accelerator there is, or the CPU."""
    return torch.accelerator.current_accelerator() or torch.device("cpu")


def folder_hash(folder: Path) -> str:
    """SHA-256 over names and contents of the files of a folder."""
    digest = hashlib.sha256()
    for file in sorted(path for path in folder.iterdir() if path.is_file()):
        digest.update(file.name.encode() + b"\0")
        with file.open("rb") as opened:
            digest.update(hashlib.file_digest(opened, "sha256").digest())
    return digest.hexdigest()


def tokenizer_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256 of a fast tokenizer's whole definition."""
    definition = (
        tokenizer.backend_tokenizer.to_str() if tokenizer.is_fast else str(sorted(tokenizer.get_vocab().items()))
    )
    return hashlib.sha256(definition.encode()).hexdigest()
