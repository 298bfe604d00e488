"""Checkpoints of the published implementation, read as adapters.

That implementation (github.com/fc2869/lo-fit, `models/modeling_llama.py` and `modeling_gemma.py`) keeps two vectors per
head among the weights of the model: `attn_A`, the scales, and `attn_v`, the offsets. Every head has both. They start as
zeros and only the tuned ones are ever trained or given noise, so a vector of nothing but zeros is one that was left
alone. The other weights are those of the frozen base model.
"""

import re
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from lofit.adapters.heads import HeadAdapter
from lofit.adapters.provenance import Provenance
from lofit.errors import LofitError
from lofit.models.layout import INPUT_NAMES, OUTPUT_NAMES, Head
from lofit.storage.weights import Weights

PARAMETER = re.compile(r"model\.layers\.(\d+)\.self_attn\.attn_([Av])\.(\d+)")
EXPECTED = "model.layers.LAYER.self_attn.attn_A.HEAD and attn_v.HEAD, as github.com/fc2869/lo-fit writes them"
BIAS = re.compile(rf"(.*(?:attn|attention)\.)(?:{'|'.join(OUTPUT_NAMES)})\.bias")


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
    weights, place = Weights.of(source), Path(source)
    training = {} if place.exists() else {"imported_from": str(source)}
    vectors: dict[str, dict[Head, Tensor]] = {"A": {}, "v": {}}
    for name, vector in _read_vectors(weights).items():
        layer, kind, head = PARAMETER.fullmatch(name).groups()  # type: ignore[union-attr]
        vectors[kind][int(layer), int(head)] = vector
    heads = sorted({head for kind in vectors.values() for head, vector in kind.items() if vector.any()})
    if not heads:
        raise LofitError(
            f"{weights.place}: attn_A and attn_v are all zero; expected a checkpoint of a model that was tuned"
        )

    def stacked(kind: dict[Head, Tensor]) -> Tensor | None:
        """K x head_dim, or None where no head has such a vector."""
        untrained = torch.zeros(head_dim)
        return (
            torch.stack([kind.get(head, untrained) for head in heads]) if any(map(torch.any, kind.values())) else None
        )

    head_dim = next(len(vector) for kind in vectors.values() for vector in kind.values())
    provenance = Provenance(base_model=weights.config().get("_name_or_path") or None, training=training)
    return HeadAdapter(heads, offsets=stacked(vectors["v"]), scales=stacked(vectors["A"]), provenance=provenance)


def _read_vectors(weights: Weights) -> dict[str, Tensor]:
    """The vectors among the weights, by the names of their parameters."""
    place, vectors = weights.place, weights.read(filter(PARAMETER.fullmatch, weights.files))
    if not vectors:
        if lone := lone_bias(weights.files):
            raise LofitError(
                f"{place}: got no vectors of heads, but {lone}, as where offsets are baked in; expected --base with "
                "the unedited model"
            )
        raise LofitError(f"{place}: no vectors of heads among its weights; expected parameters {EXPECTED}")
    shape = next(iter(vectors.values())).shape
    for name, vector in vectors.items():
        if vector.ndim != 1 or vector.shape != shape:
            raise LofitError(f"{place}: {name}: got shape {tuple(vector.shape)}; expected one head_dim for all heads")
        if not torch.isfinite(vector).all():
            raise LofitError(f"{place}: {name}: got NaN or infinity; expected finite numbers")
    return vectors


def lone_bias(names: Iterable[str]) -> str | None:
    """The first bias of an attention output projection whose input projections have none, as in few architectures."""
    known = set(names)
    return next(
        (
            name
            for name in sorted(known)
            if (found := BIAS.fullmatch(name)) and not known & {f"{found[1]}{child}.bias" for child in INPUT_NAMES}
        ),
        None,
    )
