"""Where a checkpoint can keep an adapter's offsets: an offset is a bias, and most attention layers have none."""

import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lofit.adapters.base import Adapter
from lofit.adapters.heads import HeadAdapter
from lofit.errors import LofitError
from lofit.export import llama
from lofit.export.engines import Engine, verdict
from lofit.models.layout import HeadLayout, input_width

PLAIN_DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
BESIDE_VALUES = {
    *("q_proj", "k_proj", "v_proj", "rotary_emb", "attention_dropout"),
    *("q_norm", "k_norm", "q_layernorm", "k_layernorm"),
}
"""Modules of attention that leave a constant on the values as it is until the output projection."""


Place = Literal["weights", "o_proj", "v_proj", "down_proj"]
PLACES = {
    "o_proj": "attention output projections",
    "v_proj": "value projections",
    "down_proj": "last projections of the MLPs",
}


@dataclass(frozen=True)
class Home:
    """Where the offsets go, and what the checkpoint has to become for it."""

    place: Place
    """Biases of the attention output projections, of the value projections, or of the ends of MLPs; or none."""

    model_type: str
    """Of the checkpoint."""

    switch: str | None = None
    """Option of the config to be set to true."""

    biased: tuple[str, ...] = ()
    """Modules that get a bias of zeros by that."""

    as_llama: tuple[str, ...] = ()
    """Where the model has to be relabelled as a Llama first, the options of that Llama."""

    def route(self, adapter: Adapter) -> str:
        """Where the vectors went, in a sentence or two for the card."""
        sentences = []
        if getattr(adapter, "scales", None) is not None:
            sentences.append("The scales are folded into the weights of the attention output projections.")
        if self.place != "weights":
            sentences.append(f"The offsets are in the biases of the {PLACES[self.place]}.")
        if self.as_llama:
            sentences.append("For their sake the model is labelled as a Llama, with the same weights.")
        elif self.switch:
            sentences.append(f"`{self.switch}` in config.json switches these on; all others that it switches on are 0.")
        return " ".join(sentences)


def find_home(
    model: PreTrainedModel, adapter: HeadAdapter, layout: HeadLayout, engine: Engine = "transformers"
) -> Home:
    """The first home for `adapter`'s offsets that the architecture has and `engine` is not known to lose.

    In this order: none needed (no offsets); a bias that the output projections have, or that an option of the config
    gives them; that of a Llama with the same weights; the biases of the value projections. No weight is read: a model
    on the meta device will do.

    Raises:
        LofitError: there is no such home, or the adapter does not fit the model.
    """
    _check_foldable(model, adapter, layout)
    return first_home(
        model, _homes(model, adapter, layout), engine, "the hooks (adapter.attach), or `lofit export --to peft`"
    )


def first_home(model: PreTrainedModel, homes: Iterable[Home | str], engine: Engine, otherwise: str) -> Home:
    """The first of these homes that `engine` is not known to lose; strings say why there is none.

    Raises:
        LofitError: there is no such home; `otherwise` is what is left to expect.
    """
    reasons = []
    lost = False
    for home in homes:
        if isinstance(home, str):
            reasons.append(home)
            continue
        judged = verdict(home.model_type, engine, home.place)
        # An engine that loses one bias may well lose another that nobody has looked at.
        if judged.keeps or (judged.keeps is None and not lost):
            return home
        lost = True
        reasons.append(f"the {home.place} of {home.model_type} in {engine}: {judged}")
    raise LofitError(
        f"{type(model).__name__}: its checkpoint has no place for this adapter ({'; '.join(reasons)}); expected "
        f"{otherwise}"
    )


def layer_vectors(adapter: HeadAdapter, layer: int, layout: HeadLayout) -> tuple[Tensor, Tensor]:
    """Scales and offsets of a layer's heads, num_heads x head_dim each, float32 on the CPU; zeros where none is."""
    scales, offsets = torch.zeros(2, layout.num_heads, layout.head_dim)
    for wide, vectors in ((scales, adapter.scales), (offsets, adapter.offsets)):
        for row, (at, head) in enumerate(adapter.heads):
            if vectors is not None and at == layer:
                wide[head] = vectors[row].detach()
    return scales, offsets


def edited_layers(adapter: HeadAdapter) -> list[int]:
    return sorted({layer for layer, _ in adapter.heads}) if adapter.head_dim else []


def is_quantised(module: Any) -> bool:
    """Whether a linear module keeps its weight in another form than floating point numbers."""
    return not isinstance(module, nn.Linear | Conv1D) or module.weight.dtype not in PLAIN_DTYPES


def value_path(projection: str) -> str:
    """Path of the value projection in the same module as an output projection."""
    return f"{projection.rpartition('.')[0]}.v_proj"


