"""How a model is run: on which device, by which algorithms, frozen, with less memory; and back to how it was."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.modeling_layers import GradientCheckpointingLayer

from lofit.errors import LofitError
from lofit.models.quantisation import DTYPES


def check_model(model: object, tokenizer: object) -> None:
    """A LofitError where a caller's arguments are no model and its tokenizer, in this order."""
    for name, given, kind in (("model", model, nn.Module), ("tokenizer", tokenizer, PreTrainedTokenizerBase)):
        if not isinstance(given, kind):
            raise LofitError(f"{name}: got a {type(given).__name__}; expected a {name} of transformers")


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Until the block ends, `model` is in evaluation mode and its weights get no gradients.

    Evaluation mode holds in training too: dropout would make a frozen model noisy and results depend on the device.
    """
    modules = [(module, module.training) for module in model.modules()]
    parameters = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    model.eval()
    for parameter, _ in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for module, training in modules:
            module.training = training
        for parameter, requires_grad in parameters:
            parameter.requires_grad_(requires_grad)


@contextmanager
def activation_checkpointing(model: PreTrainedModel) -> Iterator[None]:
    """Until the block ends, the layers recompute their activations in the backward pass.

    transformers does so in training mode only, which would also switch dropout on: just the layers' own flag is set,
    not that of the modules in them.

    Raises:
        LofitError: the architecture does not support it.
    """
    hooked = bool(getattr(model, "_require_grads_hooks", None))
    try:
        model.activation_checkpointing_enable({"use_reentrant": False})
    except ValueError as error:
        raise LofitError(
            f"gradient_checkpointing: got true; expected for {type(model).__name__}: false ({error})"
        ) from None
    layers = [layer for layer in model.modules() if isinstance(layer, GradientCheckpointingLayer)]
    training = [layer.training for layer in layers]
    # What a layer's own forward reads with that flag, from itself or from its config.
    owners = {id(owner): owner for layer in layers for owner in (layer, getattr(layer, "config", layer))}.values()
    rates = [
        (owner, name, value)
        for owner in owners
        for name, value in vars(owner).items()
        if "dropout" in name and type(value) is float
    ]
    for layer in layers:
        layer.training = True
    for owner, name, _ in rates:
        setattr(owner, name, 0.0)
    try:
        yield
    finally:
        for owner, name, value in rates:
            setattr(owner, name, value)
        for layer, flag in zip(layers, training, strict=True):
            layer.training = flag
        model.activation_checkpointing_disable()
        if not hooked:
            # Enabling it has put a hook on the input embeddings.
            model.disable_input_require_grads()


def be_deterministic() -> None:
    """Have torch choose algorithms that give the same bytes for the same inputs, for the rest of this process."""
    # cuBLAS needs a fixed workspace for that, named before its first use.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)


@contextmanager
def deterministic() -> Iterator[None]:
    """`be_deterministic` until the block ends."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    be_deterministic()
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


def refuse_nan(values: Tensor) -> None:
    """Stop where a model gives no numbers: compared with anything, they would pass for an answer.

    Raises:
        LofitError: one of `values` is NaN.
    """
    if values.isnan().any():
        raise LofitError("model: got NaN for its logits; expected a dtype with more range, bfloat16 or float32")


def pick_device(name: str) -> torch.device:
    """The device called `name`; for `auto` the first accelerator there is, or the CPU.

    Raises:
        LofitError: there is no such device.
    """
    found = torch.accelerator.current_accelerator()
    if name == "auto":
        return found or torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise LofitError(f"device: got {name!r}; expected auto, cpu, or an accelerator such as cuda") from None
    if device.type != "cpu" and (
        found is None or device.type != found.type or (device.index or 0) >= torch.accelerator.device_count()
    ):
        here = f"{torch.accelerator.device_count()} of {found.type}" if found else "no accelerator"
        raise LofitError(f"device: got {name!r}, but this machine has {here}; expected auto, or one that is here")
    return device


def pick_dtype(name: str, device: str) -> str:
    """The dtype called `name`; for `auto` bfloat16 where a device computes in it, else float32.

    A processor does where it has instructions for it. Where it has none, bfloat16 would be slower than float32.

    Raises:
        LofitError: there is no such dtype, or no such device.
    """
    if name != "auto":
        if name not in DTYPES:
            raise LofitError(f"dtype: got {name!r}; expected auto, {', '.join(DTYPES)}")
        return name
    place = pick_device(device)
    if place.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    elif place.type == "cpu":
        known: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
        fast = bool(known.get("avx512_bf16") or known.get("amx_bf16"))
    else:
        fast = place.type == "xpu"
    return "bfloat16" if fast else "float32"
