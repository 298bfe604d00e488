"""The folder of an adapter: config.json, model.safetensors and README.md; written, and read with suspicion."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import save

from lofit.adapters.card import adapter_card
from lofit.adapters.provenance import Provenance
from lofit.errors import LofitError
from lofit.models.layout import Head
from lofit.settings import Settings, faults_in
from lofit.storage.files import json_text, read_json, write_whole

if TYPE_CHECKING:
    # An adapter without vectors is written by a stage that should not wait for torch to load.
    from torch import Tensor

FORMAT_VERSION = 2
CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
CARD_FILE = "README.md"
VECTORS = ("scales", "offsets")

Index = Annotated[int, Field(ge=0)]


class HeadPlace(Settings):
    """One entry of the list of heads."""

    layer: Index
    head: Index


class AdapterConfig(Provenance):
    """The content of config.json."""

    format_version: int
    head_dim: Annotated[int, Field(ge=1)] | None
    vectors: list[Literal["scales", "offsets"]]
    heads: list[HeadPlace]

    def provenance(self) -> Provenance:
        return Provenance(**{name: getattr(self, name) for name in Provenance.model_fields})


def write_adapter(
    folder: Path, heads: list[Head], vectors: "dict[str, Tensor]", provenance: Provenance, *, card: bool = True
) -> None:
    """Write config and vectors, and the model card where it is wanted; the same adapter always gives the same bytes.

    Heads are in (layer, head) order.

    Args:
        vectors: K x head_dim each, float32, in the order of `heads`.

    Raises:
        LofitError: the provenance holds what JSON cannot.
    """
    order = sorted(range(len(heads)), key=heads.__getitem__)
    heads = [heads[row] for row in order]
    vectors = {name: vector.detach().cpu()[order].contiguous() for name, vector in vectors.items()}
    head_dim = next((vector.shape[1] for vector in vectors.values()), None)
    config = {
        "format_version": FORMAT_VERSION,
        **provenance.model_dump(),
        "head_dim": head_dim,
        "vectors": list(vectors),
        "heads": [{"layer": layer, "head": head} for layer, head in heads],
    }
    text = json_text(config)
    # Delete the config first and write it last, so that a half-written folder cannot be loaded.
    (folder / CONFIG_FILE).unlink(missing_ok=True)
    write_whole(folder / WEIGHTS_FILE, save({name: vector.numpy() for name, vector in vectors.items()}))
    if card:
        write_whole(folder / CARD_FILE, adapter_card(heads, vectors, provenance))
    write_whole(folder / CONFIG_FILE, text)


def read_adapter(folder: Path) -> "tuple[list[Head], dict[str, Tensor], Provenance]":
    """What `write_adapter` wrote, this version of it or an older one.

    Raises:
        LofitError: a file is missing, cut short, foreign, of a newer format, or does not fit the other.
    """
    import torch
    from safetensors.torch import load_file

    config = read_config(folder / CONFIG_FILE)
    heads = [(place.layer, place.head) for place in config.heads]
    file = folder / WEIGHTS_FILE
    try:
        vectors = load_file(file)
    except FileNotFoundError:
        raise LofitError(f"{file}: no such file; expected a folder written by save_pretrained") from None
    except SafetensorError as error:
        raise LofitError(f"{file}: not a whole safetensors file ({error})") from None
    if sorted(vectors) != sorted(config.vectors):
        raise LofitError(f"{file}: got tensors {sorted(vectors)}; expected the config's {sorted(config.vectors)}")
    for name, vector in vectors.items():
        if vector.shape != (len(heads), config.head_dim) or vector.dtype != torch.float32:
            raise LofitError(
                f"{file}: {name}: got shape {tuple(vector.shape)} of {vector.dtype}; expected "
                f"{(len(heads), config.head_dim)}, heads x head_dim of the config, of {torch.float32}"
            )
    return heads, vectors, config.provenance()


def read_config(file: Path) -> AdapterConfig:
    """config.json, validated; a LofitError where it is faulty, with one line per fault."""
    try:
        config = read_json(file)
    except FileNotFoundError:
        is_peft = (file.parent / "adapter_config.json").exists()
        met = "a PEFT adapter, which AutoModelForCausalLM.from_pretrained reads" if is_peft else "no such file"
        raise LofitError(f"{file}: {met}; expected a folder written by save_pretrained") from None
    except ValueError as error:
        raise LofitError(f"{file}: not valid JSON ({error})") from None
    version = config.get("format_version") if isinstance(config, dict) else None
    if type(version) is not int or version < 1:
        raise LofitError(
            f"{file}: not a head adapter (no format_version); expected a folder written by save_pretrained"
        )
    if version > FORMAT_VERSION:
        raise LofitError(f"{file}: format_version is {version}; expected up to {FORMAT_VERSION}, or a newer lofit")
    try:
        read = AdapterConfig.model_validate(config if version == FORMAT_VERSION else from_version_1(config))
    except ValidationError as error:
        raise LofitError("\n".join(f"{file}: {fault}" for fault in faults_in(error, AdapterConfig))) from None
    for place in read.heads:
        for part, index, size in (("layer", place.layer, read.num_layers), ("head", place.head, read.num_heads)):
            if size is not None and index >= size:
                raise LofitError(f"{file}: heads: got {part} {index}; expected 0 to {size - 1}, as num_{part}s says")
    return read


def from_version_1(config: dict) -> dict[str, Any]:
    """Version 1 listed heads as pairs, and what it knew of the training as keys of its own."""
    pairs = config.get("heads")
    if isinstance(pairs, list):
        pairs = [
            {"layer": pair[0], "head": pair[1]} if isinstance(pair, list) and len(pair) == 2 else pair for pair in pairs
        ]
    known = {name: config[name] for name in ("base_model", "base_revision", "head_dim", "vectors") if name in config}
    training = {key: value for key, value in config.items() if key not in {*known, "format_version", "heads"}}
    return {"format_version": 1, "head_dim": None, "vectors": None, **known, "heads": pairs, "training": training}
