"""MC1, MC2 and MC3 of a question, exact match of an answer, and means over questions."""

import unicodedata
from collections.abc import Mapping, Sequence

import torch

from lofit.storage.tables import Part
from lofit.tasks.record import Metric, Record


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


def exact_match(text: str, record: Record, metric: Metric) -> tuple[str, bool]:
    """The prediction cut out of generated `text`, and whether it equals the target or an alias, whatever the case."""

    def trimmed(text: str) -> str:
        return text.strip() if metric.strip else text

    def compared(text: str) -> str:
        return plain(trimmed(text)) if metric.plain else trimmed(text).lower()

    prediction = trim_start(text if metric.after is None else text.split(metric.after)[-1], metric)
    for stop in metric.stops:
        prediction = prediction.split(stop)[0]
    prediction = trimmed(prediction)
    wanted = {compared(target) for target in (record.completion, *record.aliases)}
    return prediction, compared(prediction) in wanted


def plain(text: str) -> str:
    """A text without what Unicode may write in several ways: cases, composed letters, blanks, marks without width."""
    visible = "".join(letter for letter in text if unicodedata.category(letter) != "Cf")
    folded = unicodedata.normalize("NFC", unicodedata.normalize("NFC", visible).casefold())
    return " ".join(folded.split())


def trim_start(text: str, metric: Metric) -> str:
    """`text` without leading blanks: they go before stops are looked for, as a newline may be a stop."""
    return text.lstrip() if metric.strip else text


def answer_is_complete(text: str, metric: Metric) -> bool:
    """Whether nothing that could follow `text` would change the prediction in it."""
    # With `after`, a later marker can restart the answer, so generation cannot stop early.
    return metric.after is None and any(stop in trim_start(text, metric) for stop in metric.stops)


def named(name: str, metric: Metric) -> str:
    """A metric's name with the protocol by which it was measured."""
    return "_".join(filter(None, (name, metric.protocol)))


def means(parts: Mapping[Part, Mapping[str, Sequence[float]]]) -> dict[str, float]:
    """Mean of each metric over a part's records, then over parts; also the mean of each fold, and of each draw."""
    overall = _mean_of_means(list(parts.values()))
    for name, position in (("draw", 0), ("fold", 1)):
        numbers = sorted({part[position] for part in parts})
        for number in numbers if len(numbers) > 1 else ():
            chosen = [scores for part, scores in parts.items() if part[position] == number]
            overall |= {f"{metric}_{name}_{number}": mean for metric, mean in _mean_of_means(chosen).items()}
    return overall


def _mean_of_means(tables: Sequence[Mapping[str, Sequence[float]]]) -> dict[str, float]:
    return {
        name: round(float(sum(sum(scores[name]) / len(scores[name]) for scores in tables) / len(tables)), 6)
        for name in tables[0]
    }
