"""Greedy continuations of prompts, in batches, each only as long as its answer."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
)

from lofit.errors import LofitError
from lofit.models.runtime import refuse_nan
from lofit.models.tokens import Encoded, Reading, longest_first, tokenise
from lofit.models.vocabulary import vocabulary_of


@contextmanager
def read_once(model: PreTrainedModel, reading: Reading | None, rows: Sequence[Encoded], length: int) -> Iterator[None]:
    """Tell an edit of some positions of the model's first pass, which reads the prompts, and when it is over."""
    if reading is None:
        yield
        return
    with reading(rows, length, left=True) as finished:
        handle = model.register_forward_hook(lambda *_: finished())
        try:
            yield
        finally:
            handle.remove()


class Numbers(LogitsProcessor):
    """Stops where the model gives no numbers, of which the first token would otherwise count as the largest."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # type: ignore[override]
        refuse_nan(scores)
        return scores


class AnswerEnds(StoppingCriteria):
    """Ends each row of a batch once `ended` says so of the text that continues its prompt of `prompt_length` tokens."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, ended: Callable[[str], bool], *, rows: int, prompt_length: int
    ) -> None:
        self.tokenizer = tokenizer
        self.ended = ended
        self.prompt_length = prompt_length
        self.lengths: list[int | None] = [None] * rows
        """How many tokens each row had when it ended; transformers may write more until the whole batch has."""

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        written = input_ids[:, self.prompt_length :].tolist()
        going = [row for row, length in enumerate(self.lengths) if length is None]
        texts = self.tokenizer.batch_decode([written[row] for row in going], skip_special_tokens=True)
        for row, text in zip(going, texts, strict=True):
            if self.ended(text):
                self.lengths[row] = len(written[row])
        return torch.tensor([length is not None for length in self.lengths], device=input_ids.device)


@torch.no_grad()
def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    *,
    batch_size: int,
    max_new_tokens: int,
    ended: Callable[[str], bool] = lambda text: False,
    reading: Reading | None = None,
) -> list[str]:
    """Greedy continuation of each prompt, without special tokens.

    It ends before the first end token that the tokenizer or the model names. What the prompt's tokens decode to is cut
    off the whole: decoded alone, a continuation may lose its leading blank.

    Args:
        ended: whether a continuation holds all that it is generated for; it then grows no further.
        reading: that of an edit which does not act at every position.

    Raises:
        LofitError: a prompt has no token, or is too long for the model; or the model gives no numbers.
    """
    vocabulary = vocabulary_of(model, tokenizer)
    encoded = [tokenise(tokenizer, prompt)["input_ids"] for prompt in prompts]
    if empty := [prompt for prompt, ids in zip(prompts, encoded, strict=True) if not ids]:
        raise LofitError(f"prompt {empty[0]!r}: no token; expected at least one")
    # A tokenizer that ends every text by itself would have the model continue after its end.
    encoded = [ids[:-1] if len(ids) > 1 and ids[-1] == tokenizer.eos_token_id else ids for ids in encoded]
    for prompt, ids in zip(prompts, encoded, strict=True):
        vocabulary.check(ids, prompt, new=max_new_tokens)
    # Checkpoints ship settings of their own; a score must not depend on them.
    greedy = GenerationConfig(
        max_new_tokens=max_new_tokens,
        min_new_tokens=0,
        do_sample=False,
        num_beams=1,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        pad_token_id=vocabulary.padding,
        eos_token_id=list(vocabulary.ends) or None,
    )
    texts = [""] * len(prompts)
    with tqdm(total=len(prompts), desc="Generating", unit="prompt") as bar:
        for indices in longest_first([len(ids) for ids in encoded], batch_size=batch_size):
            length = max(len(encoded[i]) for i in indices)
            # Left padding: generation continues every row at the same position.
            ids = torch.tensor([[vocabulary.padding] * (length - len(encoded[i])) + encoded[i] for i in indices])
            mask = torch.tensor([[0] * (length - len(encoded[i])) + [1] * len(encoded[i]) for i in indices])
            ends = AnswerEnds(tokenizer, ended, rows=len(indices), prompt_length=length)
            rows = [Encoded(tuple(encoded[i]), len(encoded[i])) for i in indices]
            with read_once(model, reading, rows, length):
                output = model.generate(  # type: ignore[operator]
                    input_ids=ids.to(model.device),
                    attention_mask=mask.to(model.device),
                    generation_config=greedy,
                    logits_processor=LogitsProcessorList([Numbers()]),
                    stopping_criteria=StoppingCriteriaList([ends]),
                )
            for i, row, written in zip(indices, output, ends.lengths, strict=True):
                continuation = list(
                    takewhile(lambda token: token not in vocabulary.ends, row[length:][:written].tolist())
                )
                prompt, whole = tokenizer.batch_decode(
                    [encoded[i], encoded[i] + continuation], skip_special_tokens=True
                )
                texts[i] = whole.removeprefix(prompt)
            bar.update(len(indices))
    return texts
