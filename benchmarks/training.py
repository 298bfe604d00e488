"""Whole runs of training on a task's records: both of LoFiT's steps, LoRA and the published form, on the same batches.

Here the clock sees what a user waits for: the optimiser, the loop around it, and what is computed once for all epochs.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import PreTrainedModel

from benchmarks.loop_over_heads import LoopOverHeads
from benchmarks.measure import Result, Series, Setting, Variant, quiet
from benchmarks.shapes import eager, sharing
from benchmarks.steps import all_logits, fresh_adapter
from benchmarks.texts import Tuning
from lofit.adapters.base import Adapter
from lofit.adapters.heads import HeadAdapter
from lofit.adapters.peft import PeftAdapter
from lofit.methods import lofit as offsets
from lofit.models.forward import completion_logprobs
from lofit.models.layout import Head
from lofit.models.tokens import collate
from lofit.models.vocabulary import vocabulary_of
from lofit.rankings import scale_norm
from lofit.training.examples import Example, prepare, rows_of
from lofit.training.loop import shuffled, train
from lofit.training.objectives import completion_cross_entropy, dpo_loss, l1_penalty
from lofit.training.reference import pair_logprobs
from lofit.training.settings import TrainingSettings

SEED = 42
SHARE = 0.03
"""Of all heads, those that step 2 tunes."""

LOFIT = "lofit"
LORA = "LoRA r=8 q, v, lofit's loop, logits at labels"
LORA_ALONE = "LoRA r=8 q, v, peft alone, logits everywhere"
PUBLISHED = "published form"
LORA_CONFIG = {"peft_type": "LORA", "r": 8, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]}


@dataclass(frozen=True)
class Course:
    """Examples to train on, and how."""

    examples: list[Example]

    pad_id: int

    settings: TrainingSettings

    l1: float = 0.0

    @property
    def steps_per_epoch(self) -> int:
        return -(-len(self.examples) // self.settings.batch_size)

    @property
    def steps(self) -> int:
        return self.settings.epochs * self.steps_per_epoch

    def batch(self, step: int) -> list[Example]:
        """What lofit's loop trains on in this step."""
        epoch, at = divmod(step, self.steps_per_epoch)
        order = shuffled(len(self.examples), seed=SEED, epoch=epoch)
        size = self.settings.batch_size
        return [self.examples[i] for i in order[at * size : (at + 1) * size]]


