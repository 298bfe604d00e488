"""Model shapes, randomly initialised, and the sizes of the inputs that are timed on each."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen3Config,
)

from lofit.errors import LofitError
from lofit.models.layout import head_layout

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Shape:
    """A model and how much it is given to do."""

    config: Callable[[], PreTrainedConfig]

    dtype: str = "bfloat16"
    """Unless the command says otherwise."""

    batch: int = 8
    """Rows of a training step."""

    length: int = 128
    """Tokens of a row of a training step."""

    labels: int = 6
    """The last tokens of a row, which the loss is about."""

    heads: int = 8
    """Heads that step 2 tunes."""

    lengths: tuple[int, ...] = (64, 128, 256)

    head_counts: tuple[int, ...] = (1, 8, 32)

    vocabularies: tuple[int, ...] = (8_000, 32_000, 128_000)

    choices: tuple[int, ...] = (1, 2, 4, 8, 16)

    new_tokens: int = 16


def small() -> PreTrainedConfig:
    return LlamaConfig(
        hidden_size=512,
        intermediate_size=1376,
        num_hidden_layers=8,
        num_attention_heads=8,
        vocab_size=32_000,
        max_position_embeddings=4096,
    )


def tiny() -> PreTrainedConfig:
    return LlamaConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=4,
        num_attention_heads=4,
        vocab_size=512,
        max_position_embeddings=4096,
        # Ten times the usual, so that a model this narrow answers in words that differ.
        initializer_range=0.2,
    )


def llama2_7b() -> PreTrainedConfig:
    return LlamaConfig(
        hidden_size=4096,
        intermediate_size=11_008,
        num_hidden_layers=32,
        num_attention_heads=32,
        vocab_size=32_000,
        max_position_embeddings=4096,
    )


def qwen3_8b() -> PreTrainedConfig:
    return Qwen3Config(
        hidden_size=4096,
        intermediate_size=12_288,
        num_hidden_layers=36,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=128,
        vocab_size=151_936,
        max_position_embeddings=40_960,
    )


SHAPES = {
    "small": Shape(small, dtype="float32"),
    "tiny": Shape(
        tiny,
        dtype="float32",
        batch=2,
        length=16,
        heads=3,
        lengths=(12, 16),
        head_counts=(1, 4),
        vocabularies=(512, 1024),
        choices=(1, 2, 4),
        new_tokens=6,
    ),
    "llama2-7b": Shape(llama2_7b, heads=32, head_counts=(1, 8, 32, 128)),
    "qwen3-8b": Shape(qwen3_8b, heads=32, head_counts=(1, 8, 32, 128)),
}


def device_called(name: str) -> torch.device:
    """The device of this name, if it is there.

    Raises:
        LofitError: it is unknown, or not in this machine.
    """
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise LofitError(
            f"--device {name}: {str(error).splitlines()[0]}; expected cpu, or a GPU that is there"
        ) from None
    if device.type not in ("cpu", "cuda"):
        raise LofitError(f"--device {name}: its memory cannot be measured here; expected cpu, cuda or cuda:<number>")
    return device


def random_model(shape: Shape, *, device: torch.device, dtype: torch.dtype) -> PreTrainedModel:
    """A frozen model of this shape, made where it is to run; the same numbers every time."""
    config = shape.config()
    # Without an end-of-sequence token, nothing but the length or the caller ends a continuation.
    config.bos_token_id = config.eos_token_id = config.pad_token_id = None
    torch.manual_seed(0)
    with device:
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    return model.eval().requires_grad_(False)


def shape_of(model: PreTrainedModel) -> Shape:
    """The sizes of the inputs that are timed on a pretrained model."""
    size = head_layout(model).size
    return Shape(lambda: model.config, dtype="float32", heads=max(1, round(0.03 * size)), head_counts=(1, 8, 32))


def sharing(model: PreTrainedModel) -> PreTrainedModel:
    """A second model with the same weights in the same memory, for what would change the first one's modules."""
    weights = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return deepcopy(model, weights)


def eager(model: PreTrainedModel) -> PreTrainedModel:
    """The same weights with attention written out, as the published code has it."""
    copy = sharing(model)
    copy.set_attn_implementation("eager")
    return copy


def with_output(model: PreTrainedModel, weight: torch.Tensor) -> PreTrainedModel:
    """The same weights with other output embeddings."""
    copy = sharing(model)
    head = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    head.weight = nn.Parameter(weight, requires_grad=False)
    copy.set_output_embeddings(head)
    return copy
