"""Logits of a written model, as somebody gets them who has never heard of lofit. A script that imports nothing of ours.

    python read_back.py FOLDER INPUTS OUTPUTS SETTINGS

INPUTS holds rows of token ids (row_0, row_1, ...), OUTPUTS receives the logits under the same names. SETTINGS is JSON:
dtype, device, wide (whether to compute in float32), and the base model's revision and quantization_config (or null).
"""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM, BitsAndBytesConfig
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils.logging import disable_progress_bar


@contextmanager
def in_float32(model: nn.Module) -> Iterator[None]:
    """Have a model compute in float32, whatever its weights are kept in, with the memory of one layer more.

    Rounding on the way through a model in 16 bits would hide an error that is smaller.
    """
    kept = {weight: weight.dtype for weight in model.parameters()}

    def hooks(weights: list[nn.Parameter]) -> tuple[Callable, Callable]:
        def widen(*_: object) -> None:
            for weight in weights:
                weight.data = weight.data.float()

        def narrow(*_: object) -> None:
            for weight in weights:
                weight.data = weight.data.to(kept[weight])

        return widen, narrow

    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    inside = {module for layer in layers for module in layer.modules()}
    # A layer as a whole, since a module in it may use the weights of another.
    units: list[tuple[nn.Module, list]] = [(layer, list(layer.parameters())) for layer in layers]
    units += [(module, list(module.parameters(recurse=False))) for module in model.modules() if module not in inside]
    with ExitStack() as stack:
        for module, weights in units:
            widen, narrow = hooks(weights)
            stack.enter_context(module.register_forward_pre_hook(widen))
            stack.enter_context(module.register_forward_hook(narrow, always_call=True))
        yield


def main(folder: str, inputs: str, outputs: str, settings: str) -> None:
    disable_progress_bar()
    wanted = json.loads(settings)
    quantization = wanted["quantization_config"]
    # A None would take the place of what the checkpoint says of itself.
    options: dict[str, Any] = {}
    if quantization:
        options["quantization_config"] = BitsAndBytesConfig.from_dict(quantization)
    if wanted["revision"]:
        options["revision"] = wanted["revision"]
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=getattr(torch, wanted["dtype"]),
        device_map={"": wanted["device"]},
        **options,
        trust_remote_code=False,
        output_loading_info=True,
    )
    model, loading = loaded
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if loading[kind]:
            sys.exit(f"{kind.replace('_', ' ')}: {', '.join(sorted(map(str, loading[kind]))[:3])}")
    model.eval()
    with torch.no_grad(), in_float32(model) if wanted["wide"] else nullcontext():
        logits = {
            name: model(ids[None].to(model.device)).logits[0].float().cpu().contiguous()
            for name, ids in load_file(inputs).items()
        }
    save_file(logits, outputs)


if __name__ == "__main__":
    main(*sys.argv[1:])