def courses(setting: Setting, tuning: Tuning) -> tuple[Course, Course]:
    """Both steps of LoFiT on records from all of the task's training split, with the pages' own settings."""
    count = min(setting.batches * setting.shape.batch, len(tuning.records))
    records = [tuning.records[i * len(tuning.records) // count] for i in range(count)]
    tokenizer = setting.texts.with_end()
    vocabulary = vocabulary_of(setting.model, tokenizer)
    pairs = tuning.objective.kind == "dpo"
    with quiet():
        references = pair_logprobs(setting.model, tokenizer, records, tuning.objective) if pairs else None
    examples = prepare(tokenizer, records, tuning.objective, vocabulary, max_length=512, references=references)
    size = setting.shape.batch
    scales, second = scale_norm.ScaleSettings(batch_size=size), offsets.Settings(batch_size=size)
    return (
        Course(examples, vocabulary.padding, scales, l1=scales.l1),
        Course(examples, vocabulary.padding, second),
    )


def by_lofit(setting: Setting, course: Course, adapter: Adapter) -> Result:
    """The adapter trained by lofit's own loop; returns the loss of every step."""
    scales = adapter.scales if course.l1 and isinstance(adapter, HeadAdapter) else None
    rows = train(
        setting.model,
        adapter,
        course.examples,
        course.settings,
        seed=SEED,
        pad_id=course.pad_id,
        layout=setting.layout,
        penalty=(lambda: l1_penalty(scales, weight=course.l1)) if scales is not None else None,
    )
    return {"losses": torch.tensor([row["loss"] for row in rows])}


def by_hand(model: PreTrainedModel, course: Course, leaves: Sequence[Tensor]) -> Result:
    """A plain loop with the same batches, optimiser, decay and clipping, and logits at every token."""
    settings = course.settings
    optimizer = torch.optim.AdamW(leaves, lr=settings.lr, weight_decay=0.0)
    losses = []
    for step in range(course.steps):
        for group in optimizer.param_groups:
            group["lr"] = settings.lr * (course.steps - step) / course.steps
        loss = loss_everywhere(model, course, course.batch(step))
        added = course.l1 * torch.stack([leaf.abs().sum() for leaf in leaves]).sum() if course.l1 else 0.0
        (loss + added).backward()
        torch.nn.utils.clip_grad_norm_(leaves, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return {"losses": torch.tensor(losses)}


def loss_everywhere(model: PreTrainedModel, course: Course, examples: Sequence[Example]) -> Tensor:
    """The task's loss from the logits of all tokens."""
    batch = collate(rows_of(examples), pad_id=course.pad_id, device=model.device)
    labels = batch.pop("labels")
    logits = all_logits(model, batch, labels)
    if examples[0].rejected is None:
        return completion_cross_entropy(*logits)
    chosen, rejected = completion_logprobs(*logits).chunk(2)
    references = torch.tensor([example.reference for example in examples], device=model.device).T
    return dpo_loss(chosen, rejected, *references, beta=course.settings.beta)


def published(setting: Setting, course: Course, adapter: Callable[[], HeadAdapter]) -> Variant:
    """Attention written out, a loop over all heads, all logits, and torch's search for anomalies, as it ships."""
    model = eager(setting.model)

    def run() -> Result:
        edit = LoopOverHeads(adapter(), setting.layout, setting.device)
        with edit.attached(model), torch.autograd.set_detect_anomaly(True):
            return by_hand(model, course, edit.trained)

    return Variant(PUBLISHED, run, quiet, steps=course.steps)


def lora(setting: Setting, course: Course) -> list[Variant]:
    """LoRA with the batches of `course`: in lofit's loop, which is no slower than any, and as peft alone would do it.

    Its adapters go on from run to run: steps take the same time wherever they begin.
    """
    settings = course.settings.model_copy(update={"lr": 1e-3})
    plain = Course(course.examples, course.pad_id, settings)
    adapter = PeftAdapter.fresh(setting.model, LORA_CONFIG, seed=SEED).to(setting.device)
    model = sharing(setting.model)
    config = LoraConfig(**{name: value for name, value in LORA_CONFIG.items() if name != "peft_type"})
    leaves = [weight for weight in get_peft_model(model, config).parameters() if weight.requires_grad]

    def without_results(run: Callable[[], Result]) -> Result:
        run()
        return {}

    runs = {LORA: partial(by_lofit, setting, plain, adapter), LORA_ALONE: partial(by_hand, model, plain, leaves)}
    return [Variant(name, partial(without_results, run), quiet, steps=course.steps) for name, run in runs.items()]


def chosen_heads(setting: Setting, course: Course) -> list[Head]:
    """The heads with the largest scales after step 1 on these examples."""
    adapter = fresh_adapter(setting, setting.layout.all_heads(), "scales")
    with quiet():
        by_lofit(setting, course, adapter)
    norms = adapter.scales.detach().norm(dim=-1)
    count = max(1, round(SHARE * setting.layout.size))
    return sorted(adapter.heads[i] for i in norms.argsort(descending=True)[:count].tolist())


def side_by_side(setting: Setting, course: Course, heads: Sequence[Head], vectors: str) -> list[Variant]:
    fresh = partial(fresh_adapter, setting, heads, vectors)
    ours = Variant(LOFIT, lambda: by_lofit(setting, course, fresh()), quiet, steps=course.steps)
    return [ours, *lora(setting, course), published(setting, course, fresh)]


def whole_runs(setting: Setting) -> Iterator[Series]:
    """Both steps on each task."""
    for name, tuning in setting.texts.tuning.items():
        first, second = courses(setting, tuning)
        tokens = [len(row.ids) for example in first.examples for row in rows_of([example])]
        kind = "preference pairs" if tuning.objective.kind == "dpo" else "completions"
        note = (
            f"{len(first.examples)} {kind} of {name}, {sum(tokens) / len(tokens):.0f} tokens to a row on average, in "
            f"batches of {first.settings.batch_size}, {first.settings.epochs} epochs: {first.steps} steps. Time and "
            "work are those of one step, the optimiser included, and of what is computed once, a share. *Published "
            "form*: attention written out, a Python loop over all heads of all layers, logits everywhere, and "
            "`torch.autograd.set_detect_anomaly`, which it leaves on. Difference: of the losses of all steps from "
            "lofit's."
        )
        every = setting.layout.all_heads()
        yield Series("training", f"{name}, step 1", side_by_side(setting, first, every, "scales"), note)
        heads = chosen_heads(setting, first)
        lowest = f" The {len(heads)} heads are those of step 1; the lowest is in layer {heads[0][0]}."
        yield Series("training", f"{name}, step 2", side_by_side(setting, second, heads, "offsets"), note + lowest)
