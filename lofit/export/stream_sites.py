"""Where a checkpoint can keep offsets of the residual stream: a layer's output is the stream plus what its MLP puts
out, so that a bias of the MLP's last projection is added to the output."""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lofit.adapters.stream import StreamAdapter, is_edited
from lofit.errors import LofitError
from lofit.export import llama
from lofit.export.bias_sites import Home, bias_home, check_plain, first_home, llama_home, model_type
from lofit.export.engines import Engine
from lofit.export.read_back import in_float32
from lofit.export.verify import is_wide
from lofit.models.layout import HeadLayout, hidden_size, input_width

PROBE_TOKENS = 8

TOLERANCE = 0.02
"""Largest error of what reaches an output, as a share of what was added. Arithmetic in 16 bits rounds by less, and a
norm or a gate on the way changes far more."""


def find_stream_home(
    model: PreTrainedModel, adapter: StreamAdapter, layout: HeadLayout, engine: Engine = "transformers"
) -> Home:
    """The first home for `adapter`'s offsets that the architecture has and `engine` is not known to lose.

    In this order: none needed (all are zero); biases that the MLPs' last projections have, or that an option of the
    config gives them; those of a Llama with the same weights. No weight is read: a model on the meta device will do.
    Whether a bias there reaches the output as it is, `check_reach` says.

    Raises:
        LofitError: there is no such home, or the adapter does not fit the model.
    """
    check_plain(model)
    adapter.check_fits(model, layout)
    if any(is_edited(model.get_submodule(path)) for path in layout.blocks):
        raise LofitError(f"{type(model).__name__}: got a hook on a layer; expected a model without an adapter attached")
    if adapter.is_idle:
        return Home("weights", model_type(model))
    return first_home(model, _homes(model, adapter, layout), engine, "the hooks (adapter.attach)")


def _homes(model: PreTrainedModel, adapter: StreamAdapter, layout: HeadLayout) -> Iterator[Home | str]:
    try:
        ends = block_ends(model, layout, adapter.layers)
    except LofitError as error:
        yield str(error).partition(";")[0]
        return
    yield bias_home(model, "down_proj", list(ends.values()))
    yield llama.obstacle(model) or llama_home("down_proj", layout, llama.options_for_mlp(model))


def block_ends(model: PreTrainedModel, layout: HeadLayout, layers: Sequence[int]) -> dict[int, str]:
    """For each of these layers the path of its last linear module that is as wide as the stream, attention aside.

    Raises:
        LofitError: a layer has none, as where its MLP is a mixture of experts.
    """
    width = hidden_size(model)
    ends = {}
    for layer in layers:
        block = layout.blocks[layer]
        attention = layout.projections[layer].rpartition(".")[0]
        found = [
            f"{block}.{path}"
            for path, module in model.get_submodule(block).named_modules()
            if output_width(module) == width and not f"{block}.{path}.".startswith(f"{attention}.")
        ]
        if not found:
            raise LofitError(f"{block} has no linear module at the end of an MLP; expected one")
        ends[layer] = found[-1]
    return ends


def output_width(module: nn.Module) -> int | None:
    """Number of output features of a linear module, quantised or not; None of any other."""
    if input_width(module) is None:
        return None
    found: Any = getattr(module, "out_features", getattr(module, "nf", None))
    return found if type(found) is int else None


def shares(model: PreTrainedModel, layout: HeadLayout, layers: Sequence[int]) -> dict[int, float]:
    """By layer, what a layer multiplies the output of its MLP by before it is added to the stream: Granite's does."""
    blocks = {layer: model.get_submodule(layout.blocks[layer]) for layer in layers}
    return {layer: float(getattr(block, "residual_multiplier", 1.0)) for layer, block in blocks.items()}


@torch.no_grad()
def check_reach(model: PreTrainedModel, layout: HeadLayout, ends: dict[int, str]) -> None:
    """Add numbers to the output of the modules at `ends`, and see whether they arrive at the output of their layers.

    Raises:
        LofitError: they do not, as where a norm follows the MLP.
    """
    share = shares(model, layout, list(ends))
    with in_float32(model) if is_wide(model) else nullcontext():
        before = _outputs(model, layout, list(ends))
        for layer, path in ends.items():
            h = before[layer]
            signs = torch.arange(h.shape[-1], device=h.device).remainder(3).sub(1).to(h)
            # As large as the stream's largest number, next to which small ones would be rounded away.
            added = (h.abs().max() + 1) * signs
            module = model.get_submodule(path)
            with module.register_forward_hook(lambda _, __, put_out, added=added: put_out + added.to(put_out)):
                after = _outputs(model, layout, [layer])[layer]
            arrived = (after - h).float() - share[layer] * added.float()
            if not arrived.abs().max() <= TOLERANCE * abs(share[layer]) * added.float().abs().max():
                raise LofitError(
                    f"{type(model).__name__}: its checkpoint has no place for this adapter (a bias of {path} does not "
                    f"reach the output of {layout.blocks[layer]} as it is); expected the hooks (adapter.attach)"
                )


def _outputs(model: PreTrainedModel, layout: HeadLayout, layers: Sequence[int]) -> dict[int, Tensor]:
    """What these layers put out for a few tokens, 1 x tokens x hidden size each."""
    seen: dict[int, Tensor] = {}
    handles = []
    for layer in layers:

        def see(_: nn.Module, __: tuple, output: Any, layer: int = layer) -> None:
            seen[layer] = output if isinstance(output, Tensor) else output[0]

        handles.append(model.get_submodule(layout.blocks[layer]).register_forward_hook(see))
    vocabulary = model.config.get_text_config(decoder=True).vocab_size
    ids = torch.arange(1, vocabulary, max(vocabulary // PROBE_TOKENS, 1), device=model.device)[:PROBE_TOKENS]
    try:
        model(ids[None], use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return seen
