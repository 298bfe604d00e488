"""Base models: resolved once to something exact, then loaded from that."""

import logging
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils.logging import disable_progress_bar

from lofit.errors import LofitError
from lofit.models.conversion import Conversion
from lofit.models.identity import folder_hash, tokenizer_hash
from lofit.models.layout import HeadLayout, head_layout
from lofit.models.places import not_found, refuse_non_model
from lofit.models.quantisation import DTYPES, keep_differentiable, quantization_config
from lofit.models.runtime import pick_device
from lofit.models.vocabulary import Vocabulary, vocabulary_of

# Hub clients announce every retry, bitsandbytes every cast of an input; the lines that count are ours.
for library in ("huggingface_hub", "bitsandbytes"):
    logging.getLogger(library).setLevel(logging.ERROR)
disable_progress_bar()

BAKED = "; expected none, or an adapter of such biases, which `lofit import SOURCE OUT --base UNEDITED` makes"


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

    vocabulary: Vocabulary

    quantization: str | None = None

    parameters: int = 0
    """Numbers in its weights, tied ones counted once; 0 where nobody has counted."""

    conversion: Conversion | None = None
    """Which GGUF file its folder was converted from."""

    @property
    def commit(self) -> str | None:
        """The revision to ask the hub for; None where the source is a folder."""
        return None if Path(self.source).is_dir() else self.revision

    def to_json(self) -> dict:
        return asdict(self)

    @classmethod
    def from_json(cls, row: dict) -> Self:
        layout, vocabulary = HeadLayout.from_json(row["layout"]), Vocabulary.from_json(row["vocabulary"])
        conversion = Conversion(**row["conversion"]) if row.get("conversion") else None
        return cls(**{**row, "layout": layout, "vocabulary": vocabulary, "conversion": conversion})


def resolve(
    name: str,
    *,
    source: str | None = None,
    revision: str | None = None,
    projection: str | None = None,
    **loading: Any,
) -> BaseModel:
    """Resolve a hub id or a folder to an exact revision, without loading its weights.

    Args:
        name: what to call the model; the hub id or the folder, unless `source` says otherwise.
        revision: branch, tag or commit on the hub.
        projection: the attention output projection's name, where `head_layout` does not find it by itself.
        loading: how to load it, kept as it is: dtype, quantization and conversion (see `BaseModel`).

    Raises:
        LofitError: the model cannot be found or is gated, or its heads cannot be found.
    """
    source = source or name
    refuse_non_model(source)
    local = Path(source).is_dir()
    exact = folder_hash(Path(source)) if local else commit(source, revision)
    model = skeleton(source, revision=revision if local else exact)
    tokenizer = load_tokenizer(source, revision=None if local else exact)
    layout = head_layout(model, projection=projection)
    return BaseModel(
        name,
        source,
        exact,
        layout=layout,
        tokenizer_sha256=tokenizer_hash(tokenizer),
        vocabulary=vocabulary_of(model, tokenizer),
        parameters=sum(weight.numel() for weight in model.parameters()),
        **loading,
    )


