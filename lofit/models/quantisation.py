"""Weights that are quantised while they are loaded."""

from typing import Any

import torch
from transformers import BitsAndBytesConfig, PreTrainedModel, TorchAoConfig

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def quantization_config(quantization: str | None, dtype: str) -> Any:
    """How transformers is to quantise the weights while it loads them, or None."""
    if quantization is None:
        return None
    library, _, bits = quantization.partition("_")
    if library == "bitsandbytes":
        return BitsAndBytesConfig(
            load_in_4bit=bits == "4bit",
            load_in_8bit=bits == "8bit",
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=DTYPES[dtype],
        )
    # Imported here, since the library is not installed by default.
    from torchao.quantization import Int4WeightOnlyConfig, Int8WeightOnlyConfig

    return TorchAoConfig(Int4WeightOnlyConfig() if bits == "4bit" else Int8WeightOnlyConfig())


def keep_differentiable(model: PreTrainedModel) -> None:
    """Keep bitsandbytes' 4-bit layers in the form that gradients pass through.

    In evaluation mode on a CPU, a forward pass without gradients repacks their weights for a kernel that has no
    backward pass: gradients would stop there from then on, without an error. The layers' own flag prevents it.
    """
    from bitsandbytes.nn import Linear4bit

    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.training = True
