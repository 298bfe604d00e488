"""Wrong answers: counted, in a stable order, and shown as they were said."""

import random

import pytest

from lofit.report.markdown import LONGEST
from lofit.report.wrong_answers import COMMONEST, wrong_answer_lists

TITLE = "### row"


def answers(*pairs):
    """Predictions with their targets, right where they are equal."""
    return [
        {"id": str(at), "exact_match": float(said == right), "prediction": said, "target": right, "generated": said}
        for at, (said, right) in enumerate(pairs)
    ]


def lines(predictions):
    """The sentence, and the cells of the table's rows."""
    page = wrong_answer_lists({"t": {"row": predictions}})
    _, title, said, *table = [part for block in page.split("\n\n") for part in block.split("\n")]
    assert title == TITLE
    return said, [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table[2:]]


def test_wrong_answers_are_counted_and_the_commonest_come_first():
    predictions = answers(
        ("Answer: Rome.", "Rome"),
        ("Paris", "Rome"),
        ("Rome", "Rome"),
        ("Paris", "Athens"),
        ("Lima", "Oslo"),
        ("Answer: Bonn.", "Bonn"),
    )
    said, table = lines(predictions)
    assert said == "5 of 6 answers are wrong; 2 of these hold the right one among other words."
    assert table == [
        ["Paris", "2", "Rome"],
        ["Answer: Bonn.", "1", "Bonn"],
        ["Answer: Rome.", "1", "Rome"],
        ["Lima", "1", "Oslo"],
    ]


def test_no_more_than_ten_are_shown_and_their_order_is_that_of_counts_and_texts():
    counts = {f"answer {number:02}": number % 5 + 1 for number in range(25)}
    said = [answer for answer, count in counts.items() for _ in range(count)]
    random.Random(0).shuffle(said)
    _, table = lines(answers(*((answer, "right") for answer in said)))
    expected = [f"answer {number:02}" for number in (4, 9, 14, 19, 24, 3, 8, 13, 18, 23)]
    assert [row[0] for row in table] == expected and len(expected) == COMMONEST
    assert [row[1] for row in table] == ["5"] * 5 + ["4"] * 5


@pytest.mark.parametrize(
    ("said", "right", "near"),
    [
        ("The answer is ROME", "Rome", 1),
        ("Rome, Italy", "Rome", 1),
        ("grandmother", "mother", 0),
        ("Rom", "Rome", 0),
        ("C++ (the language)", "C++", 1),
        ("", "Rome", 0),
    ],
)
def test_a_near_miss_holds_the_right_words(said, right, near):
    assert f"; {near} of these hold" in lines(answers((said, right)))[0]


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("a | b", r"a \| b"),
        (
            "*bold* _it_ `code` [x](y) <br> ~~no~~ &amp; $x$",
            r"\*bold\* \_it\_ \`code\` \[x\](y) \<br\> \~\~no\~\~ \&amp; \$x\$",
        ),
        (r"back\slash", r"back\\slash"),
        ("", "*nothing*"),
        (" \n ", "*nothing*"),
        ("two\n\nlines\tand\u2028more", "two lines and more"),
        ("Ro\u200bme\x07", "Ro\ufffdme\ufffd"),
        ("x" * LONGEST, "x" * LONGEST),
        ("x" * (LONGEST + 1), "x" * (LONGEST - 1) + "…"),
        ("*" * (LONGEST + 1), r"\*" * (LONGEST - 1) + "…"),
    ],
)
def test_an_answer_is_shown_as_it_was_said_on_one_line(said, shown):
    ((cell, *_),) = lines(answers((said, "right")))[1]
    assert cell == shown
    ((*_, cell),) = lines(answers(("wrong", said)))[1]
    assert cell == shown


def test_long_answers_that_begin_alike_are_not_taken_for_one():
    begin = "x" * LONGEST
    _, table = lines(answers((begin + "a", "r"), (begin + "b", "r"), (begin + "b", "r")))
    assert [row[1] for row in table] == ["2", "1"]


def test_tasks_that_are_scored_otherwise_are_left_out_and_a_row_without_faults_says_so():
    choices = [{"id": "0", "mc1": 0.0, "correct": [-1.0], "incorrect": [-0.5]}]
    tasks = {
        "choices": {"row": choices},
        "texts": {"base": answers(("a", "b")), "row": answers(("b", "b"), ("c", "c"))},
    }
    page = wrong_answer_lists(tasks)
    assert "choices" not in page and page.index("## texts") < page.index("### base") < page.index(TITLE)
    assert page.endswith(f"{TITLE}\n\nNone of 2 answers is wrong.")
    assert wrong_answer_lists({"choices": {"row": choices}}) == wrong_answer_lists({}) == ""
