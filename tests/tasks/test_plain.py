"""Records from plain dicts: the shapes of one's own task, without a file."""

import pytest

from lofit import LofitError, Record
from lofit.tasks.plain import to_records
from lofit.tasks.record import Metric, Objective

QUESTION = Record("7", "Q:", " no", " yes", correct=(" no",), incorrect=(" yes", " maybe"))


@pytest.mark.parametrize(
    ("row", "record", "kinds"),
    [
        (
            {"prompt": "hot", "completion": "cold", "aliases": ["cool"]},
            Record("records:1", "hot", " cold", aliases=("cool",)),
            ("cross_entropy", "exact_match"),
        ),
        (
            {"id": 7, "prompt": "Hello?", "chosen": "Hi.", "rejected": "What."},
            Record("7", "Hello?", " Hi.", " What."),
            ("dpo", "preference_accuracy"),
        ),
        (
            {"prompt": "Who barks?", "choices": ["a cat", "a dog"], "answer": "B"},
            Record("records:1", "Who barks?", " a dog", correct=(" a dog",), incorrect=(" a cat",)),
            ("cross_entropy", "accuracy"),
        ),
    ],
)
def test_dicts_become_the_records_of_such_lines(tokenizer, row, record, kinds):
    before = dict(row)
    records, objective, metric = to_records([row], tokenizer)
    assert records == [record] and (objective.kind, metric.kind) == kinds and row == before
    # The records themselves say the same.
    assert to_records(records, tokenizer) == (records, objective, metric)
    assert to_records([row, record], tokenizer)[0] == [record, record]


def test_questions_are_pairs_in_training_and_multiple_choice_in_scoring(tokenizer):
    assert to_records(iter([QUESTION]), tokenizer) == ([QUESTION], Objective("dpo"), Metric("multiple_choice"))
    with pytest.raises(LofitError, match=r"^record 2: got a preference; expected a questions"):
        to_records([QUESTION, {"prompt": "Hello?", "chosen": "Hi.", "rejected": "What."}], tokenizer)
