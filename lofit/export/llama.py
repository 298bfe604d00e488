"""Decoders that are a Llama by another name, which gives their attention and their MLPs biases."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from lofit.errors import LofitError
from lofit.models.layout import HeadLayout

LIKE_LLAMA = ("mistral", "qwen2", "phi3")
NEUTRAL = {"sliding_window", "use_sliding_window", "max_window_layers", "layer_types"} | {
    *("original_max_position_embeddings", "resid_pdrop", "embd_pdrop")
}
"""Options of theirs that a Llama lacks: checked for, read by longrope alone, or at work in training only."""
OPTIONS = {
    "attention_bias": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "mlp_bias": ("gate_proj", "up_proj", "down_proj"),
}
"""Options of a Llama that give modules a bias, and these modules."""
LLAMA_ONLY = {"model_type", "architectures", "transformers_version", "mlp_bias", "pretraining_tp"}
"""Not to be taken over, whatever a config says that does not read them."""
FUSED = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}


def obstacle(model: PreTrainedModel) -> str | None:
    """Why `model` is not a Llama by another name, if it is not."""
    config = model.config
    if config.model_type not in LIKE_LLAMA or not type(model).__name__.endswith("ForCausalLM"):
        return f"{config.model_type} is no Llama by another name"
    where = f"{config.model_type} as a Llama:"
    window = getattr(config, "sliding_window", None)
    layers = getattr(config, "layer_types", None) or ["sliding_attention"]
    if window is not None and window < config.max_position_embeddings and "sliding_attention" in layers:
        return f"{where} its window of {window} tokens is shorter than its context of {config.max_position_embeddings}"
    rope = config.rope_parameters
    if rope["rope_type"] == "longrope":
        return f"{where} its rotary embedding is longrope"
    if rope.get("partial_rotary_factor", 1.0) != 1.0:
        return f"{where} its rotary embedding is partial"
    unknown = type(config)().to_dict().keys() - LlamaConfig().to_dict().keys() - NEUTRAL
    if unknown:
        return f"{where} a Llama has no {min(unknown)}"
    if config.hidden_size % config.num_attention_heads:
        return f"{where} {config.num_attention_heads} heads do not divide the hidden size, {config.hidden_size}"
    fused = [
        name for name, module in model.named_modules() if name.endswith(tuple(FUSED)) and type(module) is not nn.Linear
    ]
    return f"{where} {fused[0]} is quantised and cannot be split" if fused else None


def options_for_mlp(model: PreTrainedModel) -> tuple[str, ...]:
    """The options that a Llama made of `model` needs for a bias of its MLPs and for the biases that it has already."""
    has_biases = any(name.endswith(("q_proj.bias", "qkv_proj.bias")) for name, _ in model.named_parameters())
    return ("attention_bias", "mlp_bias") if has_biases else ("mlp_bias",)


def biased(layout: HeadLayout, options: Sequence[str] = ("attention_bias",)) -> tuple[str, ...]:
    """The modules that have a bias in a Llama with these options."""
    homes = {"attention_bias": [path.rpartition(".")[0] for path in layout.projections]}
    homes["mlp_bias"] = [f"{block}.mlp" for block in layout.blocks]
    return tuple(f"{home}.{name}" for option in options for home in homes[option] for name in OPTIONS[option])


def as_llama(model: PreTrainedModel, options: Sequence[str] = ("attention_bias",)) -> LlamaForCausalLM:
    """`model`, which has no `obstacle`, as a Llama made of its modules; biases that it lacks are still missing.

    **The modules are moved, not copied**: the model given is of no use afterwards.
    """
    config = llama_config(model, options)
    with torch.device("meta"):
        llama = LlamaForCausalLM(config)
    for path, module in list(model.named_modules()):
        if path.endswith(tuple(FUSED)):
            for part, linear in _split(path, module, llama):
                llama.set_submodule(part, linear)
        elif any(True for _ in module.parameters(recurse=False)):
            llama.set_submodule(path, module)
    # Made again, since its frequencies are in no checkpoint.
    llama.model.rotary_emb = type(llama.model.rotary_emb)(config).to(model.device)
    llama.generation_config = model.generation_config
    for name in ("hf_quantizer", "quantization_method", "is_loaded_in_4bit", "is_loaded_in_8bit"):
        if hasattr(model, name):
            setattr(llama, name, getattr(model, name))
    for name in ("forward", "save_pretrained"):
        setattr(model, name, _refuse)
    return llama.train(model.training)


def _refuse(*_: object, **__: object) -> None:
    raise LofitError("this model has been merged and relabelled; expected the model that `merge` returned")


def _split(path: str, fused: Any, llama: LlamaForCausalLM) -> Iterator[tuple[str, nn.Linear]]:
    """The modules that a Llama has in place of a fused projection; their weights are slices of its own."""
    parent, _, name = path.rpartition(".")
    parts = [f"{parent}.{part}" for part in FUSED[name]]
    modules: list[Any] = [llama.get_submodule(part) for part in parts]
    for part, weight in zip(parts, fused.weight.split([module.out_features for module in modules]), strict=True):
        linear = nn.Linear(weight.shape[1], len(weight), bias=False, device="meta")
        linear.weight = nn.Parameter(weight, requires_grad=weight.requires_grad)
        yield part, linear


def llama_config(model: PreTrainedModel, options: Sequence[str] = ("attention_bias",)) -> LlamaConfig:
    config = model.config
    defaults = LlamaConfig().to_dict()
    shared = {name: value for name, value in config.to_dict().items() if name in defaults and name not in LLAMA_ONLY}
    rope = {name: value for name, value in config.rope_parameters.items() if name != "partial_rotary_factor"}
    llama = LlamaConfig(**{**shared, "rope_parameters": rope, **dict.fromkeys(options, True)})
    llama._attn_implementation = config._attn_implementation
    if hasattr(config, "quantization_config"):
        llama.quantization_config = config.quantization_config
    return llama
