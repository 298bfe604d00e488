"""Answers before and after: the first questions, whatever came out, and what was said there."""

import pytest

from lofit.report.answers import LONGEST_PROMPT, SHOWN, answer_tables
from lofit.tasks.record import Record


def texts(*said):
    return [{"id": str(at), "prediction": answer, "target": "right"} for at, answer in enumerate(said)]


def asked(count, **fields):
    fields = {"prompt": "Q: What? A:", "completion": " right", **fields}
    return [Record(id=str(at), **fields) for at in range(count)]


def cells(page):
    """The cells of the table's lines, header first, without the line below the header."""
    header, _, *lines = [line for line in page.split("\n") if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in (header, *lines)]


def test_the_first_questions_are_shown_whatever_came_out():
    before, after = texts("", "A: B:", "wrong", "late"), texts("right", "still wrong", "wrong", "late")
    page = answer_tables({"mquake": (asked(4), {"base": before, "lofit": after})})
    assert page.startswith("## mquake\n\n|")
    assert cells(page) == [
        ["prompt", "base", "lofit", "a right answer"],
        ["Q: What? A:", "*nothing*", "right", "right"],
        ["Q: What? A:", "A: B:", "still wrong", "right"],
        ["Q: What? A:", "wrong", "wrong", "right"],
    ]
    assert len(cells(page)) == 1 + SHOWN


def test_of_several_draws_and_seeds_the_first_one_counts_and_predictions_are_found_by_their_question():
    one, *others = texts("zero", "one", "two")
    page = answer_tables({"t": (asked(3), {"lofit": [*others, one, *texts("x", "y", "z")]})})
    assert [row[1] for row in cells(page)[1:]] == ["zero", "one", "two"]


def test_the_answer_of_a_multiple_choice_is_the_likeliest():
    records = asked(1, correct=(" one", " two"), incorrect=(" three",), scoring_prompt="Primer. Q: What? A:")
    base = [{"id": "0", "correct": [-5.0, -3.0], "incorrect": [-1.0]}]
    lofit = [{"id": "0", "correct": [-5.0, -0.5], "incorrect": [-1.0]}]
    line = cells(answer_tables({"t": (records, {"base": base, "lofit": lofit})}))[1]
    assert line == ["Primer. Q: What? A:", "three", "two", "one"]


@pytest.mark.parametrize(("true", "false", "said"), [(-1.0, -2.0, "right"), (-2.0, -1.0, "left")])
def test_of_a_preference_pair_it_is_the_one_that_the_model_prefers(true, false, said):
    predictions = [{"id": "0", "correct": [true], "incorrect": [false]}]
    page = answer_tables({"t": (asked(1, rejected=" left"), {"lofit": predictions})})
    assert cells(page)[1] == ["Q: What? A:", said, "right"]


def test_of_a_long_prompt_the_end_is_shown_which_asks():
    story = "word " * 200
    page = answer_tables({"t": (asked(1, prompt=f"{story}\nWho is it?"), {"lofit": texts("a | b")})})
    prompt, said, _ = cells(page)[1]
    assert prompt.startswith("…") and prompt.endswith("word Who is it?") and len(prompt) <= LONGEST_PROMPT
    assert said == r"a \| b"
