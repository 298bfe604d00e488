"""Where a decoder's attention heads are.

A head is addressed by (layer, head). Its output z, before the attention output projection, is one slice of that
projection's input: the input is the concatenation of all heads (LoFiT section 2), whatever the number of key/value
heads, the attention kernel or the width of the residual stream.
"""

from dataclasses import dataclass
from typing import Any

from torch import nn

from lofit.errors import LofitError

Head = tuple[int, int]

OUTPUT_NAMES = ("o_proj", "out_proj", "c_proj", "dense", "wo")
INPUT_NAMES = ("q_proj", "qkv_proj", "query_key_value", "c_attn", "Wqkv", "qkv", "wq", "query")
CROSS_ATTENTION = ("encoder_attn", "crossattention", "cross_attn")


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

    @property
    def size(self) -> int:
        """Number of heads in the model."""
        return self.num_layers * self.num_heads

    def grid(self) -> list[Head]:
        """All heads, by layer and then by head."""
        return [(layer, head) for layer in range(self.num_layers) for head in range(self.num_heads)]


def input_width(projection: nn.Module) -> int | None:
    """Number of input features of a linear module, transposed (GPT-2's Conv1D) or not."""
    features = getattr(projection, "in_features", None)
    if isinstance(features, int):
        return features
    weight = getattr(projection, "weight", None)
    return int(weight.shape[0]) if hasattr(projection, "nf") and weight is not None else None


def head_layout(model: nn.Module) -> HeadLayout:
    """Find the attention output projections of `model`, a Hugging Face decoder, by structure.

    An attention module is one that owns both an input projection (`INPUT_NAMES`) and an output projection
    (`OUTPUT_NAMES`). The head size is the projection's input width over the number of query heads, so grouped-query
    attention and widths other than the hidden size need no special case. No weight is read: a model on the meta
    device will do.

    Raises:
        LofitError: no such module is found, or the layers do not all have the same heads.
    """
    name = type(model).__name__
    projections: dict[str, int] = {}
    for path, module in model.named_modules():
        if path.rpartition(".")[2] in CROSS_ATTENTION:
            continue
        children = dict(module.named_children())
        output = next((child for child in OUTPUT_NAMES if child in children), None)
        if output and any(child in children for child in INPUT_NAMES):
            width = input_width(children[output])
            if width is not None:
                projections[f"{path}.{output}"] = width
    if not projections:
        raise LofitError(
            f"{name}: no attention output projection found; allowed: a decoder whose attention modules hold one of "
            f"{', '.join(OUTPUT_NAMES)} beside one of {', '.join(INPUT_NAMES)}"
        )
    config: Any = getattr(model, "config", None)
    text_config = config.get_text_config() if hasattr(config, "get_text_config") else config
    num_heads = getattr(text_config, "num_attention_heads", None)
    widths = set(projections.values())
    if not isinstance(num_heads, int) or len(widths) != 1 or next(iter(widths)) % num_heads:
        raise LofitError(
            f"{name}: {num_heads} attention heads do not divide projection inputs of {sorted(widths)} numbers; "
            "allowed: layers that all have the same heads"
        )
    return HeadLayout(len(projections), num_heads, next(iter(widths)) // num_heads, tuple(projections))
