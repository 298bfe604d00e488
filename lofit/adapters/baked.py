"""Checkpoints with offsets baked in, read as adapters.

Honest LLaMA (github.com/likenneth/honest_llama, arXiv 2306.03341) and others keep the offsets v of a layer's heads as
one bias b = W v of its attention output projection, whose weight is W. Many configs have no place for such a bias, so
that it is dropped when the checkpoint is loaded. Here v is found again: the fewest heads whose columns of W give b as
exactly as b was rounded when it was stored.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lofit.adapters.heads import HeadAdapter
from lofit.adapters.provenance import Provenance
from lofit.errors import LofitError
from lofit.models.base import BaseModel, skeleton
from lofit.models.layout import Head
from lofit.models.linear import as_matrix
from lofit.storage.weights import Weights

COARSE = (torch.bfloat16, torch.float16)
PLAIN = (*COARSE, torch.float32, torch.float64)


def import_baked(source: str | Path, base: BaseModel) -> HeadAdapter:
    """The adapter of offsets that does to `base` what the biases in a checkpoint do.

    Of the weights, only those of the attention output projections are read. They are to be those of `base`. Where they
    were rounded, the checkpoint's are used: its biases were made from them. Where a projection of `base` has a bias of
    its own, the offsets are what the checkpoint has beyond it.

    Where heads are wider together than the residual stream, several sets of offsets give the same bias; this is one of
    few heads.

    Args:
        source: a folder with safetensors weights, whole or in shards; one such file; or an id on the Hugging Face hub.
        base: the unedited model.

    Raises:
        LofitError: there is no such checkpoint, it is pickled or cut short; it was made from another model; it holds no
            such bias, or only those of `base`; it holds other biases that `base` lacks; or no offsets give its biases.
    """
    empty = skeleton(base.source, revision=base.commit)
    prefix = f"{empty.base_model_prefix}."
    baked = Named(Weights.of(source), prefix)
    unedited = Named(Weights.of(base.source, revision=base.commit), prefix)
    layout = base.layout
    edited = {layer: path for layer, path in enumerate(layout.projections) if f"{path}.bias" in baked}
    if not edited:
        raise LofitError(
            f"{baked.weights.place}: no {layout.projections[0]}.bias among its weights; expected a checkpoint whose "
            "offsets are baked into such biases"
        )
    refuse_other_biases(baked, unedited, {f"{path}.bias" for path in edited.values()})
    found: dict[Head, Tensor] = {}
    for layer, path in edited.items():
        weight = shared_weight(baked, unedited, f"{path}.weight", base.name)
        matrix = as_matrix(empty.get_submodule(path), weight).double()
        vectors = offsets(matrix, Bias.of(baked, unedited, f"{path}.bias", len(matrix)), layout.head_dim)
        if vectors is None:
            raise LofitError(
                f"{baked.weights.place}: {path}.bias: no offsets of heads give it; expected the weight of {path} "
                "times such offsets"
            )
        found |= {(layer, head): vector for head, vector in vectors.items()}
    if not found:
        raise LofitError(
            f"{baked.weights.place}: its biases are those of {base.name}; expected a model that was edited"
        )
    provenance = Provenance.made_now(base.name, base.revision, layout, training={"imported_from": str(source)})
    return HeadAdapter(sorted(found), torch.stack([found[head] for head in sorted(found)]), provenance=provenance)


class Named:
    """Weights by the paths of their modules; files may leave out the first part of a path, as GPT-2's do."""

    def __init__(self, weights: Weights, prefix: str) -> None:
        self.weights, self._prefix = weights, prefix
        self.names = {name.removeprefix(prefix): name for name in weights.files}

    def __contains__(self, path: str) -> bool:
        return path.removeprefix(self._prefix) in self.names

    def read(self, path: str) -> Tensor:
        """One tensor; a LofitError where it is not there, quantised, or not finite."""
        if path not in self:
            raise LofitError(f"{self.weights.place}: no {path} among its weights; expected that of a whole model")
        name = self.names[path.removeprefix(self._prefix)]
        tensor, where = self.weights.read([name])[name], f"{self.weights.place}: {name}"
        if tensor.dtype not in PLAIN:
            raise LofitError(f"{where}: got {tensor.dtype}; expected weights that are not quantised")
        if not torch.isfinite(tensor).all():
            raise LofitError(f"{where}: got NaN or infinity; expected finite numbers")
        return tensor