def load_tokenizer(source: str, *, revision: str | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer of a model.

    Raises:
        LofitError: there is none, or it cannot be read.
    """
    try:
        return AutoTokenizer.from_pretrained(source, revision=revision, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise LofitError(f"model {_reason(source, error)}") from None


def commit(source: str, revision: str | None) -> str:
    """The commit of a hub repository that a branch or a tag stands for; None stands for its main branch.

    Raises:
        LofitError: it cannot be had, neither from the hub nor from its cache.
    """
    try:
        # The cache keeps each commit in a folder of that name.
        return Path(hf_hub_download(source, "config.json", revision=revision)).parent.name
    except (OSError, ValueError) as error:
        raise LofitError(f"model {_reason(source, error)}") from None


def skeleton(source: str, *, revision: str | None = None) -> PreTrainedModel:
    """The modules of a model on the meta device, made from its config alone.

    Raises:
        LofitError: there is no such model, it is gated, or it is no decoder.
    """
    if revision is not None and Path(source).is_dir():
        raise LofitError(f"revision: got {revision!r}; expected none, since {source} is a folder")
    refuse_non_model(source)
    try:
        config = AutoConfig.from_pretrained(source, revision=revision, trust_remote_code=False)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
    except (OSError, ValueError, KeyError) as error:
        raise LofitError(f"model {_reason(source, error)}") from None
    # Most checkpoints have no such file; then the config alone has said what there is to say.
    with suppress(OSError, ValueError):
        model.generation_config = GenerationConfig.from_pretrained(source, revision=revision or "main")
    return model


def _reason(source: str, error: Exception) -> str:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, GatedRepoError):
            return f"{source!r}: gated; accept its licence on the hub, then run `hf auth login`"
        if isinstance(cause, RevisionNotFoundError):
            return f"{source!r}: no such revision"
        if isinstance(cause, RepositoryNotFoundError) or (
            isinstance(cause, LocalEntryNotFoundError) and "/" not in source
        ):
            return not_found(source)
        cause = cause.__cause__ or cause.__context__
    return f"{source!r}: cannot be loaded: {str(error).strip().splitlines()[0]}"


def load(
    base: BaseModel, *, device: torch.device | str = "auto", device_map: str | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The frozen model in evaluation mode, and its tokenizer.

    Evaluation mode holds in training too: dropout would make a frozen model noisy and results depend on the device.

    Args:
        device: where to put it; `auto` is the first accelerator there is, or the CPU.
        device_map: `auto` spreads its layers over all accelerators and the CPU instead.

    Raises:
        LofitError: the weights cannot be read, some are missing, of another shape or too large for float16, or the
            checkpoint holds an attention output projection's bias that the architecture would drop in silence; its
            special tokens have changed; or a library that the quantisation needs is not installed.
    """
    try:
        quantised = quantization_config(base.quantization, base.dtype)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            base.source,
            revision=base.commit,
            dtype=DTYPES[base.dtype],
            device_map=device_map or {"": pick_device(device) if isinstance(device, str) else device},
            trust_remote_code=False,
            output_loading_info=True,
            # A None would take the place of what a checkpoint that is quantised says of itself.
            **({"quantization_config": quantised} if quantised else {}),
        )
    except ImportError as error:
        raise LofitError(
            f"quantization: got {base.quantization!r}, which needs a library that is not installed "
            f"({str(error).strip().splitlines()[0]}); expected after `pip install bitsandbytes torchao`, or null"
        ) from None
    except (OSError, ValueError, SafetensorError) as error:
        raise LofitError(f"model {_reason(base.source, error)}") from None
    model, loading = loaded
    dropped = [key for key in loading["unexpected_keys"] if key.startswith(base.layout.projections)]
    for fault, keys, cure in (
        ("lack", loading["missing_keys"], ""),
        ("have another shape for", loading["mismatched_keys"], ""),
        ("hold, where the architecture has no place for it,", dropped, BAKED),
    ):
        if keys:
            raise LofitError(f"model {base.source!r}: the weights {fault} {min(map(str, keys))}{cure}")
    if base.dtype == "float16":
        refuse_overflow(model, base)
    tokenizer = load_tokenizer(base.source, revision=base.commit)
    if (found := vocabulary_of(model, tokenizer)) != base.vocabulary:
        raise LofitError(
            f"model {base.source!r}: got {found}; expected {base.vocabulary}, as it was when it was resolved"
        )
    model.requires_grad_(False).eval()
    if base.quantization == "bitsandbytes_4bit":
        keep_differentiable(model)
    return model, tokenizer


def refuse_overflow(model: PreTrainedModel, base: BaseModel) -> None:
    """A LofitError where a weight that was made for a wider range has become infinite."""
    for name, weight in model.named_parameters():
        if not weight.is_meta and not torch.isfinite(weight).all():
            raise LofitError(f"model {base.source!r}: {name} is too large for float16; expected dtype bfloat16")
