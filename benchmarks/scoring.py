"""Multiple choice: every answer with its whole prompt, batches of them, or what answers share read once."""

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import chain, islice

import torch
from tqdm import tqdm

from benchmarks.measure import Result, Series, Setting, Variant
from benchmarks.steps import PAD
from lofit.models.forward import completion_logprobs
from lofit.models.logprobs import score_completions, score_groups
from lofit.models.tokens import Encoded, collate, encode
from lofit.tasks.record import Record

BATCH = 16
"""Answers in one pass."""
GROWTH_QUESTIONS = 2

Groups = list[list[Encoded]]


@torch.no_grad()
def one_forward_each(setting: Setting, groups: Groups) -> Result:
    """As the published code scores: a pass for each answer, with the logits of all its tokens."""
    scores = []
    for row in chain.from_iterable(groups):
        batch = collate([row], pad_id=PAD, device=setting.device)
        labels = batch.pop("labels")
        scores.append(completion_logprobs(setting.model(**batch).logits, labels))
    return {"log-probabilities": torch.cat(scores)}


def in_batches(setting: Setting, groups: Groups) -> Result:
    rows = list(chain.from_iterable(groups))
    return {"log-probabilities": torch.tensor(score_completions(setting.model, rows, pad_id=PAD, batch_size=BATCH))}


def shared_prefix(setting: Setting, groups: Groups) -> Result:
    scores = score_groups(setting.model, groups, pad_id=PAD, batch_size=BATCH)
    return {"log-probabilities": torch.tensor(list(chain.from_iterable(scores)))}


def encoded(setting: Setting, record: Record, answers: Sequence[str]) -> list[Encoded]:
    prompt = record.scoring_prompt or record.prompt
    return [encode(setting.texts.tokenizer, prompt, answer) for answer in answers]


def multiple_choice(setting: Setting) -> Iterator[Series]:
    records = setting.texts.records[: setting.questions]
    groups = [
        encoded(setting, record, (*record.correct, *record.incorrect))
        for record in tqdm(records, desc="Encoding", unit="question", leave=False)
    ]
    answers = sum(map(len, groups))
    tokens = sum(len(row.ids) for row in chain.from_iterable(groups)) // answers
    naive = "one forward per answer, all logits (published form)"
    variants = [
        Variant("lofit, shared prefix", partial(shared_prefix, setting, groups)),
        Variant(f"lofit, batches of {BATCH}", partial(in_batches, setting, groups)),
        Variant(naive, partial(one_forward_each, setting, groups)),
    ]
    note = (
        f"Questions: {setting.texts.source}. Instruction and six examples before each, {tokens} tokens in all on "
        "average. Difference: of the log-probabilities from those of one forward per answer."
    )
    title = f"{answers} answers to {len(groups)} questions"
    yield Series("choices", title, variants, note, reference=naive)

    pool = list(dict.fromkeys(a for record in setting.texts.records for a in (*record.correct, *record.incorrect)))
    variants = []
    for count in setting.shape.choices:
        chosen = list(islice(pool, count))
        groups = [encoded(setting, record, chosen) for record in setting.texts.records[:GROWTH_QUESTIONS]]
        variants += [
            Variant("lofit, shared prefix", partial(shared_prefix, setting, groups), size=count),
            Variant(f"lofit, batches of {BATCH}", partial(in_batches, setting, groups), size=count),
        ]
    note = f"{GROWTH_QUESTIONS} questions, the same answers to each. Questions: {setting.texts.source}."
    yield Series("choices", "answers to a question", variants, note, grows="answers to a question")
