"""The frozen prefix of step 2: what the layers below the lowest tuned head make of each example, computed once.

Below the lowest tuned head nothing changes while offsets are trained, so every epoch computes there what the first one
did. These hidden states are kept for each example, in the model's dtype, and the layers that made them are left out.
"""

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm
from transformers import PreTrainedModel

from lofit.models.forward import labelled_logits
from lofit.models.layout import HeadLayout, hidden_size
from lofit.models.tokens import IGNORED, Encoded, collate, longest_first

LEAST_SAVING = 0.1
"""Share of a step's time below which keeping anything is not worth its budget."""

TOLERANCE = 1e-3
"""Largest difference of a logit between a pass that starts from what is kept and a whole one, per largest logit."""

GB = 1e9


@dataclass(frozen=True)
class PrefixBudget:
    """Where hidden states may be kept."""

    memory_gb: float = 4.0
    """Up to this size in memory, beyond it in a file mapped into memory."""

    folder: Path | None = None
    """Where that file may be; None for nowhere. It has no name there and is gone when the process ends."""


class KeptPrefix:
    """Hidden states that enter a layer of a model, for some rows; right-padded batches of these rows can start there.

    Args:
        layers: those that made the states, which `in_place` leaves out.
        rows: each one once.
        states: the states of all rows, one after the other: tokens x hidden size.
        alone: whether a layer returns its hidden states alone, or first in a tuple.
    """

    def __init__(self, layers: Sequence[nn.Module], rows: Sequence[Encoded], states: Tensor, *, alone: bool) -> None:
        self.layers = layers
        self.states = states
        self.alone = alone
        self.places = slices(rows)

    @contextmanager
    def in_place(self, rows: Sequence[Encoded], device: torch.device) -> Iterator[None]:
        """Until the block ends, the model's pass over a batch of these rows begins with what was kept of them."""
        states = [self.states[self.places[row]] for row in rows]
        hidden = nn.utils.rnn.pad_sequence(states, batch_first=True).to(device)
        output = hidden if self.alone else (hidden, None)
        with replaced(self.layers, lambda: output):
            yield


def keep_prefix(
    model: PreTrainedModel,
    layout: HeadLayout,
    lowest: int,
    rows: Sequence[Encoded],
    *,
    pad_id: int,
    batch_size: int,
    budget: PrefixBudget | None = None,
    name: str = "",
) -> KeptPrefix | None:
    """Run `rows` through the layers below `lowest` and keep the result, or say why not and return None.

    Prints what that takes before it starts. Call it before the adapter is attached.

    Args:
        lowest: the lowest layer that is trained, counted among those with heads.
        name: what to call the work in messages and the progress bar.
    """
    budget = budget or PrefixBudget()
    rows = list(dict.fromkeys(rows))
    below, above = split_layers(model, layout, lowest)
    width = hidden_size(model)
    tokens = sum(len(row.ids) for row in rows)
    size = tokens * width * model.dtype.itemsize / GB
    if reason := obstacle(below, above, size, budget):
        tqdm.write(f"{name}: every step runs all layers: {reason}")
        return None
    in_file = size > budget.memory_gb
    tqdm.write(
        f"{name}: keeping the output of the lower {len(below)} of {len(below) + len(above)} layers: {tokens:,} tokens, "
        f"{size:.2f} GB {'on disk' if in_file else 'in memory'}; "
        f"a step should take about {saving(below, above):.0%} less time"
    )
    try:
        states = storage(tokens, width, model.dtype, budget.folder if in_file else None)
        alone = fill(states, model, below, above, rows, pad_id=pad_id, batch_size=batch_size, name=name)
        kept = KeptPrefix(below, rows, states, alone=alone)
        check(kept, model, sorted(rows, key=lambda row: -len(row.ids))[:batch_size], pad_id=pad_id)
    # Whatever an unusual decoder does with its layers, it can still be trained without this.
    except Exception as error:
        reason = f"{type(model).__name__} cannot start from there ({repr(error).splitlines()[0]})"
        tqdm.write(f"{name}: every step runs all layers: {reason}")
        return None
    return kept


def obstacle(below: Sequence[nn.Module], above: Sequence[nn.Module], size: float, budget: PrefixBudget) -> str | None:
    """Why the output of the layers below, `size` GB, is not to be kept; None where it is."""
    if saving(below, above) < LEAST_SAVING:
        return f"only {len(below)} of {len(below) + len(above)} layers lie below the lowest tuned head"
    if any(drops_out(layer) for layer in below):
        return "dropout is at work in the layers below"
    free = shutil.disk_usage(budget.folder).free / GB if budget.folder else 0.0
    if size > max(budget.memory_gb, 0.9 * free):
        return f"{size:.2f} GB are too much for {budget.memory_gb:g} GB of memory and {free:.1f} GB of disk"
    return None


