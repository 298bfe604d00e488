"""Checkpoints of the published implementation, read as adapters.

That implementation (github.com/fc2869/lo-fit, `models/modeling_llama.py` and `modeling_gemma.py`) keeps two vectors per
head among the weights of the model: `attn_A`, the scales, and `attn_v`, the offsets. Every head has both. They start as
zeros and only the tuned ones are ever trained or given noise, so a vector of nothing but zeros is one that was left
alone. The other weights are those of the frozen base model.
"""

import re
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lofit.adapters.heads import HeadAdapter
from lofit.adapters.provenance import Provenance
from lofit.errors import LofitError
from lofit.models.layout import Head
from lofit.storage.files import read_json
from lofit.storage.hub import fetch

PARAMETER = re.compile(r"model\.layers\.(\d+)\.self_attn\.attn_([Av])\.(\d+)")
EXPECTED = "model.layers.LAYER.self_attn.attn_A.HEAD and attn_v.HEAD, as github.com/fc2869/lo-fit writes them"
CONFIG_FILE = "config.json"
HUB_FILES = ("*.safetensors", "*.index.json", CONFIG_FILE)


def import_checkpoint(source: str | Path) -> HeadAdapter:
    """The adapter in a checkpoint of the published code, with what is known of where it comes from.

    Heads whose vectors are all zero are left out; the adapter has scales or offsets only if any of them is not zero.
    Of the weights, only the vectors are read; they become float32.

    Args:
        source: a folder with safetensors weights, whole or in shards; one such file; or an id on the Hugging Face hub.

    Its provenance names what the checkpoint's config calls the model that it was made from, and the id on the hub.

    Raises:
        LofitError: there is no such checkpoint, it is pickled, a file of it is missing or cut short, or it holds no
            trained vector, vectors of different sizes, or NaN.
    """
    place, training = Path(source), {}
    if not place.exists():
        place, training = fetch(str(source), what="checkpoint", files=HUB_FILES), {"imported_from": str(source)}
    vectors: dict[str, dict[Head, Tensor]] = {"A": {}, "v": {}}
    for name, vector in _read_vectors(place).items():
        layer, kind, head = PARAMETER.fullmatch(name).groups()  # type: ignore[union-attr]
        vectors[kind][int(layer), int(head)] = vector
    heads = sorted({head for kind in vectors.values() for head, vector in kind.items() if vector.any()})
    if not heads:
        raise LofitError(f"{place}: attn_A and attn_v are all zero; expected a checkpoint of a model that was tuned")

    def stacked(kind: dict[Head, Tensor]) -> Tensor | None:
        """K x head_dim, or None where no head has such a vector."""
        untrained = torch.zeros(head_dim)
        return (
            torch.stack([kind.get(head, untrained) for head in heads]) if any(map(torch.any, kind.values())) else None
        )

    head_dim = next(len(vector) for kind in vectors.values() for vector in kind.values())
    config = place / CONFIG_FILE if place.is_dir() else place.with_name(CONFIG_FILE)
    base_model = _read(config).get("_name_or_path") if config.is_file() else None
    provenance = Provenance(base_model=base_model or None, training=training)
    return HeadAdapter(heads, offsets=stacked(vectors["v"]), scales=stacked(vectors["A"]), provenance=provenance)


def _read_vectors(place: Path) -> dict[str, Tensor]:
    """The vectors among the weights, by the names of their parameters."""
    vectors: dict[str, Tensor] = {}
    files, listed = _weight_files(place)
    for file in files:
        try:
            with safe_open(file, framework="pt") as opened:
                for name in filter(PARAMETER.fullmatch, opened.keys()):
                    vectors[name] = opened.get_tensor(name)
        except SafetensorError as error:
            raise LofitError(f"{file}: not a whole safetensors file ({error})") from None
    if lost := sorted(listed - vectors.keys()):
        raise LofitError(f"{place}: {lost[0]} is not in the shard that the index names; expected a whole checkpoint")
    if not vectors:
        raise LofitError(f"{place}: no vectors of heads among its weights; expected parameters {EXPECTED}")
    shape = next(iter(vectors.values())).shape
    for name, vector in vectors.items():
        if vector.ndim != 1 or vector.shape != shape:
            raise LofitError(f"{place}: {name}: got shape {tuple(vector.shape)}; expected one head_dim for all heads")
        if not torch.isfinite(vector).all():
            raise LofitError(f"{place}: {name}: got NaN or infinity; expected finite numbers")
    return vectors


def _weight_files(place: Path) -> tuple[list[Path], set[str]]:
    """The safetensors files to look into, and the vectors that an index promises to be there, where there is one."""
    if place.is_file() and place.suffix == ".safetensors":
        return [place], set()
    index = next(iter(sorted(place.glob("*.safetensors.index.json"))), None)
    if index is not None:
        shards = _read(index).get("weight_map")
        if not isinstance(shards, dict):
            raise LofitError(f"{index}: got no weight_map; expected the index of a checkpoint in shards")
        listed = {name for name in shards if PARAMETER.fullmatch(name)}
        files = [place / shard for shard in sorted({shards[name] for name in listed})]
        if missing := [file for file in files if not file.is_file()]:
            raise LofitError(
                f"{index}: names {missing[0].name}, which is missing; expected a checkpoint with all shards"
            )
        return files, listed
    if files := sorted(place.glob("*.safetensors")):
        return files, set()
    raise LofitError(
        f"{place}: no safetensors weights; expected a folder that holds some, or such a file. Pickled weights (.bin, "
        ".pt) can run code, so they are never read: where they were made, save them again by "
        "save_pretrained(FOLDER, safe_serialization=True)"
    )


def _read(file: Path) -> dict:
    try:
        content = read_json(file)
    except ValueError as error:
        raise LofitError(f"{file}: not valid JSON ({error})") from None
    return content if isinstance(content, dict) else {}
