"""The rows written down: Markdown for each task, and CSV."""

from dataclasses import replace

import pytest

from lofit.report.rows import Facts, Row, primary_rows
from lofit.report.table import facts_table, head_lists, other_tables, percent, primary_tables, to_csv

# -------------------------------------------------------------------------------------------------------- Markdown


def test_the_primary_tables_show_the_first_metric_of_each_task_under_its_name():
    text = primary_tables(make_rows(), baseline="base")
    assert text == (
        "## mquake: exact_match\n\n"
        "| method | score | 95 % interval  | gain over base          | trained numbers | heads   |\n"
        "| ------ | ----- | -------------- | ----------------------- | --------------- | ------- |\n"
        "| base   | 0.500 | [0.400, 0.600] |                         | 0               |         |\n"
        "| lofit  | 0.750 | [0.700, 0.800] | +0.250 [-0.100, +0.500] | 24              | 3.1 0.7 |\n\n"
        "## truthfulqa: mc1\n\n"
        "| method | score | 95 % interval  | gain over base | trained numbers | heads |\n"
        "| ------ | ----- | -------------- | -------------- | --------------- | ----- |\n"
        "| base   | 0.300 | [0.200, 0.400] |                | 0               |       |"
    )


def test_the_other_tables_hold_the_other_metrics_of_the_tasks_that_have_some():
    assert other_tables(make_rows(), baseline="base") == (
        "### truthfulqa\n\n"
        "| metric | method | score | 95 % interval  | gain over base |\n"
        "| ------ | ------ | ----- | -------------- | -------------- |\n"
        "| mc2    | base   | 0.500 | [0.400, 0.600] |                |\n"
        "| mc3    | base   | 0.700 | [0.600, 0.800] |                |"
    )
    assert other_tables(primary_rows(make_rows()), baseline="base") == ""


def test_a_difference_to_a_reference_has_its_interval_and_corrected_p_and_takes_the_place_of_other_spreads():
    base, tuned, *_ = make_rows()
    found = {"difference": -0.25, "difference_low": -0.3, "difference_high": 0.01, "p": 0.0001, "corrected_p": 0.0004}
    compared = replace(base, reference="lofit", **found)
    random = replace(compared, method="random", draws=10, lowest=0.3, highest=0.4, corrected_p=0.25)
    shown = columns(primary_tables([compared, tuned, random], baseline="base"))
    assert shown["difference to lofit"] == ["-0.250 [-0.300, +0.010]", "", "-0.250 [-0.300, +0.010]"]
    assert shown["corrected p"] == ["< 0.001", "", "0.250"]
    assert shown["gain over base"] == ["", "+0.250", ""]
    assert "range over draws" not in shown


def test_what_a_score_took_is_shown_where_it_is_known():
    base, tuned, *_ = make_rows()
    assert list(columns(primary_tables([base, tuned], baseline=None))) == [
        *("method", "score", "95 % interval", "trained numbers", "heads")
    ]
    full = replace(tuned, share=1.5, ce=-0.0124, kl=0.0316, facts=Facts(configurations=9))
    computed = replace(base, method="iti", share=0.0, facts=Facts(numbers=1536))
    shown = columns(primary_tables([full, computed, replace(full, trained_parameters=12345)], baseline=None))
    assert shown["trained numbers"] == ["24 (1.5 %)", "0 (holds 1,536)", "12,345 (1.5 %)"]
    assert shown["configurations"] == ["9", "1", "9"]
    assert shown["drift CE"] == ["-0.012", "", "-0.012"] and shown["drift KL"] == ["0.032", "", "0.032"]


@pytest.mark.parametrize(
    ("share", "shown"),
    [(0, "0"), (0.00123, "0.0012"), (0.0999, "0.10"), (0.5, "0.50"), (1.25, "1.2"), (10, "10"), (100, "100")],
)
def test_shares_have_two_digits_that_count(share, shown):
    assert percent(share) == shown


def test_heads_of_many_rows_stand_in_a_list_instead_of_the_table():
    base, tuned, *_ = make_rows()
    few = [base, *(replace(tuned, method=f"m{number}") for number in range(7))]
    assert "| heads" in primary_tables(few, baseline="base") and head_lists(few) == ""
    many = [*few, replace(tuned, method="last", heads=("1.1", "2.2"))]
    assert "heads" not in primary_tables(many, baseline="base")
    first, blank, *lines = head_lists(many).split("\n")
    assert (first, blank) == ("mquake:", "")
    assert lines[0] == "- m0: 3.1 0.7" and lines[-1] == "- last: 1.1 and 1 other draw" and len(lines) == 8


def test_what_each_row_is_stands_in_a_table_once_for_all_tasks():
    base, tuned, *_ = make_rows()
    heads = Facts("heads", "head outputs", "all", "o_proj bias", 24, 420)
    lora = Facts("lora", "weights", "prompt", None, 5000, 20100)
    rows = [
        base,
        replace(tuned, share=0.25, facts=heads),
        replace(tuned, method="lora", trained_parameters=5000, share=12.0, facts=lora),
        replace(tuned, task="clutrr", share=0.5, trained_parameters=48, facts=replace(heads, numbers=48)),
        replace(tuned, task="clutrr", metric="other", trained_parameters=99),
    ]
    shown = columns(facts_table(rows))
    assert shown["method"] == ["base", "lofit", "lora"]
    assert shown["kind"] == ["", "heads", "lora"] and shown["site"] == ["", "head outputs", "weights"]
    assert shown["positions"] == ["", "all", "prompt"]
    assert shown["trained numbers"] == ["0", "24-48", "5,000"] and shown["% of model"] == ["", "0.25-0.50", "12"]
    assert shown["bytes"] == ["", "420", "20,100"]
    assert shown["served without lofit"] == ["", "o_proj bias", "no"]
    assert "numbers held" not in shown
    computed = replace(base, facts=Facts("heads", numbers=1536))
    assert columns(facts_table([computed]))["numbers held"] == ["1,536"]


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


def test_the_csv_has_what_is_known_of_a_row_in_digits_that_count():
    facts = Facts("heads", "head outputs", "all", "o_proj bias", None, 420, 9)
    row = replace(make_rows()[1], facts=facts, share=0.00021, ce=0.0000123, kl=0.5, p=0.0001, corrected_p=0.0025)
    header, line = to_csv([row])
    values = dict(zip(header, line, strict=True))
    assert (values["share"], values["ce"], values["kl"]) == ("0.000210", "0.000012", "0.500000")
    assert (values["p"], values["corrected_p"], values["difference"]) == ("0.000100", "0.002500", "")
    assert (values["kind"], values["site"], values["where"]) == ("heads", "head outputs", "all")
    assert (values["served_as"], values["adapter_bytes"], values["configurations"]) == ("o_proj bias", "420", "9")
    # Where nothing else is known, an adapter holds what was trained.
    assert values["numbers"] == "24"


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
