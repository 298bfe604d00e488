"""Several seeds: one after another, or in one pass with an offset per row. The second is a prototype, for its gain."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.measure import Result, Series, Setting, Variant
from benchmarks.steps import BETA, PAD, random_rows, spread
from lofit.adapter import HeadAdapter
from lofit.completions import Encoded, collate
from lofit.forward import labelled_logits
from lofit.heads import Head
from lofit.objectives import IGNORED, completion_logprobs
from lofit.training import Example, fresh_vectors, task_loss


@contextmanager
def offsets_by_row(setting: Setting, heads: Sequence[Head], offsets: Tensor) -> Iterator[None]:
    """Add offsets, seeds x K x head_dim, at these heads; the rows of a batch are seed after seed, as many of each."""
    layout = setting.layout

    def edited(z: Tensor, layer: int) -> Tensor:
        places = [place for place, (at, _) in enumerate(heads) if at == layer]
        columns = torch.tensor([heads[place][1] for place in places], device=z.device)[:, None] * layout.head_dim
        columns = columns + torch.arange(layout.head_dim, device=z.device)
        full = torch.zeros(len(offsets), layout.num_heads * layout.head_dim, device=z.device)
        full = full.index_put((torch.arange(len(offsets), device=z.device)[:, None, None], columns), offsets[:, places])
        return (z + full.repeat_interleave(len(z) // len(offsets), 0)[:, None]).to(z.dtype)

    def hook(_: nn.Module, args: tuple, layer: int) -> tuple:
        return (edited(args[0], layer), *args[1:])

    with ExitStack() as stack:
        for layer in sorted({layer for layer, _ in heads}):
            module = setting.model.get_submodule(layout.projections[layer])
            stack.enter_context(module.register_forward_pre_hook(partial(hook, layer=layer)))
        yield


def one_by_one(setting: Setting, adapters: Sequence[HeadAdapter], batches: Sequence[Sequence[Example]]) -> Result:
    losses, gradients = [], []
    for adapter, batch in zip(adapters, batches, strict=True):
        with adapter.attach(setting.model, setting.layout):
            loss = task_loss(setting.model, batch, pad_id=PAD, beta=BETA)
            gradients += torch.autograd.grad(loss, list(adapter.parameters()))
        losses.append(loss.detach())
    return {"losses": torch.stack(losses), "gradients": torch.stack(gradients)}


def at_once(setting: Setting, offsets: Tensor, rows: Sequence[Encoded]) -> Result:
    batch = collate(rows, pad_id=PAD, device=setting.device)
    labels = batch.pop("labels")
    logprobs = completion_logprobs(*labelled_logits(setting.model, batch, labels)).view(len(offsets), -1)
    counted = (labels[:, 1:] != IGNORED).view(len(offsets), -1).sum(1)
    losses = -logprobs.sum(1) / counted
    (gradients,) = torch.autograd.grad(losses.sum(), offsets)
    return {"losses": losses.detach(), "gradients": gradients}


def several_seeds(setting: Setting) -> Iterator[Series]:
    shape, layout = setting.shape, setting.layout
    heads = spread(layout.grid(), shape.heads)
    variants = []
    for count in shape.seeds:
        vectors = [fresh_vectors(len(heads), layout.head_dim, seed=seed).to(setting.device) for seed in range(count)]
        batches = [random_rows(setting, shape.batch, shape.length, shape.labels, seed=seed) for seed in range(count)]
        adapters = [HeadAdapter(heads, offsets=vector) for vector in vectors]
        offsets = torch.stack(vectors).requires_grad_()
        examples = [[Example(row) for row in rows] for rows in batches]
        flat = [row for rows in batches for row in rows]
        variants += [
            Variant("lofit, one after another", partial(one_by_one, setting, adapters, examples), size=count),
            Variant(
                "prototype, in one pass",
                partial(at_once, setting, offsets, flat),
                partial(offsets_by_row, setting, heads, offsets),
                size=count,
            ),
        ]
    note = f"Offsets of {shape.heads} heads from layer 0 on; each seed has {shape.batch} x {shape.length} tokens."
    yield Series("seeds", "seeds at once", variants, note, grows="seeds")
