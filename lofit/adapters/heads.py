"""HeadAdapter: the scales and offsets of some heads, and how they act on a model.

In the paper's letters the scales are A and the offsets v, which the paper also calls a bias.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
from huggingface_hub import ModelHubMixin
from torch import Tensor, nn

from lofit.adapters.attachment import Attachment, attach
from lofit.adapters.base import Adapter
from lofit.adapters.card import LIMITS, PAPER, head_table
from lofit.adapters.folder import read_adapter, write_adapter
from lofit.adapters.heads_shape import HeadShape, json_heads
from lofit.adapters.named import check_read, hold_vectors
from lofit.adapters.provenance import Provenance
from lofit.errors import LofitError
from lofit.models.layout import Head, HeadLayout, head_layout

VECTORS = ("scales", "offsets")

EXPORTS = """\
Folded into a plain checkpoint, which costs nothing to serve and needs no lofit:

```bash
lofit export THIS_FOLDER MERGED --to hf
```

As a stock PEFT adapter, which transformers loads by itself:

```bash
lofit export THIS_FOLDER PEFT --to peft
```
"""


class HeadAdapter(Adapter, ModelHubMixin):
    """Vectors for K heads: z becomes `(1 + scale) * z + offset` at every token position (LoFiT section 3).

    Args:
        heads: K pairs (layer, head), each at most once.
        offsets: K x head_dim, or None for no offsets (v in the paper).
        scales: K x head_dim, or None for no scales (A in the paper).
        provenance: where they come from; goes into the folder and its card.

    The vectors are float32 whatever the model's dtype. A tensor that already requires grad is used as it is, so that
    gradients reach whatever it was computed from; any other is copied into a trainable `nn.Parameter`.

    Raises:
        LofitError: a head comes twice or is negative, or a vector has the wrong shape or holds NaN or infinity.
    """

    kind = "heads"
    site = "head outputs"
    Shape = HeadShape

    scales: Tensor | None
    offsets: Tensor | None

    def __init__(
        self,
        heads: Sequence[Head],
        offsets: Tensor | None = None,
        scales: Tensor | None = None,
        *,
        provenance: Provenance | None = None,
    ) -> None:
        super().__init__()
        self.provenance = provenance or Provenance()
        self.heads: list[Head] = [(int(layer), int(head)) for layer, head in heads]
        if len(set(self.heads)) != len(self.heads):
            twice = next(head for head in self.heads if self.heads.count(head) > 1)
            raise LofitError(f"head {twice} is named twice; expected each head once")
        negative = [head for head in self.heads if min(head) < 0]
        if negative:
            raise LofitError(f"head {negative[0]} is negative; expected (layer, head) counted from 0")
        for name, value in (("scales", scales), ("offsets", offsets)):
            if value is None:
                self.register_parameter(name, None)
            else:
                hold_vectors(self, name, value, len(self.heads), each="head_dim")
        if scales is not None and offsets is not None and scales.shape != offsets.shape:
            raise LofitError(f"scales are {tuple(scales.shape)} and offsets {tuple(offsets.shape)}; expected one shape")

    @property
    def head_dim(self) -> int | None:
        """Size of each vector; None where the adapter holds no vector."""
        return next((int(v.shape[1]) for v in (self.scales, self.offsets) if v is not None), None)

    @property
    def lowest_layer(self) -> int | None:
        """The layer of the lowest edited head; None where nothing is edited."""
        return min((layer for layer, _ in self.heads), default=None) if self.vectors() else None

    def vectors(self) -> dict[str, Tensor]:
        """The vectors that there are, K x head_dim each: `scales`, `offsets`."""
        return {name: vector for name in VECTORS if (vector := getattr(self, name)) is not None}

    def __mul__(self, strength: float) -> "HeadAdapter":
        """This adapter at a strength: scales and offsets times a number. It stands by itself, trained no further."""
        if not isinstance(strength, int | float):
            return NotImplemented
        training = {"strength": strength, "of": self.provenance.training}
        provenance = self.provenance.model_copy(update={"training": training, "metrics": {}})
        vectors = {name: vector.detach() * strength for name, vector in self.vectors().items()}
        return HeadAdapter(self.heads, **vectors, provenance=provenance)

    __rmul__ = __mul__

    def __add__(self, other: "HeadAdapter") -> "HeadAdapter":
        """One adapter with the heads of both, vectors of shared heads added.

        Without scales, this does what both do when they are attached together. Attached together, scales multiply:
        z becomes (1 + A) (1 + B) z, here (1 + A + B) z, whatever the order.

        Raises:
            LofitError: they are not for the same model.
        """
        if not isinstance(other, HeadAdapter):
            return NotImplemented
        heads = sorted({*self.heads, *other.heads})
        sizes = sorted({adapter.head_dim for adapter in (self, other) if adapter.head_dim})
        if len(sizes) > 1:
            raise LofitError(f"got vectors of {sizes[0]} and of {sizes[1]} numbers; expected adapters for one model")
        sums: dict[str, Tensor] = {}
        for adapter in (self, other):
            rows = torch.tensor([heads.index(head) for head in adapter.heads], dtype=torch.long)
            for name, vector in adapter.vectors().items():
                total = sums.setdefault(name, torch.zeros(len(heads), sizes[0]))
                sums[name] = total.index_add(0, rows, vector.detach().cpu())
        return HeadAdapter(heads, **sums, provenance=self.provenance.joined(other.provenance))

    def extra_repr(self) -> str:
        vectors = " and ".join(self.vectors()) or "nothing"
        return f"{vectors} of {len(self.heads)} heads, {self.head_dim} numbers each: {self.heads}"

    def attach(self, model: nn.Module, layout: HeadLayout | None = None) -> Attachment:
        """Edit the heads of `model` until `detach()` or the end of the `with` block.

        **The model is changed in place** (forward pre-hooks on its attention output projections); its weights are
        not, and detaching leaves it as it was. Layers without an edited head get no hook.

        Raises:
            LofitError: a head or the head size does not fit the model; or, from the model's first pass, a projection
                was not called, so that an edit would have had no effect.
        """
        # torch.compile wraps a model, and the hooks are for what is inside.
        model = getattr(model, "_orig_mod", model)
        layout = layout or head_layout(model)
        self.check_fits(layout)
        return attach(self, model, layout)

    def check_fits(self, layout: HeadLayout) -> None:
        """A LofitError where a head or the head size does not fit the model."""
        for layer, head in self.heads:
            if layer >= layout.num_layers or head >= layout.num_heads:
                raise LofitError(
                    f"adapter head ({layer}, {head}) is not in the model; expected layers 0 to "
                    f"{layout.num_layers - 1}, heads 0 to {layout.num_heads - 1}"
                )
        if self.head_dim not in (None, layout.head_dim):
            raise LofitError(f"adapter vectors have {self.head_dim} numbers; expected the model's {layout.head_dim}")
        self.provenance.check_fits(layout)

    @property
    def served_as(self) -> str | None:
        """Scales go into the weight of the output projection, offsets into its bias."""
        return None if self.is_idle else "o_proj bias" if self.offsets is not None else "o_proj weight"

    def summary(self) -> str:
        vectors = self.vectors()
        numbers = sum(vector.numel() for vector in vectors.values())
        return (
            f"A [LoFiT]({PAPER}) adapter: {' and '.join(vectors) or 'no vectors'} of {len(self.heads)} attention "
            f"heads, {numbers:,} numbers in all. An edited head's output z becomes (1 + scale) z + offset."
        )

    def usage(self) -> str:
        return EXPORTS

    def limits(self) -> str:
        return LIMITS

    def details(self) -> str:
        tensors = self.tensors()
        return f"## Heads\n\n{head_table(sorted(self.heads), tensors)}" if self.heads else ""

    def facts(self) -> dict[str, Any]:
        return {"head_dim": self.head_dim, "vectors": list(self.vectors()), "heads": json_heads(self.heads)}

    def tensors(self) -> dict[str, Tensor]:
        return {name: in_order(self.heads, vector) for name, vector in self.vectors().items()}

    @classmethod
    def from_parts(cls, shape: HeadShape, tensors: dict[str, Tensor]) -> Self:
        heads = [(place.layer, place.head) for place in shape.heads]
        size = (len(heads), shape.head_dim)
        check_read(tensors, dict.fromkeys(shape.vectors, size), axes="heads x head_dim")
        return cls(heads, offsets=tensors.get("offsets"), scales=tensors.get("scales"))

    def save_pretrained(  # type: ignore[override]
        self,
        save_directory: str | Path,
        *,
        push_to_hub: bool = False,
        card: bool = True,
        config: Any = None,
        model_card_kwargs: Any = None,
        **options: Any,
    ) -> str | None:
        """Write `config.json`, `model.safetensors` and, with `card`, a model card; with `push_to_hub`, upload them too.

        Each file is written whole or not at all. Saving, loading and saving again gives the same bytes. `options` are
        those of `push_to_hub`, whose `repo_id` is the folder's name by default. (`config` and `model_card_kwargs` are
        what huggingface_hub's mixin passes; both come from the adapter.)

        Raises:
            TypeError: an option is unknown.
            LofitError: the provenance holds what JSON cannot.
        """
        if options and not push_to_hub:
            raise TypeError(f"save_pretrained: got {min(options)}; expected the folder alone without push_to_hub")
        folder = Path(save_directory)
        write_adapter(folder, self, card=card)
        return self.push_to_hub(**{"repo_id": folder.name, **options}) if push_to_hub else None

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **download_options: Any) -> Self:
        """Read an adapter of heads from a folder, or by its id from the Hugging Face hub where there is no such folder.

        `download_options` are the hub's: revision, token, cache_dir, force_download, local_files_only.

        Raises:
            LofitError: a file is missing, cut short, foreign, of a newer format, or does not fit the other.
        """
        # The mixin's own would look for its own files.
        return read_adapter(cls, pretrained_model_name_or_path, **download_options)


def in_order(heads: Sequence[Head], vectors: Tensor) -> Tensor:
    """K x head_dim on the CPU, without gradient, as the heads come by layer and head."""
    return vectors.detach().cpu()[sorted(range(len(heads)), key=heads.__getitem__)]


ADAPTER = HeadAdapter
