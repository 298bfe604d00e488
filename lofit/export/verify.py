"""An export is believed only once another process has read it from disk and given the edited model's logits."""

import gc
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lofit.adapters.base import Adapter
from lofit.errors import LofitError
from lofit.export.read_back import in_float32
from lofit.models.layout import HeadLayout

PROMPTS = (
    "Q: What do bees make?\nA:",
    "The capital of France is",
    "Imagine that Ada Lovelace was born in Norway. The language spoken there is",
    "If Ann is the mother of Ben and Ben is the brother of Carl, then Ann is Carl's",
    "Once upon a time, in a village by the sea, there lived",
)
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.02, "float16": 0.02, "quantised": 0.25}
"""Largest difference allowed, as a share of the effect.

An export that has lost the edit differs by all of it, one that has lost a head of many by a few percent. Weights in 16
bits are compared by arithmetic in float32, which leaves the rounding of the folded weights alone: 0.4 % on tiny random
models. LLM.int8 rounds a head's output again, which took up to 12 % there.
"""

READ_BACK = Path(__file__).with_name("read_back.py")
WITHOUT_LOFIT = """
import runpy, sys
sys.modules["lofit"] = None
runpy.run_path(sys.argv.pop(1), run_name="__main__")
"""
"""Runs a script in a process in which `import lofit` fails, installed or not."""


@dataclass(frozen=True)
class Expected:
    """What an export must reproduce: logits (tokens x vocabulary, float32, on the CPU) of each row of token ids."""

    rows: list[Tensor]

    base: list[Tensor]
    """Of the model as it is."""

    edited: list[Tensor]
    """Of the model with the adapter attached."""

    @property
    def effect(self) -> float:
        """Largest change of a logit that the adapter makes."""
        return largest_difference(self.base, self.edited)


@dataclass(frozen=True)
class Verification:
    """How far an export is from the model with the adapter attached."""

    difference: float
    """Largest absolute difference of a logit."""

    effect: float
    """Largest absolute change of a logit that the adapter makes."""

    tolerance: float
    """Allowed difference, as a share of the effect."""

    dtype: str

    libraries: dict[str, str]
    """Versions that the export was read back with."""

    def __str__(self) -> str:
        return (
            f"read back by transformers {self.libraries['transformers']} in a process without lofit: largest "
            f"difference of a logit {self.difference:.2g}, beside an effect of {self.effect:.2g} ({self.dtype})"
        )


