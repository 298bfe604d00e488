"""The rows written down: Markdown for each task, and CSV."""

from dataclasses import replace

import pytest

from lofit.report.table import Row, other_tables, primary_rows, primary_tables, to_csv

# -------------------------------------------------------------------------------------------------------- Markdown


def test_the_primary_tables_show_the_first_metric_of_each_task_under_its_name():
    text = primary_tables(make_rows(), baseline="base")
    assert text == (
        "## mquake: exact_match\n\n"
        "| method | score | 95 % interval  | gain over base          | parameters | heads   |\n"
        "| ------ | ----- | -------------- | ----------------------- | ---------- | ------- |\n"
        "| base   | 0.500 | [0.400, 0.600] |                         | 0          |         |\n"
        "| lofit  | 0.750 | [0.700, 0.800] | +0.250 [-0.100, +0.500] | 24         | 3.1 0.7 |\n\n"
        "## truthfulqa: mc1\n\n"
        "| method | score | 95 % interval  | gain over base | parameters | heads |\n"
        "| ------ | ----- | -------------- | -------------- | ---------- | ----- |\n"
        "| base   | 0.300 | [0.200, 0.400] |                | 0          |       |"
    )


def test_the_other_tables_hold_the_other_metrics_of_the_tasks_that_have_some():
    assert other_tables(make_rows(), baseline="base") == (
        "### truthfulqa\n\n"
        "| metric | method | score | 95 % interval  | gain over base | parameters |\n"
        "| ------ | ------ | ----- | -------------- | -------------- | ---------- |\n"
        "| mc2    | base   | 0.500 | [0.400, 0.600] |                | 0          |\n"
        "| mc3    | base   | 0.700 | [0.600, 0.800] |                | 0          |"
    )
    assert other_tables(primary_rows(make_rows()), baseline="base") == ""


def test_the_column_of_gains_names_the_baseline_and_is_gone_without_one():
    rows = make_rows()
    assert "| gain over untouched " in primary_tables(rows, baseline="untouched")
    assert "gain" not in primary_tables(rows, baseline=None) + other_tables(rows, baseline=None)


def test_the_range_over_draws_is_a_column_where_a_row_of_the_task_has_several():
    base, tuned, other, *_ = make_rows()
    random = replace(tuned, method="random", draws=10, lowest=0.312, highest=0.418, heads=("3.1 0.7",) * 10)
    many, one = primary_tables([base, random, other], baseline="base").split("\n\n## ")
    assert columns(many)["range over draws"] == ["", "0.31 to 0.42 (10 draws)"]
    assert list(columns(many)).index("range over draws") == list(columns(many)).index("gain over base") + 1
    assert "range" not in one
    metrics = [replace(row, metric="other", score=0.1) for row in (base, random)]
    assert "0.31 to 0.42 (10 draws)" in other_tables([base, random, *metrics], baseline="base")


@pytest.mark.parametrize(
    ("heads", "shown"),
    [
        (("3.1 0.7",), "3.1 0.7"),
        (("3.1 0.7", "1.1"), "3.1 0.7 and 1 other draw"),
        (("3.1 0.7", "1.1", "2.2"), "3.1 0.7 and 2 other draws"),
        (
            (" ".join(f"{layer}.10" for layer in range(10, 22)),),
            " ".join(f"{layer}.10" for layer in range(10, 20)) + " ...",
        ),
        ((" ".join(["1.1"] * 15),), " ".join(["1.1"] * 15)),
        ((" ".join(["1.1"] * 30), "2.2"), " ".join(["1.1"] * 15) + " ... and 1 other draw"),
    ],
    ids=["one", "two", "three", "long", "just short enough", "long and two"],
)
def test_the_heads_of_the_first_draw_are_shown_up_to_a_head(heads, shown):
    row = replace(make_rows()[1], heads=heads)
    assert columns(primary_tables([row], baseline=None))["heads"] == [shown]


# ------------------------------------------------------------------------------------------------------------- CSV


def test_the_csv_has_a_value_for_every_column_and_keeps_the_order():
    header, *lines = to_csv(make_rows())
    assert header[:4] == ["cell", "task", "method", "metric"] and all(len(line) == len(header) for line in lines)
    assert [line[0] for line in lines] == [
        "mquake exact_match base",
        "mquake exact_match lofit",
        "truthfulqa mc1 base",
        "truthfulqa mc2 base",
        "truthfulqa mc3 base",
    ]
    base, tuned = (dict(zip(header, line, strict=True)) for line in lines[:2])
    assert (tuned["score"], tuned["gain"], tuned["trained_parameters"]) == ("0.7500", "0.2500", "24")
    assert (base["gain"], base["gain_low"], base["heads"]) == ("", "", "")
    assert (base["draws"], base["lowest"], base["highest"]) == ("1", "", "")


def test_the_csv_holds_all_heads_of_all_draws():
    many = " ".join(f"{layer}.10" for layer in range(30))
    row = replace(make_rows()[1], draws=2, lowest=0.25, highest=0.5, heads=(many, "2.2; 1.1"))
    header, line = to_csv([row])
    values = dict(zip(header, line, strict=True))
    assert values["heads"] == f"{many} / 2.2; 1.1"
    assert (values["draws"], values["lowest"], values["highest"]) == ("2", "0.2500", "0.5000")


# --------------------------------------------------------------------------------------------------------- helpers


def make_rows():
    base = Row("mquake", "base", "exact_match", 0.5, 0.4, 0.6, None, None, None, 1, None, None, 0, ("",))
    return [
        base,
        replace(
            base,
            method="lofit",
            score=0.75,
            low=0.7,
            high=0.8,
            gain=0.25,
            gain_low=-0.1,
            gain_high=0.5,
            trained_parameters=24,
            heads=("3.1 0.7",),
        ),
        replace(base, task="truthfulqa", metric="mc1", score=0.3, low=0.2, high=0.4),
        replace(base, task="truthfulqa", metric="mc2"),
        replace(base, task="truthfulqa", metric="mc3", score=0.7, low=0.6, high=0.8),
    ]


def columns(table):
    """The columns of the first Markdown table in a text, by their header."""
    lines = [line.strip("|").split("|") for line in table.splitlines() if line.startswith("|")]
    header, _, *body = [[value.strip() for value in line] for line in lines]
    return {name: [line[at] for line in body] for at, name in enumerate(header)}
