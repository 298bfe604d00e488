"""Answers in a model's own words: prompt by prompt without a cache, or in batches that end where their answers do."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from zlib import crc32

import torch
from transformers import PreTrainedModel

from benchmarks.measure import Result, Series, Setting, Variant, quiet
from benchmarks.shapes import with_output
from lofit.models.generation import generate

LONGEST = 8
"""Words of the longest answer."""


def wanted(text: str) -> int | None:
    """How many words the answer that begins so has: 1 to `LONGEST`, by its first word; None before that is whole.

    A random model never writes the line break that ends real answers, so that its own words have to say where.
    """
    words = text.split()
    return 1 + crc32(words[0].encode()) % LONGEST if len(words) > 1 else None


def has_ended(text: str) -> bool:
    count = wanted(text)
    return count is not None and len(text.split()) > count


def answer(text: str) -> str:
    """The words that count."""
    return " ".join(text.split()[: wanted(text)])


def literate(setting: Setting) -> PreTrainedModel:
    """The model with logits of zero for all but tokens that are a word, or its beginning."""
    tokenizer = setting.texts.tokenizer
    weight = setting.model.get_output_embeddings().weight
    texts = tokenizer.batch_decode([[token] for token in range(len(tokenizer))])
    plain = [text.isascii() and text[:1] == " " and text[1:].isalpha() for text in texts]
    letters = torch.zeros(len(weight), 1, dtype=weight.dtype, device=weight.device)
    letters[: len(plain), 0] = torch.tensor(plain, device=weight.device).to(weight.dtype)
    return with_output(setting.model, weight.detach() * letters)


@torch.no_grad()
def without_cache(setting: Setting, model: PreTrainedModel, prompts: Sequence[str]) -> Result:
    """All tokens of one prompt after another go through the model anew for each new token."""
    tokenizer = setting.texts.tokenizer
    answers = []
    for prompt in prompts:
        ids = tokenizer(prompt)["input_ids"]
        whole = torch.tensor([ids], device=setting.device)
        for _ in range(setting.shape.new_tokens):
            logits = model(input_ids=whole, use_cache=False).logits
            whole = torch.cat([whole, logits[:, -1:].argmax(-1)], dim=1)
        before, text = tokenizer.batch_decode([ids, whole[0].tolist()])
        answers.append(answer(text.removeprefix(before)))
    return {"answers": answers}


def in_batches(
    setting: Setting, model: PreTrainedModel, prompts: Sequence[str], ended: Callable[[str], bool]
) -> Result:
    texts = generate(
        model,
        setting.texts.tokenizer,
        prompts,
        batch_size=setting.shape.batch,
        max_new_tokens=setting.shape.new_tokens,
        ended=ended,
    )
    return {"answers": [answer(text) for text in texts]}


def generated_answers(setting: Setting) -> Iterator[Series]:
    model = literate(setting)
    prompts = [record.prompt for record in setting.texts.records[: setting.shape.batch]]
    naive = f"one prompt at a time, no cache, always {setting.shape.new_tokens} tokens"
    never = partial(in_batches, setting, model, prompts, lambda text: False)
    variants = [
        Variant("lofit, until the answers end", partial(in_batches, setting, model, prompts, has_ended), quiet),
        Variant(f"lofit, always {setting.shape.new_tokens} tokens", never, quiet),
        Variant(naive, partial(without_cache, setting, model, prompts)),
    ]
    note = (
        f"Greedy. Prompts: {setting.texts.source}, without examples. A random model never writes the line break that "
        f"ends real answers: it is held to tokens that begin a word, and an answer ends after 1 to {LONGEST} words, as "
        "its first word says. A batch goes on until its longest answer ends. Difference: the share of answers that are "
        "not those of one prompt at a time."
    )
    title = f"answers to {len(prompts)} prompts, {setting.shape.batch} at a time"
    yield Series("generation", title, variants, note, reference=naive)
