"""What a model makes of the last token of each text: the outputs of its heads and of its layers."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm
from transformers import PreTrainedModel

from lofit.errors import LofitError
from lofit.models.forward import labelled_logits
from lofit.models.layout import HeadLayout
from lofit.models.tokens import IGNORED, Encoded, collate, longest_first

LARGEST = float(np.finfo(np.float16).max)


@torch.no_grad()
def read_last_tokens(
    model: PreTrainedModel,
    layout: HeadLayout,
    rows: Sequence[Encoded],
    heads: np.ndarray,
    blocks: np.ndarray | None,
    *,
    pad_id: int,
    batch_size: int,
    progress: str | None = None,
) -> None:
    """Fill `heads` and, where it is wanted, `blocks` with what the model makes of the last token of each of N rows.

    Args:
        heads: N x layers x heads x head_dim, float16: the input of the output projections.
        blocks: N x layers x hidden, float16: the output of the layers that hold them.
        progress: names the progress bar; without it there is none.

    Raises:
        LofitError: a number is NaN or beyond float16.
    """
    with tqdm(total=len(rows), desc=progress, unit="text", disable=progress is None) as bar:
        for indices in longest_first([len(row.ids) for row in rows], batch_size=batch_size):
            batch = collate([rows[i] for i in indices], pad_id=pad_id, device=model.device)
            last = batch["attention_mask"].sum(1) - 1
            with watched(model, layout, last) as seen:
                labelled_logits(model, batch, torch.full_like(batch.pop("labels"), IGNORED))
            for layer in range(layout.num_layers):
                z, hidden = (half(seen[what, layer], f"{what} of layer {layer}") for what in ("heads", "output"))
                heads[indices, layer] = z.reshape(len(indices), *heads.shape[2:])
                if blocks is not None:
                    blocks[indices, layer] = hidden
            bar.update(len(indices))


@contextmanager
def watched(model: PreTrainedModel, layout: HeadLayout, last: Tensor) -> Iterator[dict[tuple[str, int], Tensor]]:
    """Until the block ends, keep what the model makes of one position of each row: `heads` and `output` by layer.

    Args:
        last: B positions.
    """
    seen: dict[tuple[str, int], Tensor] = {}

    def keep(what: str, layer: int, value: Tensor) -> None:
        # Some decoders lay the tokens of all rows one after the other.
        value = value.reshape(len(last), -1, value.shape[-1])
        seen[what, layer] = value[torch.arange(len(last), device=value.device), last.to(value.device)]

    def before(layer: int) -> Any:
        return lambda _, args: keep("heads", layer, args[0])

    def after(layer: int) -> Any:
        # Layers return their hidden states alone, or first in a tuple.
        return lambda _, __, output: keep("output", layer, output[0] if isinstance(output, tuple) else output)

    with ExitStack() as hooks:
        for layer, (projection, block) in enumerate(zip(layout.projections, layout.blocks, strict=True)):
            modules: list[nn.Module] = [model.get_submodule(path) for path in (projection, block)]
            hooks.enter_context(modules[0].register_forward_pre_hook(before(layer)))
            hooks.enter_context(modules[1].register_forward_hook(after(layer)))
        yield seen


def half(values: Tensor, what: str) -> np.ndarray:
    """`values` as float16.

    Raises:
        LofitError: one of them is NaN, or larger than float16 holds.
    """
    largest = values.abs().max().item()
    if not largest <= LARGEST:
        raise LofitError(f"model: got {largest:.6g} in the {what}; expected numbers up to {LARGEST:.0f}, as in float16")
    return values.half().cpu().numpy()
