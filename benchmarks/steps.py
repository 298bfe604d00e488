"""Training steps of both kinds beside the bare model, LoRA and the published loop; and logits only at labels."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import PreTrainedModel

from benchmarks.loop_over_heads import LoopOverHeads
from benchmarks.measure import Result, Series, Setting, Variant
from benchmarks.shapes import eager, sharing, with_output
from lofit.adapters.heads import HeadAdapter
from lofit.models.forward import labelled_logits
from lofit.models.layout import Head
from lofit.models.tokens import Encoded, collate
from lofit.training.examples import Example
from lofit.training.initial import fresh_vectors
from lofit.training.loss import task_loss
from lofit.training.objectives import completion_cross_entropy

PAD = 0
BETA = 0.5


def random_rows(setting: Setting, count: int, length: int, labels: int, *, seed: int = 0) -> list[Encoded]:
    """Rows of random tokens, the last `labels` of which are the completion."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(setting.model.config.vocab_size, (count, length), generator=generator)
    return [Encoded(tuple(row), length - labels) for row in ids.tolist()]


def spread(heads: Sequence[Head], count: int) -> list[Head]:
    """`count` of these heads at even distances, the first one among them."""
    return [heads[i * len(heads) // count] for i in range(min(count, len(heads)))]


def upper(setting: Setting, lowest: int) -> list[Head]:
    """All heads from layer `lowest` on."""
    return [head for head in setting.layout.all_heads() if head[0] >= lowest]


def fresh_adapter(setting: Setting, heads: Sequence[Head], vectors: str = "offsets") -> HeadAdapter:
    values = fresh_vectors(len(heads), setting.layout.head_dim, seed=0).to(setting.device)
    return HeadAdapter(heads, **{vectors: values})


def trained(loss: Tensor, vectors: Sequence[Tensor]) -> Result:
    """The loss and its gradients, as results that must agree."""
    gradients = torch.autograd.grad(loss, vectors)
    return {"loss": loss.detach(), "gradient": torch.cat([gradient.reshape(-1) for gradient in gradients])}


def all_logits(model: PreTrainedModel, batch: dict[str, Any], labels: Tensor) -> tuple[Tensor, Tensor]:
    return model(**batch, use_cache=False).logits, labels


def cross_entropy(
    model: PreTrainedModel, rows: Sequence[Encoded], logits: Callable[..., tuple[Tensor, Tensor]]
) -> Tensor:
    """The loss of a batch, with the logits made by `labelled_logits` or `all_logits`."""
    batch = collate(rows, pad_id=PAD, device=model.device)
    labels = batch.pop("labels")
    return completion_cross_entropy(*logits(model, batch, labels))


def ours(setting: Setting, adapter: HeadAdapter, rows: Sequence[Encoded], name: str, **more: Any) -> Variant:
    """`lofit`'s own step: the loss on a batch, and the gradients of the vectors."""
    examples = [Example(row) for row in rows]
    kept = {"kept": more.pop("kept")} if "kept" in more else {}

    def run() -> Result:
        loss = task_loss(setting.model, examples, pad_id=PAD, beta=BETA, **kept)
        return trained(loss, list(adapter.parameters()))

    return Variant(name, run, partial(adapter.attach, setting.model, setting.layout), **more)


def bare(setting: Setting, rows: Sequence[Encoded], lowest: int, name: str, logits: Callable) -> Variant:
    """The model as it is, and the gradient of the hidden states that enter layer `lowest`: no method does less."""
    layer = setting.layout.projections[lowest].rpartition(".self_attn.")[0]
    entered: list[Tensor] = []

    def require(_: nn.Module, args: tuple) -> tuple:
        entered[:] = [args[0].detach().requires_grad_()]
        # A view, as torch's counter of operations allows no leaf as a module's input.
        return (entered[0].view_as(entered[0]), *args[1:])

    def run() -> Result:
        torch.autograd.grad(cross_entropy(setting.model, rows, logits), entered)
        entered.clear()
        return {}

    return Variant(name, run, lambda: hooked(setting.model.get_submodule(layer), require))


@contextmanager
def hooked(module: nn.Module, hook: Callable) -> Iterator[None]:
    with module.register_forward_pre_hook(hook):
        yield


def lora(setting: Setting, rows: Sequence[Encoded], name: str, logits: Callable, layers: list[int]) -> Variant:
    """LoRA of rank 8 at q_proj and v_proj, its usual places, on a model of the same weights."""
    model = sharing(setting.model)
    config = LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"], layers_to_transform=layers)
    vectors = [weight for weight in get_peft_model(model, config).parameters() if weight.requires_grad]

    def run() -> Result:
        torch.autograd.grad(cross_entropy(model, rows, logits), vectors)
        return {}

    return Variant(name, run)


def loop(
    setting: Setting, adapter: HeadAdapter, rows: Sequence[Encoded], name: str, *, anomaly: bool = False
) -> Variant:
    """The published form: attention written out, a loop over all heads, logits everywhere."""
    model = eager(setting.model)
    edit = LoopOverHeads(adapter, setting.layout, setting.device)

    @contextmanager
    def around() -> Iterator[None]:
        with edit.attached(model), torch.autograd.set_detect_anomaly(anomaly):
            yield

    return Variant(name, lambda: trained(cross_entropy(model, rows, all_logits), edit.trained), around)


def loop_alone(setting: Setting, adapter: HeadAdapter, rows: Sequence[Encoded], name: str) -> Variant:
    """The loop over all heads in place of the hook, everything else as `lofit` has it."""
    edit = LoopOverHeads(adapter, setting.layout, setting.device)
    return Variant(
        name,
        lambda: trained(cross_entropy(setting.model, rows, labelled_logits), edit.trained),
        lambda: edit.attached(setting.model, clone=True),
    )


def everywhere(setting: Setting, adapter: HeadAdapter, rows: Sequence[Encoded], name: str) -> Variant:
    """`lofit`'s edit with logits at every token."""
    vectors = list(adapter.parameters())
    run = partial(cross_entropy, setting.model, rows, all_logits)
    return Variant(name, lambda: trained(run(), vectors), partial(adapter.attach, setting.model, setting.layout))


def comparisons(setting: Setting, adapter: HeadAdapter, rows: Sequence[Encoded]) -> list[Variant]:
    """What a training step is compared with; the lowest head of `adapter` says how far back a step must go."""
    lowest = min(layer for layer, _ in adapter.heads)
    layers = list(range(setting.layout.num_layers))
    variants = [
        everywhere(setting, adapter, rows, "logits everywhere"),
        bare(setting, rows, lowest, "bare model, logits at labels", labelled_logits),
        bare(setting, rows, lowest, "bare model, logits everywhere", all_logits),
        lora(setting, rows, "LoRA r=8 q, v, logits at labels", labelled_logits, layers),
        lora(setting, rows, "LoRA r=8 q, v, logits everywhere", all_logits, layers),
    ]
    if lowest:
        name = f"LoRA r=8 q, v from layer {lowest} on, logits at labels"
        variants.append(lora(setting, rows, name, labelled_logits, layers[lowest:]))
    return [
        *variants,
        loop_alone(setting, adapter, rows, "loop over heads, logits at labels"),
        loop(setting, adapter, rows, "published form"),
        loop(setting, adapter, rows, "published form, detect_anomaly", anomaly=True),
    ]


NOTE = (
    "Forward and backward, without the optimiser's step. *Bare model*: no edit, gradient down to the hidden states "
    "that enter the lowest edited layer. *Published form*: attention written out, a Python loop over all heads of all "
    "layers, logits everywhere; *detect_anomaly* is how it leaves `torch.autograd`. Difference: of the loss and the "
    "vectors' gradients from lofit's."
)


def step_one(setting: Setting) -> Iterator[Series]:
    """Scales of all heads."""
    shape = setting.shape
    rows = random_rows(setting, shape.batch, shape.length, shape.labels)
    adapter = fresh_adapter(setting, setting.layout.all_heads(), "scales")
    variants = [ours(setting, adapter, rows, "lofit"), *comparisons(setting, adapter, rows)]
    title = f"scales of all {setting.layout.size} heads, {shape.labels} labels in {shape.batch} x {shape.length} tokens"
    yield Series("step1", title, variants, NOTE)


def label_growth(setting: Setting) -> Iterator[Series]:
    """Logits everywhere or only where a label is, as vocabulary and rows grow."""
    shape = setting.shape
    adapter = fresh_adapter(setting, setting.layout.all_heads(), "scales")
    names = ("lofit, logits at labels", "logits everywhere")
    variants = []
    for size in shape.vocabularies:
        generator = torch.Generator(setting.device).manual_seed(0)
        width = setting.model.config.hidden_size
        weight = 0.02 * torch.randn(size, width, generator=generator, device=setting.device)
        model = with_output(setting.model, weight.to(setting.dtype))
        # Labels have to be tokens of the smallest vocabulary.
        rows = [
            Encoded(tuple(token % min(shape.vocabularies) for token in row.ids), row.start)
            for row in random_rows(setting, shape.batch, shape.length, shape.labels)
        ]
        for name, logits in zip(names, (labelled_logits, all_logits), strict=True):
            run = partial(step, model, rows, logits, adapter)
            variants.append(Variant(name, run, partial(adapter.attach, model, setting.layout), size))
    yield Series("labels", "vocabulary", variants, "A step-1 step.", grows="tokens in the vocabulary", shows="memory")
    variants = []
    for size in shape.lengths:
        rows = random_rows(setting, shape.batch, size, shape.labels)
        for name, logits in zip(names, (labelled_logits, all_logits), strict=True):
            run = partial(step, setting.model, rows, logits, adapter)
            variants.append(Variant(name, run, partial(adapter.attach, setting.model, setting.layout), size))
    yield Series("labels", "row length", variants, "A step-1 step.", grows="tokens in a row", shows="memory")


def step(model: PreTrainedModel, rows: Sequence[Encoded], logits: Callable, adapter: HeadAdapter) -> Result:
    return trained(cross_entropy(model, rows, logits), list(adapter.parameters()))
