"""Folding an adapter into the weights of its model."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lofit.adapters.base import Adapter
from lofit.adapters.heads import HeadAdapter
from lofit.adapters.stream import StreamAdapter
from lofit.adapters.weights import WeightsAdapter
from lofit.errors import LofitError
from lofit.export.bias_sites import (
    Home,
    edited_layers,
    find_home,
    first_home,
    is_quantised,
    layer_vectors,
    model_type,
    switch_on,
    value_offsets,
    value_path,
)
from lofit.export.engines import Engine
from lofit.export.llama import as_llama
from lofit.export.stream_sites import block_ends, check_reach, find_stream_home, shares
from lofit.models.layout import HeadLayout, head_layout
from lofit.models.linear import as_matrix
from lofit.models.quantisation import keep_differentiable


def merge(
    model: PreTrainedModel,
    adapter: Adapter,
    *,
    layout: HeadLayout | None = None,
    engine: Engine = "transformers",
) -> PreTrainedModel:
    """`model` with `adapter` folded into its weights, which `save_pretrained` then keeps.

    Of heads: W ((1 + A) z + v) is W diag(1 + A) z + W v: scales go into the weight of the attention output projection
    and offsets into its bias, or into that of the value projection. Of the residual stream: the output of a layer is
    the stream plus what its MLP puts out, so offsets go into the bias of the MLP's last projection, once a pass has
    shown that such a bias reaches the output as it is. Sums are in float32, cast last. What is merged or attached later
    acts before what has been merged.

    **`model` is given up**: it is changed in place, and may come back as a Llama made of its modules (see `home_for`);
    only the model returned is of use, and the other then refuses to run or to be saved. A quantised weight is left
    alone. If the merge is refused, nothing has changed. Where the adapter holds all weights, they replace the model's.

    Args:
        engine: what is to serve the checkpoint; a place for the offsets that it is known to lose is not used.

    Raises:
        LofitError: the checkpoint would have no place for the offsets; scales meet a quantised weight; or the adapter
            does not fit the model, is attached to it, is of a kind that no checkpoint can hold, or meets weights that
            are not in memory.
    """
    layout = layout or head_layout(model)
    return fold(model, adapter, layout, home_for(model, adapter, layout, engine))


def home_for(model: PreTrainedModel, adapter: Adapter, layout: HeadLayout, engine: Engine = "transformers") -> Home:
    """Where a checkpoint of `model` can keep `adapter`; see `find_home` and `find_stream_home`.

    Raises:
        LofitError: nowhere, or the adapter does not fit the model.
    """
    check_exportable(adapter)
    if isinstance(adapter, WeightsAdapter):
        return first_home(model, [Home("weights", model_type(model))], engine, "an engine that serves such a model")
    if isinstance(adapter, StreamAdapter):
        return find_stream_home(model, adapter, layout, engine)
    assert isinstance(adapter, HeadAdapter)
    return find_home(model, adapter, layout, engine)


def check_exportable(adapter: Adapter) -> None:
    """A LofitError where an adapter is of a kind that no weights can hold."""
    if adapter.kind == "peft":
        raise LofitError(
            "adapter: got one of kind peft, whose folder is a PEFT adapter as it is; expected "
            "peft.PeftModel.from_pretrained(model, FOLDER), and its merge_and_unload() for a plain model"
        )
    if not isinstance(adapter, HeadAdapter | StreamAdapter | WeightsAdapter):
        raise LofitError(
            f"adapter: got one of kind {adapter.kind}, which runs in lofit alone; expected one of kind heads, stream "
            "or weights"
        )


@torch.no_grad()
def fold(model: PreTrainedModel, adapter: Adapter, layout: HeadLayout, home: Home) -> PreTrainedModel:
    """`merge` where the home has been found."""
    if isinstance(adapter, WeightsAdapter):
        return adapter.written_into(model)
    if isinstance(adapter, StreamAdapter):
        return _fold_stream(model, adapter, layout, home)
    assert isinstance(adapter, HeadAdapter)
    _check_at_hand(model, [layout.projections[layer] for layer in edited_layers(adapter)])
    model = _with_biases(model, home)
    for layer in edited_layers(adapter):
        projection: Any = model.get_submodule(layout.projections[layer])
        scales, offsets = layer_vectors(adapter, layer, layout)
        if home.place == "o_proj":
            # Before the scales, which are not for the offsets.
            _add_to_bias(projection, product(projection, offsets.flatten()))
        elif home.place == "v_proj":
            values = model.get_submodule(value_path(layout.projections[layer]))
            _add_to_bias(values, value_offsets(model, adapter, layer, layout)[:, 0].flatten())
        if scales.any():
            _scale_inputs(projection, 1 + scales.flatten())
    return model


def _fold_stream(model: PreTrainedModel, adapter: StreamAdapter, layout: HeadLayout, home: Home) -> PreTrainedModel:
    if home.place == "weights":
        return model
    ends = block_ends(model, layout, adapter.layers)
    _check_at_hand(model, list(ends.values()))
    if getattr(model, "is_loaded_in_4bit", False):
        keep_differentiable(model)
    check_reach(model, layout, ends)
    share = shares(model, layout, adapter.layers)
    model = _with_biases(model, home)
    for row, layer in enumerate(adapter.layers):
        _add_to_bias(model.get_submodule(ends[layer]), adapter.offsets[row].detach().float() / share[layer])
    return model


def _with_biases(model: PreTrainedModel, home: Home) -> PreTrainedModel:
    """The model with the biases, of zeros, that the home needs."""
    if home.as_llama:
        model = as_llama(model, home.as_llama)
    elif home.switch:
        switch_on(model, home.switch)
    if getattr(model, "is_loaded_in_4bit", False):
        # Else the first pass on a CPU would repack the weights, and they would be saved wrong.
        keep_differentiable(model)
    for path in home.biased:
        _ensure_bias(model.get_submodule(path), model.dtype)
    return model


def product(projection: Any, vector: Tensor) -> Tensor:
    """W v, float32, for a linear module with the weight W, and v as wide as its input.

    Of a quantised module it is what the module makes of v: how to read its weight is its own business.
    """
    weight = projection.weight
    vector = vector.to(weight.device)
    if not is_quantised(projection):
        return as_matrix(projection, weight.float()) @ vector
    return (projection(vector[None]) - projection(torch.zeros_like(vector[None])))[0].float()


def _check_at_hand(model: nn.Module, paths: list[str]) -> None:
    for path in paths:
        projection: Any = model.get_submodule(path)
        if projection.weight.is_meta:
            raise LofitError(f"{path}: its weight is offloaded; expected a model that is wholly in memory")
    for path, weight in model.named_parameters():
        if getattr(getattr(weight, "quant_state", None), "packing_format_for_cpu", False):
            raise LofitError(
                f"{path}: bitsandbytes has repacked it in a pass on the CPU, and saves it wrong since; expected a "
                "model that has made no pass yet, or has been through lofit.models.quantisation first"
            )


def _ensure_bias(module: Any, dtype: torch.dtype) -> None:
    weight = module.weight
    if module.bias is None:
        width = module.nf if isinstance(module, Conv1D) else module.out_features
        zeros = torch.zeros(width, dtype=dtype if is_quantised(module) else weight.dtype, device=weight.device)
        module.bias = nn.Parameter(zeros, requires_grad=weight.requires_grad)


def _add_to_bias(module: Any, addition: Tensor) -> None:
    module.bias.copy_(module.bias.float() + addition.to(module.bias.device))


def _scale_inputs(projection: Any, factors: Tensor) -> None:
    """Multiply each input feature: columns of a linear module's weight, rows of a Conv1D's."""
    weight = projection.weight
    factors = factors.to(weight.device)
    weight.copy_(weight.float() * (factors[:, None] if isinstance(projection, Conv1D) else factors))
