"""Scores of a model on records: multiple choice by log-probabilities, exact match by greedy generation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from lofit.completions import Encoded, chat_prompt, collate, encode, longest_first, padding_id
from lofit.errors import LofitError
from lofit.files import write_whole
from lofit.forward import labelled_logits
from lofit.objectives import completion_logprobs
from lofit.tasks.record import Judgement, Record


@dataclass(frozen=True)
class Prediction:
    """What the model made of one record: its scores by metric name, and what they rest on."""

    id: str

    scores: dict[str, float]

    evidence: dict

    def to_json(self) -> dict:
        scores = {name: round(value, 6) for name, value in self.scores.items()}
        return {"id": self.id, **scores, **self.evidence}


@torch.no_grad()
def score_completions(
    model: PreTrainedModel,
    rows: Sequence[Encoded],
    *,
    pad_id: int,
    batch_size: int,
    progress: str | None = None,
) -> list[float]:
    """Log-probability of each row's completion given its prompt, in nats, summed over tokens (not averaged).

    `progress` names the progress bar; without it there is none.
    """
    scores = [0.0] * len(rows)
    with tqdm(total=len(rows), desc=progress, unit="answer", disable=progress is None) as bar:
        for indices in longest_first([len(row.ids) for row in rows], batch_size=batch_size):
            batch = collate([rows[i] for i in indices], pad_id=pad_id, device=model.device)
            labels = batch.pop("labels")
            logprobs = completion_logprobs(*labelled_logits(model, batch, labels)).tolist()
            for i, score in zip(indices, logprobs, strict=True):
                scores[i] = score
            bar.update(len(indices))
    return scores


def multiple_choice(correct: Sequence[float], incorrect: Sequence[float]) -> dict[str, float]:
    """MC1, MC2 and MC3 of one question from the log-probabilities of its answers, the best answer first.

    MC1: the best answer beats every false one, strictly. MC2: the share of probability on true answers. MC3: the
    share of true answers that beat every false one (Lin et al. 2022, as computed by the published LoFiT code).
    """
    # Subtracting the largest keeps exp() in range and leaves the share as it is.
    largest = max(*correct, *incorrect)
    true = torch.tensor(correct, dtype=torch.float64).sub(largest).exp().sum().item()
    false = torch.tensor(incorrect, dtype=torch.float64).sub(largest).exp().sum().item()
    best_false = max(incorrect)
    return {
        "mc1": float(correct[0] > best_false),
        "mc2": true / (true + false),
        "mc3": sum(score > best_false for score in correct) / len(correct),
    }


def predict(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    records: Sequence[Record],
    judgement: Judgement,
    *,
    batch_size: int,
    max_new_tokens: int,
) -> list[Prediction]:
    """Score `model`, as it is, on every record by the task's metric."""
    if judgement.metric != "exact_match":
        return predict_choices(model, tokenizer, records, judgement, batch_size=batch_size)
    return predict_text(model, tokenizer, records, judgement, batch_size=batch_size, max_new_tokens=max_new_tokens)


def predict_choices(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    records: Sequence[Record],
    judgement: Judgement,
    *,
    batch_size: int,
) -> list[Prediction]:
    """Score every answer of every record; of a preference pair, the chosen answer is the correct one.

    `accuracy` and `preference_accuracy` are MC1 under the name that users of such data know.
    """
    answers = [
        (record.correct, record.incorrect) if record.correct else ((record.completion,), (record.rejected or "",))
        for record in records
    ]
    rows = [
        encode(tokenizer, shown_prompt(tokenizer, record, judgement), answer, end=False)
        for record, (correct, incorrect) in zip(records, answers, strict=True)
        for answer in (*correct, *incorrect)
    ]
    scores = iter(
        score_completions(model, rows, pad_id=padding_id(tokenizer), batch_size=batch_size, progress="Scoring")
    )
    predictions = []
    for record, texts in zip(records, answers, strict=True):
        correct, incorrect = ([next(scores) for _ in side] for side in texts)
        evidence = {"correct": rounded(correct), "incorrect": rounded(incorrect)}
        figures = multiple_choice(correct, incorrect)
        if judgement.metric != "multiple_choice":
            figures = {str(judgement.metric): figures["mc1"]}
        predictions.append(Prediction(record.id, figures, evidence))
    return predictions


def shown_prompt(tokenizer: PreTrainedTokenizerBase, record: Record, judgement: Judgement) -> str:
    """What the model reads when the record is scored."""
    prompt = record.prompt if record.scoring_prompt is None else record.scoring_prompt
    return chat_prompt(tokenizer, prompt) if judgement.chat else prompt


