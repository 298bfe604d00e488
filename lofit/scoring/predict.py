"""What a model makes of records: multiple choice by log-probabilities, exact match by greedy generation."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lofit.models.generation import generate
from lofit.models.logprobs import score_groups
from lofit.models.tokens import Reading, encode
from lofit.models.vocabulary import vocabulary_of
from lofit.scoring.metrics import answer_is_complete, exact_match, multiple_choice, named
from lofit.tasks.record import Metric, Record


@dataclass(frozen=True)
class Prediction:
    """What the model made of one record: its scores by metric name, and what they rest on."""

    id: str

    scores: dict[str, float]

    evidence: dict

    def to_json(self) -> dict:
        scores = {name: round(value, 6) for name, value in self.scores.items()}
        return {"id": self.id, **scores, **self.evidence}


def predict(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    records: Sequence[Record],
    metric: Metric,
    *,
    batch_size: int,
    max_new_tokens: int,
    reading: Reading | None = None,
) -> list[Prediction]:
    """Score `model`, as it is, on every record.

    `reading` is that of an attached edit which does not act at every position.
    """
    if metric.kind != "exact_match":
        return predict_choices(model, tokenizer, records, metric, batch_size=batch_size, reading=reading)
    return predict_text(
        model,
        tokenizer,
        records,
        metric,
        batch_size=batch_size,
        max_new_tokens=max_new_tokens,
        reading=reading,
    )


def predict_choices(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    records: Sequence[Record],
    metric: Metric,
    *,
    batch_size: int,
    reading: Reading | None = None,
) -> list[Prediction]:
    """Score every answer of every record; of a preference pair, the chosen answer is the correct one.

    `accuracy` and `preference_accuracy` are MC1 under the name that users of such data know.
    """
    answers = [
        (record.correct, record.incorrect) if record.correct else ((record.completion,), (record.rejected or "",))
        for record in records
    ]
    vocabulary = vocabulary_of(model, tokenizer)
    rows = [
        [encode(tokenizer, shown_prompt(record), answer) for answer in (*correct, *incorrect)]
        for record, (correct, incorrect) in zip(records, answers, strict=True)
    ]
    for record, encoded in zip(records, rows, strict=True):
        for row in encoded:
            vocabulary.check(row.ids, shown_prompt(record))
    scores = score_groups(
        model, rows, pad_id=vocabulary.padding, batch_size=batch_size, progress="Scoring", reading=reading
    )
    predictions = []
    for record, (true, _), logprobs in zip(records, answers, scores, strict=True):
        correct, incorrect = logprobs[: len(true)], logprobs[len(true) :]
        evidence = {"correct": rounded(correct), "incorrect": rounded(incorrect)}
        figures = multiple_choice(correct, incorrect)
        if metric.kind != "multiple_choice":
            figures = {str(metric.kind): figures["mc1"]}
        predictions.append(Prediction(record.id, figures, evidence))
    return predictions


def shown_prompt(record: Record) -> str:
    """What the model reads when the record is scored."""
    return record.prompt if record.scoring_prompt is None else record.scoring_prompt


def predict_text(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    records: Sequence[Record],
    metric: Metric,
    *,
    batch_size: int,
    max_new_tokens: int,
    reading: Reading | None = None,
) -> list[Prediction]:
    """Let the model answer every record in its own words."""
    texts = generate(
        model,
        tokenizer,
        [shown_prompt(record) for record in records],
        batch_size=batch_size,
        max_new_tokens=max_new_tokens,
        ended=partial(answer_is_complete, metric=metric),
        reading=reading,
    )
    predictions = []
    for record, text in zip(records, texts, strict=True):
        prediction, match = exact_match(text, record, metric)
        evidence = {"prediction": prediction, "target": record.completion.strip(), "generated": text}
        predictions.append(Prediction(record.id, {"exact_match": float(match)}, evidence))
    return predictions


def score_table(predictions: Sequence[Prediction], metric: Metric) -> dict[str, list[float]]:
    """Scores by metric, one number per record; the metric's name says by which protocol it was measured."""
    return {
        named(name, metric): [prediction.scores[name] for prediction in predictions] for name in predictions[0].scores
    }


def rounded(values: Sequence[float], digits: int = 6) -> list[float]:
    return [round(value, digits) for value in values]