def fixed_rows(tokenizer: PreTrainedTokenizerBase | None, vocab_size: int) -> list[Tensor]:
    """Rows of token ids to compare logits on: a few English prompts, and ids from the whole vocabulary.

    The last make a tokenizer that does not know English, or none at all, no obstacle.
    """
    texts = [] if tokenizer is None else [torch.tensor(tokenizer(text)["input_ids"]) for text in PROMPTS]
    spread = [torch.arange(start, vocab_size, max(vocab_size // 16, 1))[:16] for start in (1, 2)]
    return [row for row in (*texts, *spread) if len(row) and int(row.max()) < vocab_size]


@torch.no_grad()
def logits(model: PreTrainedModel, rows: Sequence[Tensor]) -> list[Tensor]:
    """Logits of each row by itself, float32, on the CPU."""
    return [model(row[None].to(model.device)).logits[0].float().cpu() for row in rows]


def expect(model: PreTrainedModel, adapter: Adapter, layout: HeadLayout, rows: Sequence[Tensor]) -> Expected:
    """Measure what an export of `adapter` must reproduce; leaves the model as it is.

    Raises:
        LofitError: the adapter is empty, or changes no logit, so that nothing could tell whether an export has kept it.
    """
    if not any(tensor.numel() for tensor in adapter.tensors().values()):
        raise LofitError(f"adapter: got no vectors ({extent(adapter)}); expected scales or offsets of a head or layer")
    with in_float32(model) if is_wide(model) else nullcontext():
        base = logits(model, rows)
        with adapter.attach(model, layout):
            expected = Expected(list(rows), base, logits(model, rows))
    if not expected.effect > 0:
        raise LofitError(
            f"adapter: its effect on the logits of {len(rows)} fixed prompts is {expected.effect:g}; expected one that "
            "can be seen, as nothing else tells an export that has kept it from one that has not"
        )
    return expected


def extent(adapter: Adapter) -> str:
    """What an adapter edits, counted."""
    counts = [(len(getattr(adapter, name)), name) for name in ("heads", "layers") if hasattr(adapter, name)]
    return ", ".join(f"{count} {name}" for count, name in counts) or adapter.kind


def is_wide(model: PreTrainedModel) -> bool:
    """Whether to compare by arithmetic in float32: weights in 16 bits that are not quantised."""
    return model.dtype != torch.float32 and getattr(model, "hf_quantizer", None) is None


def largest_difference(some: Sequence[Tensor], others: Sequence[Tensor]) -> float:
    """Largest absolute difference between tensors of the same shapes; NaN where a tensor holds NaN."""
    # Not Python's max, which may leave a NaN out.
    return torch.stack([(one - other).abs().max() for one, other in zip(some, others, strict=True)]).max().item()


def verify(
    folder: Path,
    expected: Expected,
    *,
    dtype: str,
    device: torch.device | str = "cpu",
    quantised: bool = False,
    quantization_config: dict | None = None,
    revision: str | None = None,
    tolerance: float | None = None,
) -> Verification:
    """Load `folder` in a fresh process in which lofit cannot be imported, and compare its logits with `expected`.

    Args:
        folder: what `AutoModelForCausalLM.from_pretrained` can read: a checkpoint or a PEFT adapter.
        dtype: of the weights: float32, bfloat16 or float16.
        quantised: whether the base model is.
        quantization_config: how bitsandbytes is to quantise the weights while they are loaded.
        revision: of the base model on the hub, for a PEFT adapter.
        tolerance: allowed difference as a share of the effect, in place of the one in `TOLERANCE`.

    Raises:
        LofitError: the folder does not load, or holds weights that the architecture has no place for, or lacks some;
            or the logits are further from the expected ones than the tolerance allows.
    """
    allowed = TOLERANCE["quantised" if quantised else dtype] if tolerance is None else tolerance
    if not 0 <= allowed < 1:
        raise LofitError(
            f"tolerance: got {allowed:g}; expected from 0 to below 1, as 1 is the loss of the whole effect"
        )
    settings = {
        **{"dtype": dtype, "device": str(device), "wide": dtype != "float32" and not quantised},
        **{"quantization_config": quantization_config, "revision": revision},
    }
    # No model is left by now, but its memory may not be free yet, and the other process needs it.
    gc.collect()
    if torch.accelerator.is_available():
        torch.accelerator.empty_cache()
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".verify-") as scratch:
        inputs, outputs = Path(scratch, "inputs.safetensors"), Path(scratch, "outputs.safetensors")
        names = [f"row_{index}" for index in range(len(expected.rows))]
        save_file({name: row.contiguous() for name, row in zip(names, expected.rows, strict=True)}, inputs)
        script: list[str | Path] = [READ_BACK, folder, inputs, outputs, json.dumps(settings)]
        done = subprocess.run(
            [sys.executable, "-c", WITHOUT_LOFIT, *script], capture_output=True, text=True, check=False
        )
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise LofitError(f"{folder.name}: the export does not load as it should ({reason})")
        found = load_file(outputs)
    libraries = {name: version(name) for name in ("torch", "transformers", "peft")}
    difference = largest_difference([found[name] for name in names], expected.edited)
    verification = Verification(difference, expected.effect, allowed, dtype, libraries)
    # Written so that NaN fails too.
    if not difference <= allowed * expected.effect:
        raise LofitError(
            f"{folder.name}: the export, read back from disk, differs from the model with the adapter attached by "
            f"{difference:.2g} in a logit, where the adapter's effect is {expected.effect:.2g}; expected "
            f"{allowed:g} of the effect (a weak effect drowns in rounding: float32 has the least)"
        )
    return verification
