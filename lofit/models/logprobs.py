"""Log-probabilities of completions: row by row in batches, or with what rows share computed once.

Answers to a question repeat its prompt, and questions repeat a primer. Attention keeps its keys and values of every
token that it has read, so a token in common needs to go through the model only once: the beginning that all rows have
in common, then the one that a group of rows has, then the rest of each row. Token ids decide what is common, not
texts: a tokenizer may merge the end of a prompt with the beginning of an answer.
"""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from copy import copy
from inspect import signature
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from lofit.models.forward import completion_logprobs, labelled_logits
from lofit.models.runtime import refuse_nan
from lofit.models.tokens import IGNORED, Encoded, Reading, collate, longest_first

BATCHES = 4
"""How many batches of rows share the groups whose keys and values are held at a time: the more, the less padding."""


@torch.no_grad()
def score_completions(
    model: PreTrainedModel,
    rows: Sequence[Encoded],
    *,
    pad_id: int,
    batch_size: int,
    progress: str | None = None,
    reading: Reading | None = None,
) -> list[float]:
    """Log-probability of each row's completion given its prompt, in nats, summed over tokens (not averaged).

    Args:
        progress: names the progress bar; without it there is none.
        reading: that of an edit which does not act at every position.
    """
    scores = [0.0] * len(rows)
    with tqdm(total=len(rows), desc=progress, unit="answer", disable=progress is None) as bar:
        for indices in longest_first([len(row.ids) for row in rows], batch_size=batch_size):
            batch = completion_scores(model, [rows[i] for i in indices], pad_id=pad_id, reading=reading)
            for i, score in zip(indices, batch, strict=True):
                scores[i] = score
            bar.update(len(indices))
    return scores


@torch.no_grad()
def score_groups(
    model: PreTrainedModel,
    groups: Sequence[Sequence[Encoded]],
    *,
    pad_id: int,
    batch_size: int,
    progress: str | None = None,
    reading: Reading | None = None,
) -> list[list[float]]:
    """What `score_completions` gives, by group, where the rows of a group begin alike: the answers to a question.

    The keys and values of what all rows share are computed once, those of what a group shares once for each group, and
    at most `batch_size` rows go through the model at a time. A model that keeps something else than keys and
    values (recurrent layers do) is scored row by row, and says so; so is one with an edit of some positions, `reading`.
    """
    rows = [row for group in groups for row in group]
    cache = DynamicCache(config=model.config)
    keeps_more = not keeps_keys_and_values_alone(model, cache)
    if keeps_more:
        tqdm.write(f"{type(model).__name__} keeps more than keys and values: each answer is read with its whole prompt")
    if keeps_more or reading is not None:
        flat = iter(
            score_completions(model, rows, pad_id=pad_id, batch_size=batch_size, progress=progress, reading=reading)
        )
        return [[next(flat) for _ in group] for group in groups]
    shared_by_all = shared_length(rows)
    extend_cache(model, [rows[0].ids[:shared_by_all]] if rows else [], cache)
    scores = [[0.0] * len(group) for group in groups]
    with tqdm(total=len(rows), desc=progress, unit="answer", disable=progress is None) as bar:
        for shared_by_group, members in group_by_shared_length(groups, shared_by_all, batch_size, BATCHES * batch_size):
            begun = select_rows(cache, [0] * len(members))
            extend_cache(model, [groups[member][0].ids[shared_by_all:shared_by_group] for member in members], begun)
            answers = [(row, member, i) for row, member in enumerate(members) for i in range(len(groups[member]))]
            rests = [drop_prefix(groups[member][i], shared_by_group) for _, member, i in answers]
            for batch in longest_first([len(rest.ids) for rest in rests], batch_size=batch_size):
                past = cache_for_one_pass(begun, [answers[b][0] for b in batch])
                logprobs = completion_scores(model, [rests[b] for b in batch], pad_id=pad_id, past=past)
                for b, score in zip(batch, logprobs, strict=True):
                    _, member, i = answers[b]
                    scores[member][i] = score
                bar.update(len(batch))
    return scores


