"""Where a decoder's attention heads are.

A head is addressed by (layer, head), where layers without attention do not count. Its output z, before the attention
output projection, is one slice of that projection's input: the input is the concatenation of all heads (LoFiT
section 2), whatever the number of key/value heads, the attention kernel or the width of the residual stream.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from lofit.errors import LofitError

if TYPE_CHECKING:
    # A layout alone, read from a file, needs no torch.
    from torch import nn

Head = tuple[int, int]

OUTPUT_NAMES = ("o_proj", "out_proj", "c_proj", "dense", "wo", "Wo")
INPUT_NAMES = (
    *("q_proj", "qkv_proj", "query_key_value", "c_attn", "Wqkv", "Wq", "qkv", "wq", "query"),
    # Multi-head latent attention makes its queries in two steps.
    *("q_a_proj", "q_b_proj"),
)
CROSS_ATTENTION = {"encoder_attn", "crossattention", "cross_attn", "cross_attn_layers"}
HEAD_COUNTS = ("num_heads", "num_attention_heads", "n_heads", "n_head")
HEAD_SIZES = ("v_head_dim", "head_dim", "head_size")
"""What an attention module may call the size of its heads' outputs; `head_dim` may be that of queries alone."""


@dataclass(frozen=True)
class HeadLayout:
    """The grid of heads that can be edited.

    `projections` holds the module names of the attention output projections, first layer first; each takes an input
    of `num_heads * head_dim` numbers per token, head after head.
    """

    num_layers: int
    num_heads: int
    head_dim: int
    projections: tuple[str, ...]

    @classmethod
    def from_json(cls, row: dict) -> Self:
        return cls(**{**row, "projections": tuple(row["projections"])})

    @property
    def size(self) -> int:
        """Number of heads in the model."""
        return self.num_layers * self.num_heads

    @property
    def grid(self) -> tuple[int, int]:
        """Layers, and heads in each of them."""
        return self.num_layers, self.num_heads

    @property
    def blocks(self) -> tuple[str, ...]:
        """The module names of the layers that hold the projections, first layer first: `model.layers.0`.

        Raises:
            LofitError: the layers are in no list, so that their names cannot be told from those of other modules.
        """
        parts = [path.split(".") for path in self.projections]
        ends = [next((at for at, part in enumerate(path) if part.isdecimal()), None) for path in parts]
        if None in ends:
            raise LofitError(f"{self.projections[ends.index(None)]}: in no list of layers; expected layers in a list")
        return tuple(".".join(path[: end + 1]) for path, end in zip(parts, ends, strict=True) if end is not None)

    def all_heads(self) -> list[Head]:
        """All heads, by layer and then by head."""
        return [(layer, head) for layer in range(self.num_layers) for head in range(self.num_heads)]


def input_width(projection: nn.Module) -> int | None:
    """Number of input features of a linear module, quantised or not, transposed (GPT-2's Conv1D) or not."""
    # The shape of a quantised weight says nothing: 4-bit weights are packed into one column.
    return _whole_number(projection, "in_features", "nx")


def hidden_size(model: nn.Module) -> int:
    """Width of the residual stream between the layers of a model.

    Raises:
        LofitError: the model's config does not say it.
    """
    config: Any = getattr(model, "config", None)
    text_config = config.get_text_config(decoder=True) if hasattr(config, "get_text_config") else config
    width = _whole_number(text_config, "hidden_size")
    if width is None:
        raise LofitError(f"model: got a {type(model).__name__} without a hidden_size; expected one in its config")
    return width


