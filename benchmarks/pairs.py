"""Preference pairs: as two whole rows, or with their prompt read once: a prototype, for what it would gain."""

from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from benchmarks.measure import Result, Series, Setting, Variant
from benchmarks.steps import BETA, PAD, fresh_adapter, spread, trained
from lofit.adapter import HeadAdapter
from lofit.completions import Encoded, collate
from lofit.forward import labelled_logits
from lofit.logprobs import cut, score_completions
from lofit.objectives import completion_logprobs, dpo_loss
from lofit.training import Example, task_loss


def random_pairs(setting: Setting, prompt: int) -> list[Example]:
    """Pairs of random tokens, about `prompt` before about `setting.shape.answer`, with references."""
    generator = torch.Generator().manual_seed(0)

    def tokens(around: int) -> tuple[int, ...]:
        # A quarter more or less, as texts differ in length.
        low, high = around - around // 4, around + around // 4 + 1
        length = int(torch.randint(low, high, (1,), generator=generator))
        return tuple(torch.randint(setting.model.config.vocab_size, (length,), generator=generator).tolist())

    rows: list[tuple[Encoded, Encoded]] = []
    for _ in range(setting.shape.batch):
        ids = tokens(prompt)
        chosen, rejected = (Encoded(ids + tokens(setting.shape.answer), len(ids)) for _ in range(2))
        rows.append((chosen, rejected))
    flat = [row for pair in rows for row in pair]
    scores = iter(score_completions(setting.model, flat, pad_id=PAD, batch_size=setting.shape.batch))
    return [Example(*pair, (next(scores), next(scores))) for pair in rows]


def shared_prompt_loss(model: PreTrainedModel, examples: Sequence[Example]) -> Tensor:
    """DPO's loss with the tokens of each prompt, less its last one, going through the model once."""
    # The last token of a prompt predicts the first one of its completion.
    prompts = [example.chosen.ids[: example.chosen.start - 1] for example in examples]
    width = max(map(len, prompts))
    # Padded on the left, so that what follows begins in one column.
    ids = torch.tensor([[PAD] * (width - len(prompt)) + list(prompt) for prompt in prompts], device=model.device)
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=model.device)
    mask = (torch.arange(width, device=model.device) >= width - lengths[:, None]).long()
    cache = DynamicCache(config=model.config)
    model.base_model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=(mask.cumsum(1) - 1).clamp(min=0),
        past_key_values=cache,
        use_cache=True,
    )
    cache.batch_repeat_interleave(2)
    rows = [
        cut(row, len(prompt))
        for example, prompt in zip(examples, prompts, strict=True)
        for row in (example.chosen, example.rejected)
        if row is not None
    ]
    batch = collate(rows, pad_id=PAD, device=model.device)
    labels = batch.pop("labels")
    positions = lengths.repeat_interleave(2)[:, None] + torch.arange(labels.shape[1], device=model.device)
    batch["attention_mask"] = torch.cat([mask.repeat_interleave(2, 0), batch["attention_mask"]], dim=1)
    inputs = {**batch, "position_ids": positions, "past_key_values": cache, "use_cache": True}
    chosen, rejected = completion_logprobs(*labelled_logits(model, inputs, labels)).view(-1, 2).T
    references = torch.tensor([example.reference for example in examples], device=model.device).T
    return dpo_loss(chosen, rejected, *references, beta=BETA)


def preference_pairs(setting: Setting) -> Iterator[Series]:
    shape, layout = setting.shape, setting.layout
    adapter = fresh_adapter(setting, spread(layout.grid(), shape.heads))
    around = partial(adapter.attach, setting.model, layout)
    variants = []
    for prompt in shape.prompts:
        examples = random_pairs(setting, prompt)
        variants += [
            Variant("lofit, two whole rows", partial(separate, setting, adapter, examples), around, prompt),
            Variant("prototype, prompt read once", partial(shared, setting, adapter, examples), around, prompt),
        ]
    note = (
        f"DPO, {shape.batch} pairs, offsets of {shape.heads} heads from layer 0 on, answers of about {shape.answer} "
        "tokens. The prototype keeps the prompts' keys and values with their gradients."
    )
    yield Series("pairs", "prompt length", variants, note, grows="tokens in a prompt")


def separate(setting: Setting, adapter: HeadAdapter, examples: Sequence[Example]) -> Result:
    return trained(task_loss(setting.model, examples, pad_id=PAD, beta=BETA), list(adapter.parameters()))


def shared(setting: Setting, adapter: HeadAdapter, examples: Sequence[Example]) -> Result:
    return trained(shared_prompt_loss(setting.model, examples), list(adapter.parameters()))