@dataclass(frozen=True)
class Bias:
    """What a checkpoint has beyond its base, and how far rounding may have moved it; float64, as wide as the output."""

    added: Tensor
    rounding: Tensor

    @classmethod
    def of(cls, baked: Named, unedited: Named, path: str, width: int) -> "Bias":
        bias = baked.read(path)
        own = unedited.read(path) if path in unedited else torch.zeros_like(bias)
        if bias.shape != (width,) or own.shape != (width,):
            raise LofitError(f"{baked.weights.place}: {path}: got shape {tuple(bias.shape)}; expected ({width},)")
        steps = precision(bias)
        size = bias.double().abs() + own.double().abs()
        return cls(bias.double() - own.double(), steps.eps / 2 * (size + steps.smallest_normal))


def precision(tensor: Tensor) -> Any:
    """The coarsest floating point numbers that hold `tensor` exactly: what it was rounded to, whatever keeps it now."""
    exact = (dtype for dtype in COARSE if torch.equal(tensor.to(dtype).to(tensor.dtype), tensor))
    return torch.finfo(next(exact, torch.float32))


def shared_weight(baked: Named, unedited: Named, path: str, base: str) -> Tensor:
    """A weight of the base, as the checkpoint has it where it does; a LofitError where it is another one there."""
    weight = unedited.read(path)
    if path not in baked:
        return weight
    copy = baked.read(path)
    known = [precision(weight), precision(copy)]
    eps, least = (max(getattr(steps, name) for steps in known) for name in ("eps", "smallest_normal"))
    if copy.shape != weight.shape or not torch.allclose(copy.double(), weight.double(), rtol=eps, atol=eps * least):
        raise LofitError(
            f"{baked.weights.place}: {path}: got other numbers than those of {base}; expected --base with the model "
            "that it was made from"
        )
    return copy


def refuse_other_biases(baked: Named, unedited: Named, ours: set[str]) -> None:
    """A LofitError where other modules have a bias that the base lacks, and it does something."""
    for path in baked.names:
        mine = any(path == bias.removeprefix(baked._prefix) for bias in ours)
        if path.endswith(".bias") and not mine and path not in unedited.names and baked.read(path).any():
            raise LofitError(
                f"{baked.weights.place}: {path}: got a bias that the base lacks; expected none but those of attention "
                "output projections"
            )


@dataclass(frozen=True)
class Fit:
    """Offsets of some heads, heads x head_dim in float32, and what they leave of the bias."""

    heads: list[int]
    vectors: Tensor
    residual: Tensor
    within: bool
    """Whether the residual is no more than rounding."""


def offsets(matrix: Tensor, bias: Bias, head_dim: int) -> dict[int, Tensor] | None:
    """The offsets of few heads that give a bias to its rounding; None where those of all heads do not.

    Heads that explain most of what is left are added, as many as there are already, until the bias is explained; then
    those that matter least are taken away again, until it no longer is.

    Args:
        matrix: weight of the projection, hidden x (heads * head_dim), float64.
    """
    blocks = matrix.unflatten(1, (-1, head_dim)).movedim(1, 0)  # heads x hidden x head_dim
    best = fit(blocks, bias, [])
    if best.within:
        return {}
    # Of a head whose columns are not independent it spans too much, which only puts it too early in the order.
    spans = torch.linalg.qr(blocks).Q
    while not best.within:
        if len(best.heads) == len(blocks):
            return None
        order = (best.residual @ spans).norm(dim=1).argsort(descending=True).tolist()
        others = [head for head in order if head not in best.heads]
        best = fit(blocks, bias, best.heads + others[: max(1, len(best.heads))])
    shares = (blocks[best.heads] @ best.vectors.double()[:, :, None]).norm(dim=(1, 2))
    for head in [best.heads[row] for row in shares.argsort().tolist()]:
        fewer = fit(blocks, bias, [other for other in best.heads if other != head])
        if not fewer.within:
            break
        best = fewer
    return dict(zip(best.heads, best.vectors, strict=True))


def fit(blocks: Tensor, bias: Bias, heads: list[int]) -> Fit:
    """The least squares offsets of these heads, by `blocks`, all heads' columns: heads x hidden x head_dim."""
    head_dim = blocks.shape[-1]
    columns = blocks[heads].movedim(0, 1).flatten(1)  # hidden x (chosen heads * head_dim)
    solution = torch.linalg.lstsq(columns, bias.added[:, None]).solution[:, 0] if heads else columns.new_zeros(0)
    vectors = solution.float()
    residual = bias.added - columns @ vectors.double()
    # Sums in float32, of whoever made the bias and of whoever adds these vectors, lose some of it, too. The share is
    # that of n terms that do not cancel: where weights are so near to singular that they do, it is no fit.
    summing = blocks.shape[0] * head_dim * torch.finfo(torch.float32).eps / 2 * bias.added.norm()
    within = bool(residual.norm() <= bias.rounding.norm() + summing)
    return Fit(heads, vectors.view(len(heads), head_dim), residual, within)