def value_offsets(model: nn.Module, adapter: HeadAdapter, layer: int, layout: HeadLayout) -> Tensor:
    """What each head's values lack for its z to become (1 + scale) z + offset once scaled.

    Value heads x heads that share one x head_dim: consecutive heads share a value head.
    """
    values: Any = model.get_submodule(value_path(layout.projections[layer]))
    scales, offsets = layer_vectors(adapter, layer, layout)
    lacking = torch.where(offsets == 0, 0, offsets / (1 + scales))
    return lacking.unflatten(0, (values.out_features // layout.head_dim, -1))


def _homes(model: PreTrainedModel, adapter: HeadAdapter, layout: HeadLayout) -> Iterator[Home | str]:
    """Homes, best first, and for each that there is not, why."""
    if adapter.offsets is None or not adapter.offsets.any():
        yield Home("weights", model_type(model))
        return
    yield bias_home(model, "o_proj", layout.projections)
    yield llama.obstacle(model) or llama_home("o_proj", layout, ("attention_bias",))
    yield _values_home(model, adapter, layout)


def _values_home(model: PreTrainedModel, adapter: HeadAdapter, layout: HeadLayout) -> Home | str:
    for path in layout.projections:
        if obstacle := _values_obstacle(model, path, layout):
            return obstacle
    home = bias_home(model, "v_proj", [value_path(path) for path in layout.projections])
    if isinstance(home, Home):
        for layer in edited_layers(adapter):
            shared = value_offsets(model, adapter, layer, layout)
            if not (shared.isfinite().all() and (shared == shared[:, :1]).all()):
                return f"heads of layer {layer} that share their values have different offsets"
    return home


def model_type(model: PreTrainedModel) -> str:
    return str(_text_config(model.config).model_type)


def llama_home(place: Place, layout: HeadLayout, options: tuple[str, ...]) -> Home:
    """A place in a Llama that the model has to be relabelled as."""
    return Home(place, "llama", biased=llama.biased(layout, options), as_llama=options)


def bias_home(model: PreTrainedModel, place: Place, paths: Sequence[str]) -> Home | str:
    """The biases of the modules at `paths`, which are there or which an option of the config switches on."""
    kind = model_type(model)
    if _all_biased(model, paths):
        return Home(place, kind)
    found = config_switch(model, paths)
    return Home(place, kind, *found) if found else f"no option of its config gives {paths[0]} a bias"


def config_switch(model: PreTrainedModel, paths: Sequence[str]) -> tuple[str, tuple[str, ...]] | None:
    """The option of the config that gives the modules at `paths` a bias, and all modules that get one by it.

    Options are tried, not known: of those with "bias" in their name, the first whose new parameters are all biases of
    linear modules, and that changes no other. Such biases can be zero, which leaves the model as it was.
    """
    before = _skeleton(model, None).state_dict()
    for option, value in _text_config(model.config).to_dict().items():
        if "bias" not in option or value is not False:
            continue
        switched = _skeleton(model, option)
        after = switched.state_dict()
        owners = {key: key.removesuffix(".bias") for key in after if key not in before}
        if (
            _all_biased(switched, paths)
            and all(key in after and after[key].shape == weight.shape for key, weight in before.items())
            and all(key != owner and _is_linear(switched.get_submodule(owner)) for key, owner in owners.items())
        ):
            return option, tuple(owners.values())
    return None


def switch_on(model: PreTrainedModel, option: str) -> None:
    setattr(_text_config(model.config), option, True)


def _text_config(config: Any) -> Any:
    return config.get_text_config(decoder=True)


def _skeleton(model: PreTrainedModel, option: str | None) -> PreTrainedModel:
    """The model's modules on the meta device, not quantised, with an option of its config set to true."""
    config = copy.deepcopy(model.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    if option:
        setattr(_text_config(config), option, True)
    with torch.device("meta"):
        return type(model)(config)


def _is_linear(module: nn.Module) -> bool:
    return input_width(module) is not None


def _all_biased(model: nn.Module, paths: Sequence[str]) -> bool:
    return all(getattr(model.get_submodule(path), "bias", None) is not None for path in paths)


def check_plain(model: nn.Module) -> None:
    """A LofitError where `model` is something around a model of transformers, or has PEFT adapters in it."""
    name = type(model).__name__
    if not isinstance(model, PreTrainedModel):
        raise LofitError(f"{name}: got a wrapped model; expected the model of transformers itself")
    if getattr(model, "_hf_peft_config_loaded", False):
        # transformers would save these alone.
        raise LofitError(f"{name}: got a model with PEFT adapters loaded; expected one without")


def _check_foldable(model: nn.Module, adapter: HeadAdapter, layout: HeadLayout) -> None:
    name = type(model).__name__
    check_plain(model)
    if any(model.get_submodule(path)._forward_pre_hooks for path in layout.projections):
        raise LofitError(f"{name}: got a hook on a projection; expected a model without an adapter attached")
    adapter.check_fits(layout)
    weights = [weight for _, weight in model.named_parameters(remove_duplicate=False)]
    for layer in edited_layers(adapter):
        path = layout.projections[layer]
        projection: Any = model.get_submodule(path)
        kind = type(projection).__name__
        if not _is_linear(projection):
            raise LofitError(f"{path} is a {kind}; expected a linear module")
        if sum(weight is projection.weight for weight in weights) > 1:
            raise LofitError(f"{path} shares its weight with another module; expected the hooks (adapter.attach)")
        if layer_vectors(adapter, layer, layout)[0].any() and is_quantised(projection):
            raise LofitError(
                f"{path} is quantised ({kind}), and scales would change its weight; expected offsets alone, a base "
                "that is not quantised, the hooks (adapter.attach), or `lofit export --to peft`"
            )


def _values_obstacle(model: nn.Module, path: str, layout: HeadLayout) -> str | None:
    """Why a constant on the values does not reach the projection at `path` as it is, if it does not.

    It does where z is an average of values: the weights of attention sum to 1.
    """
    parent, _, output = path.rpartition(".")
    attention = model.get_submodule(parent)
    children = dict(attention.named_children())
    queries, values = (getattr(children.get(name), "out_features", 0) for name in ("q_proj", "v_proj"))
    if (
        queries != layout.num_heads * layout.head_dim
        or not values
        or queries % values
        or values % layout.head_dim
        or children.keys() - BESIDE_VALUES - {output}
        or any(True for _ in attention.parameters(recurse=False))
    ):
        return f"{parent} does not just average what a v_proj makes"
    dropout = getattr(attention, "attention_dropout", 0.0)
    if (dropout.p if isinstance(dropout, nn.Dropout) else dropout) > 0:
        return f"{parent} has attention dropout, after which its weights do not sum to 1"
    return None