def completion_scores(
    model: PreTrainedModel,
    rows: Sequence[Encoded],
    *,
    pad_id: int,
    past: DynamicCache | None = None,
    reading: Reading | None = None,
) -> list[float]:
    """Log-probabilities of the completions of one batch, which continues what `past` holds."""
    batch: dict = collate(rows, pad_id=pad_id, device=model.device)
    labels = batch.pop("labels")
    # A row's last token predicts nothing that is asked for.
    batch = {name: value[:, : max(labels.shape[1] - 1, 1)] for name, value in batch.items()}
    if past is not None:
        batch["attention_mask"] = nn.functional.pad(batch["attention_mask"], (past.get_seq_length(), 0), value=1)
        batch |= {"past_key_values": past, "use_cache": True}
    width = batch["input_ids"].shape[1]
    with reading(rows, width) if reading else nullcontext():
        scores = completion_logprobs(*labelled_logits(model, batch, labels))
    refuse_nan(scores)
    return scores.tolist()


def shared_length(rows: Sequence[Encoded]) -> int:
    """How many tokens rows have in common at their beginning, less the last one before the first completion.

    That token predicts the completion's first one, so it is read with each row.
    """
    most = max(min((row.start - 1 for row in rows), default=0), 0)
    columns = zip(*(row.ids[:most] for row in rows), strict=True)
    return sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns))


def group_by_shared_length(
    groups: Sequence[Sequence[Encoded]], shared_by_all: int, most_groups: int, most_rows: int
) -> Iterator[tuple[int, list[int]]]:
    """Batches of groups whose shared prompts have equal length, longest first, so that no padding is needed.

    Yields that length, and the groups by their place: one, or as many as these bounds allow. A group of one row shares
    what all do.
    """
    lengths = [shared_length(group) if len(group) > 1 else shared_by_all for group in groups]
    for length in sorted(set(lengths), reverse=True):
        members: list[int] = []
        rows = 0
        for place in (place for place, own in enumerate(lengths) if own == length):
            if members and (len(members) == most_groups or rows + len(groups[place]) > most_rows):
                yield length, members
                members, rows = [], 0
            members.append(place)
            rows += len(groups[place])
        yield length, members


def drop_prefix(row: Encoded, length: int) -> Encoded:
    """A row without its first `length` tokens."""
    return Encoded(row.ids[length:], row.start - length)


def keeps_keys_and_values_alone(model: PreTrainedModel, cache: DynamicCache) -> bool:
    """Whether the keys and values in `cache`, an empty one, are all that the model needs to go on from there."""
    plain = {DynamicLayer, DynamicSlidingWindowLayer}
    takes_it = "past_key_values" in signature(model.forward).parameters
    return takes_it and bool(cache.layers) and {type(layer) for layer in cache.layers} <= plain


def extend_cache(model: PreTrainedModel, rows: Sequence[Sequence[int]], cache: DynamicCache) -> None:
    """Add the keys and values of rows of the same length to `cache`."""
    if not rows or not rows[0]:
        return
    ids = torch.tensor(rows, device=model.device)
    mask = torch.ones(len(rows), cache.get_seq_length() + ids.shape[1], dtype=torch.long, device=model.device)
    batch = {"input_ids": ids, "attention_mask": mask, "past_key_values": cache, "use_cache": True}
    labelled_logits(model, batch, torch.full_like(ids, IGNORED))


def select_rows(cache: DynamicCache, rows: list[int]) -> DynamicCache:
    """A cache that begins with these rows of `cache` and grows by itself."""
    chosen = copy(cache)
    chosen.layers = [copy(layer) for layer in cache.layers]
    chosen.batch_select_indices(torch.tensor(rows))
    return chosen


def cache_for_one_pass(cache: DynamicCache, rows: list[int]) -> DynamicCache:
    """A cache that begins with these rows of `cache`, for one pass: it keeps nothing of what it is given.

    The rows are copied when a layer asks for them, so that there is never more than one layer's copy.
    """

    def reader(layer: Any) -> Any:
        def update(keys: Tensor, values: Tensor, *_: object, **__: object) -> tuple[Tensor, Tensor]:
            if not layer.is_initialized:
                return keys, values
            return torch.cat([layer.keys[rows], keys], dim=-2), torch.cat([layer.values[rows], values], dim=-2)

        reading = copy(layer)
        reading.update = update
        return reading

    once = copy(cache)
    once.layers = [reader(layer) for layer in cache.layers]
    return once
