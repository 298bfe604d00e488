"""A model with its edits as lm-evaluation-harness asks one."""

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lofit.models.generation import read_once
from lofit.models.tokens import Encoded, Reading, collate, longest_first
from lofit.models.vocabulary import vocabulary_of


def harness_model(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, batch_size: int, reading: Reading | None = None
) -> Any:
    """lm-eval's `HFLM` around a model that is loaded, and edited as it is.

    Args:
        reading: that of an attached edit which does not act at every position: lm-eval does not tell the model where a
            prompt ends, so its rows are then read here.
    """
    from lm_eval.models.huggingface import HFLM

    # lm-eval may add a padding token, and asks for an end token.
    tokenizer = deepcopy(tokenizer)
    vocabulary = vocabulary_of(model, tokenizer)
    if tokenizer.eos_token is None and vocabulary.ends:
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(vocabulary.end)

    class Edited(HFLM):
        def _loglikelihood_tokens(self, requests: Any, disable_tqdm: bool = False, override_bs: Any = None) -> Any:
            cut = sum(len(context) + len(answer) > self.max_length + 1 for _, context, answer in requests)
            say_cut(cut, len(requests), self.max_length)
            if reading is None:
                return super()._loglikelihood_tokens(requests, disable_tqdm=disable_tqdm, override_bs=override_bs)
            rows = [encoded(context, answer, self.max_length + 1) for _, context, answer in requests]
            answers: list[tuple[float, bool]] = [(0.0, False)] * len(rows)
            for indices in longest_first([len(row.ids) for row in rows], batch_size=batch_size):
                some = [rows[i] for i in indices]
                # A row's last token predicts nothing.
                ids = collate(some, pad_id=vocabulary.padding, device=self.device)["input_ids"][:, :-1]
                with reading(some, ids.shape[1]):
                    logprobs = self._model_call(ids).log_softmax(-1)
                for i, row, predicted in zip(indices, some, logprobs, strict=True):
                    answers[i] = answer_score(row, predicted)
            return answers

        def _model_generate(self, context: Tensor, max_length: int, stop: list[str], **kwargs: Any) -> Tensor:
            held = kwargs["attention_mask"].bool()
            rows = [
                Encoded(tuple(row[kept].tolist()), int(kept.sum())) for row, kept in zip(context, held, strict=True)
            ]
            with read_once(self.model, reading, rows, context.shape[1]):
                return super()._model_generate(context, max_length, stop, **kwargs)

    return Edited(pretrained=model, tokenizer=tokenizer, backend="causal", batch_size=batch_size)


def encoded(context: list[int], answer: list[int], longest: int) -> Encoded:
    """A prompt and its answer, cut at the left as lm-eval does."""
    ids = (context + answer)[-longest:]
    return Encoded(tuple(ids), len(ids) - len(answer))


def answer_score(row: Encoded, logprobs: Tensor) -> tuple[float, bool]:
    """Log-probability of a row's answer, and whether it is what the model would say itself.

    Args:
        logprobs: T x V, of what follows each token; those after the row's end are left out.
    """
    predicted = logprobs[row.start - 1 : len(row.ids) - 1]
    answer = torch.tensor(row.ids[row.start :], device=logprobs.device)
    likely = predicted.gather(-1, answer[:, None]).sum()
    return float(likely), bool((predicted.argmax(-1) == answer).all())


def say_cut(cut: int, total: int, positions: int) -> None:
    """lm-eval cuts what is too long, and goes on."""
    if cut:
        tqdm.write(
            f"{cut} of {total} texts are longer than the model's {positions} positions: lm-eval has cut their beginning"
        )
