"""Scores of a model on records: multiple choice by log-probabilities, exact match by greedy generation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lofit.completions import chat_prompt, encode, padding_id
from lofit.files import write_whole
from lofit.generation import generate
from lofit.logprobs import score_groups
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
        [
            encode(tokenizer, shown_prompt(tokenizer, record, judgement), answer, end=False)
            for answer in (*correct, *incorrect)
        ]
        for record, (correct, incorrect) in zip(records, answers, strict=True)
    ]
    scores = score_groups(model, rows, pad_id=padding_id(tokenizer), batch_size=batch_size, progress="Scoring")
    predictions = []
    for record, (true, _), logprobs in zip(records, answers, scores, strict=True):
        correct, incorrect = logprobs[: len(true)], logprobs[len(true) :]
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


def exact_match(text: str, record: Record, judgement: Judgement) -> tuple[str, bool]:
    """The prediction cut out of generated `text`, and whether it equals the target or an alias, whatever the case."""

    def trimmed(text: str) -> str:
        return text.strip() if judgement.strip else text

    prediction = begun(text if judgement.after is None else text.split(judgement.after)[-1], judgement)
    for stop in judgement.stops:
        prediction = prediction.split(stop)[0]
    prediction = trimmed(prediction)
    wanted = {trimmed(target).lower() for target in (record.completion, *record.aliases)}
    return prediction, prediction.lower() in wanted


def begun(text: str, judgement: Judgement) -> str:
    """`text` from where a prediction begins: blanks before it go first, as one may be a stop; those after it last."""
    return text.lstrip() if judgement.strip else text


def ended(text: str, judgement: Judgement) -> bool:
    """Whether nothing that could follow `text` would change the prediction in it."""
    # What counts may also begin anew, further on.
    return judgement.after is None and any(stop in begun(text, judgement) for stop in judgement.stops)


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
        ended=partial(ended, judgement=judgement),
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