def saving(below: Sequence[nn.Module], above: Sequence[nn.Module]) -> float:
    """Share of a step that the layers below are: it goes forward through all layers, and back through those above."""
    return len(below) / (len(below) + 2 * len(above)) if above else 0.0


@torch.no_grad()
def fill(
    states: Tensor,
    model: PreTrainedModel,
    below: Sequence[nn.Module],
    above: Sequence[nn.Module],
    rows: Sequence[Encoded],
    *,
    pad_id: int,
    batch_size: int,
    name: str,
) -> bool:
    """Write what `below` makes of `rows` into `states`; returns whether it comes alone, or first in a tuple."""
    places = slices(rows)
    output: Any = None

    def see(_: nn.Module, __: tuple, seen: Any) -> None:
        nonlocal output
        output = seen

    bar = tqdm(total=len(rows), desc=f"{name}, lower layers", unit="row")
    with below[-1].register_forward_hook(see), replaced(above, lambda: output), bar:
        for indices in longest_first([len(row.ids) for row in rows], batch_size=batch_size):
            batch = collate([rows[i] for i in indices], pad_id=pad_id, device=model.device)
            labelled_logits(model, batch, torch.full_like(batch.pop("labels"), IGNORED))
            for i, hidden in zip(indices, output if isinstance(output, Tensor) else output[0], strict=True):
                states[places[rows[i]]] = hidden[: len(rows[i].ids)].to(states)
            bar.update(len(indices))
    return isinstance(output, Tensor)


@torch.no_grad()
def check(kept: KeptPrefix, model: PreTrainedModel, rows: Sequence[Encoded], *, pad_id: int) -> None:
    """A ValueError where the model's logits are others when it starts from what was kept."""
    batch = collate(rows, pad_id=pad_id, device=model.device)
    labels = batch.pop("labels")
    whole, _ = labelled_logits(model, batch, labels)
    with kept.in_place(rows, model.device):
        short, kept_labels = labelled_logits(model, batch, labels)
    # Positions without a label may be padding.
    counted = kept_labels[:, 1:] != IGNORED
    whole, short = (logits[:, :-1][counted].float() for logits in (whole, short))
    if not (distance := (whole - short).abs().max()) <= TOLERANCE * whole.abs().max():
        raise ValueError(f"logits differ by {distance:.2g}")


def split_layers(model: PreTrainedModel, layout: HeadLayout, lowest: int) -> tuple[list[nn.Module], list[nn.Module]]:
    """The layers below `lowest`, counted among those with heads, and the others; none where layers are in no list."""
    path = layout.projections[lowest].split(".")
    at = next((at for at, part in enumerate(path) if part.isdecimal()), None)
    if at is None:
        return [], []
    layers, lowest = list(model.get_submodule(".".join(path[:at])).children()), int(path[at])
    return layers[:lowest], layers[lowest:]


def drops_out(layer: nn.Module) -> bool:
    """Whether dropout is at work in a layer, by a module of its own or by a rate that its attention reads."""
    modules = (module for module in layer.modules() if module.training)
    rates = (vars(module).items() for module in modules)
    return any(
        type(rate) is float and rate > 0
        for module in rates
        for name, rate in module
        if name == "p" or "dropout" in name
    )


def slices(rows: Sequence[Encoded]) -> dict[Encoded, slice]:
    """Where the tokens of each row are, if all rows stand one after the other."""
    ends = list(accumulate(len(row.ids) for row in rows))
    return {row: slice(end - len(row.ids), end) for row, end in zip(rows, ends, strict=True)}


def storage(tokens: int, width: int, dtype: torch.dtype, folder: Path | None) -> Tensor:
    """Room for tokens x width numbers, in memory or in a file of `folder`."""
    if folder is None:
        return torch.empty(tokens, width, dtype=dtype)
    with tempfile.TemporaryDirectory(dir=folder) as home:
        # On POSIX a file without a name lives as long as it is mapped, so that no kill can leave it behind.
        mapped = torch.from_file(str(Path(home, "states")), shared=True, size=tokens * width, dtype=dtype)
    return mapped.view(tokens, width)


@contextmanager
def replaced(layers: Sequence[nn.Module], output: Callable[[], Any]) -> Iterator[None]:
    """Until the block ends, the layers compute nothing and return what `output` does."""
    before = [vars(layer).get("forward") for layer in layers]
    for layer in layers:
        layer.forward = lambda *_, **__: output()
    try:
        yield
    finally:
        for layer, forward in zip(layers, before, strict=True):
            # Accelerate, where it spreads a model, has put a forward of its own there.
            if forward is None:
                del layer.forward
            else:
                layer.forward = forward