@torch.no_grad()
def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    *,
    batch_size: int,
    max_new_tokens: int,
) -> list[str]:
    """Greedy continuation of each prompt, without special tokens.

    What the prompt's tokens decode to is cut off the whole: decoded alone, a continuation may lose its leading blank.
    """
    pad_id = padding_id(tokenizer)
    encoded = [tokenizer(prompt)["input_ids"] for prompt in prompts]
    if empty := [prompt for prompt, ids in zip(prompts, encoded, strict=True) if not ids]:
        raise LofitError(f"prompt {empty[0]!r}: no token; allowed: at least one")
    # A tokenizer that ends every text by itself would have the model continue after its end.
    encoded = [ids[:-1] if len(ids) > 1 and ids[-1] == tokenizer.eos_token_id else ids for ids in encoded]
    # Checkpoints ship settings of their own; a score must not depend on them.
    greedy = GenerationConfig(
        max_new_tokens=max_new_tokens,
        min_new_tokens=0,
        do_sample=False,
        num_beams=1,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        pad_token_id=pad_id,
        eos_token_id=model.generation_config.eos_token_id if model.generation_config else None,
    )
    texts = [""] * len(prompts)
    with tqdm(total=len(prompts), desc="Generating", unit="prompt") as bar:
        for indices in longest_first([len(ids) for ids in encoded], batch_size=batch_size):
            length = max(len(encoded[i]) for i in indices)
            # Left padding: generation continues every row at the same position.
            ids = torch.tensor([[pad_id] * (length - len(encoded[i])) + encoded[i] for i in indices])
            mask = torch.tensor([[0] * (length - len(encoded[i])) + [1] * len(encoded[i]) for i in indices])
            output = model.generate(  # type: ignore[operator]
                input_ids=ids.to(model.device),
                attention_mask=mask.to(model.device),
                generation_config=greedy,
            )
            for i, row in zip(indices, output, strict=True):
                prompt, whole = tokenizer.batch_decode(
                    [encoded[i], encoded[i] + row[length:].tolist()], skip_special_tokens=True
                )
                texts[i] = whole.removeprefix(prompt)
            bar.update(len(indices))
    return texts


def exact_match(text: str, record: Record, judgement: Judgement) -> tuple[str, bool]:
    """The prediction cut out of generated `text`, and whether it equals the target or an alias, whatever the case."""

    def trimmed(text: str) -> str:
        return text.strip() if judgement.strip else text

    prediction = text if judgement.after is None else text.split(judgement.after)[-1]
    # Blanks before the answer go first, since one may be a stop; those after it last, since they may be part of one.
    prediction = prediction.lstrip() if judgement.strip else prediction
    for stop in judgement.stops:
        prediction = prediction.split(stop)[0]
    prediction = trimmed(prediction)
    wanted = {trimmed(target).lower() for target in (record.completion, *record.aliases)}
    return prediction, prediction.lower() in wanted


def predict_text(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    records: Sequence[Record],
    judgement: Judgement,
    *,
    batch_size: int,
    max_new_tokens: int,
) -> list[Prediction]:
    """Let the model answer every record in its own words."""
    texts = generate(
        model,
        tokenizer,
        [shown_prompt(tokenizer, record, judgement) for record in records],
        batch_size=batch_size,
        max_new_tokens=max_new_tokens,
    )
    predictions = []
    for record, text in zip(records, texts, strict=True):
        prediction, match = exact_match(text, record, judgement)
        evidence = {"prediction": prediction, "target": record.completion.strip(), "generated": text}
        predictions.append(Prediction(record.id, {"exact_match": float(match)}, evidence))
    return predictions


def table(predictions: Sequence[Prediction], judgement: Judgement) -> dict[str, list[float]]:
    """Scores by metric, one number per record; the metric's name says by which protocol it was measured."""
    return {
        "_".join(filter(None, (name, judgement.protocol))): [prediction.scores[name] for prediction in predictions]
        for name in predictions[0].scores
    }


def means(folds: Mapping[int, dict[str, list[float]]]) -> dict[str, float]:
    """Mean of each metric over a fold's records, then over folds; beside it, where there are several, that of each."""
    by_name: dict[str, list[float]] = {}
    for scores in folds.values():
        for name, column in scores.items():
            by_name.setdefault(name, []).append(sum(column) / len(column))
    overall = {name: round(sum(parts) / len(parts), 6) for name, parts in by_name.items()}
    single = {
        f"{name}_fold_{fold}": round(part, 6)
        for name, parts in by_name.items()
        for fold, part in zip(folds, parts, strict=True)
    }
    return overall | (single if len(folds) > 1 else {})


def write_scores(file: Path, folds: Mapping[int, dict[str, list[float]]]) -> None:
    """Save the score tables of all folds as CSV: the fold, then a column per metric; a row per record."""
    names = list(next(iter(folds.values())))
    rows = (
        ",".join([str(fold), *(f"{value:.6g}" for value in row)])
        for fold, scores in folds.items()
        for row in zip(*scores.values(), strict=True)
    )
    write_whole(file, "\n".join([",".join(["fold", *names]), *rows]) + "\n")


def rounded(values: Sequence[float], digits: int = 6) -> list[float]:
    return [round(value, digits) for value in values]