def head_layout(model: nn.Module, projection: str | None = None) -> HeadLayout:
    """Find the attention output projections of `model`, a Hugging Face decoder, by structure.

    An attention module is one that owns both an input projection (`INPUT_NAMES`) and an output projection
    (`OUTPUT_NAMES`). Towers for images or sound, which have a config of their own, cross-attention and linear
    attention are left out. The number of heads is what the attention module says, or else the config; grouped-query
    attention and widths other than the hidden size need no special case. No weight is read: a model on the meta
    device will do.

    Args:
        projection: name of the output projections, or the dotted end of their paths ("self_attn.o_proj"), for a model
            that names its modules otherwise.

    Raises:
        LofitError: the model has an encoder; no projection is found; the layers do not all have the same heads; or
            an edit before the projection would have no effect or would not be that of one head.
    """
    name = type(model).__name__
    config: Any = getattr(model, "config", None)
    text_config = config.get_text_config(decoder=True) if hasattr(config, "get_text_config") else config
    if any(getattr(part, "is_encoder_decoder", False) for part in (config, text_config)):
        raise LofitError(f"{name}: got an encoder and a decoder; expected a decoder alone")
    shapes: dict[str, tuple[int, int]] = {}
    for path, attention in _decoder_modules(model, text_config):
        for child in _projections(path, attention, projection):
            _check_editable(f"{name}: {path}", attention)
            shapes[f"{path}.{child}".lstrip(".")] = _heads(f"{name}: {path}.{child}", attention, child, text_config)
    if not shapes:
        allowed = (
            f"the end of the path of a module of the decoder, such as {OUTPUT_NAMES[0]}"
            if projection
            else f"a decoder whose attention modules hold one of {', '.join(OUTPUT_NAMES)} and one of "
            f"{', '.join(INPUT_NAMES)}, or its name as `projection`"
        )
        raise LofitError(
            f"{name}: no attention output projection found{f' named {projection!r}' if projection else ''}; "
            f"expected {allowed}"
        )
    if len(set(shapes.values())) > 1:
        got = ", ".join(f"{heads} heads of {size}" for heads, size in sorted(set(shapes.values())))
        raise LofitError(f"{name}: got layers of {got} numbers; expected layers that all have the same heads")
    return HeadLayout(len(shapes), *next(iter(shapes.values())), tuple(shapes))


def _decoder_modules(model: nn.Module, text_config: Any) -> Iterator[tuple[str, nn.Module]]:
    """Modules of the text decoder, with their paths, less those of cross-attention and linear attention."""
    layer_types = getattr(text_config, "layer_types", None) or ()
    configs: dict[str, Any] = {}
    for path, module in model.named_modules():
        own = getattr(module, "config", None)
        configs[path] = own if hasattr(own, "model_type") else configs.get(path.rpartition(".")[0])
        parts = path.split(".")
        index = next((int(part) for part in parts if part.isdecimal()), None)
        if (
            type(configs[path]) is type(text_config)
            and not CROSS_ATTENTION & set(parts)
            and getattr(module, "is_cross_attention", False) is not True
            and (index is None or index >= len(layer_types) or layer_types[index] != "linear_attention")
        ):
            yield path, module


def _projections(path: str, attention: nn.Module, projection: str | None) -> list[str]:
    """Names of the output projections among the children of a module: one, or none where it is no attention."""
    children = [child for child, _ in attention.named_children()]
    if projection:
        return [child for child in children if f".{path}.{child}".endswith(f".{projection}")]
    outputs = [child for child in OUTPUT_NAMES if child in children and input_width(getattr(attention, child))]
    return outputs[:1] if set(INPUT_NAMES) & set(children) else []


def _check_editable(where: str, attention: nn.Module) -> None:
    from torch import nn

    if isinstance(attention, nn.MultiheadAttention) or (
        getattr(attention, "slow_but_exact", False) and getattr(attention, "pretraining_tp", 1) > 1
    ):
        raise LofitError(
            f"{where} uses the weight of its output projection without calling it, so that no edit would be seen; "
            "expected attention that calls it (Bloom: slow_but_exact false)"
        )
    if hasattr(attention, "lambda_q1"):
        raise LofitError(
            f"{where} is differential attention, whose heads come in pairs; expected a slice of its own for each head"
        )


def _heads(where: str, attention: nn.Module, child: str, text_config: Any) -> tuple[int, int]:
    """Number and size of the heads whose outputs make a projection's input."""
    width = input_width(getattr(attention, child))
    if width is None:
        raise LofitError(f"{where} is a {type(getattr(attention, child)).__name__}; expected a linear module")
    # A config may count the heads of an encoder (Bart) or of other layers.
    count = _whole_number(attention, *HEAD_COUNTS) or _whole_number(text_config, *HEAD_COUNTS)
    size = _whole_number(attention, *HEAD_SIZES)
    if not count or width % count or size not in (None, width // count):
        raise LofitError(
            f"{where}: {count or 'an unknown number of'} attention heads{f' of {size}' if size else ''} do not make an "
            f"input of {width} numbers; expected heads of one size that fill the input"
        )
    return count, width // count


def _whole_number(owner: Any, *names: str) -> int | None:
    """The first of these attributes that is a whole number."""
    values = (getattr(owner, name, None) for name in names)
    return next((value for value in values if type(value) is int), None)
