"""Studies: what each says of cells that are made up, against what their definitions say."""

import numpy as np
import pytest

from lofit import studies
from lofit.errors import LofitError
from lofit.report.evidence import Choice, Evidence, expected_jaccard, jaccard, mean_jaccard
from lofit.report.plots import save
from lofit.report.rows import Cell, Facts

LAYERS, HEADS = 8, 4


def cell(scores, heads=(), trained=16):
    """A cell with one draw and fold."""
    table = {"em_clean": np.asarray(scores, dtype=float)}
    return Cell({(1, 0): table}, {(1, 0): list(heads)} if heads else {}, trained, facts=Facts(kind="lofit"))


def answers(right, of=40):
    return [1.0] * right + [0.0] * (of - right)


def evidence(cells, choices=None, seeds=(42,), sizes=None, kinds=None, baseline="base"):
    """Evidence of cells by task and row; every row but `base` has its heads from step 1 unless `choices` says more."""
    chosen = {
        task: {row: (choices or {}).get(row, Choice("scale_norm")) for row in rows if row != "base"}
        for task, rows in cells.items()
    }
    return Evidence(
        model="tiny",
        shape=(LAYERS, HEADS),
        seeds=seeds,
        cells=cells,
        choices=chosen,
        kinds=kinds or {task: task for task in cells},
        train_sizes=sizes or dict.fromkeys(cells, 100),
        baseline=baseline,
    )


def made(name, found, **settings):
    page = studies.find(name)
    return page.study(found, page.Settings.of(settings))


def column(study, key):
    return [line[key] for line in study.table]


def texts(figure):
    return " ".join(text.get_text() for axes in figure.axes for text in axes.texts) + str(figure.get_supxlabel())


def first(k):
    return [(at // HEADS, at % HEADS) for at in range(k)]


def test_every_study_has_a_page_with_a_title_settings_and_a_preset():
    assert set(studies.names()) == {
        *("data_size", "head_distribution", "head_selection", "k_sweep", "methods", "other_task_heads", "overlap"),
        "seeds",
    }
    for page in map(studies.find, studies.names()):
        assert page.TITLE and callable(page.study)
    with pytest.raises(LofitError, match=r"^study: got 'table_6'; expected data_size, "):
        studies.find("table_6")


def test_a_k_sweep_has_a_line_for_each_ranking_in_the_order_of_k():
    cells = {
        "base": [cell(answers(4))],
        "k_8": [cell(answers(30), first(8))],
        "k_1": [cell(answers(10), first(1))],
        "random_8": [cell(answers(20), first(8))],
    }
    found = evidence({"mquake": cells}, {"random_8": Choice("random")})
    study = made("k_sweep", found, rows=["k_8", "k_1", "random_8"])
    assert [(line["row"], line["k"], line["score"]) for line in study.table] == [
        ("k_8", 8, 0.75),
        ("k_1", 1, 0.25),
        ("random_8", 8, 0.5),
    ]
    assert column(study, "share of heads") == [0.25, 1 / 32, 0.25]
    (axes,) = study.figure.axes
    lines = {tuple(bars.lines[0].get_xdata()): tuple(bars.lines[0].get_ydata()) for bars in axes.containers}
    assert lines == {(1, 8): (0.25, 0.75), (8,): (0.5,)}
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1\n3.1 %", "8\n25 %"]
    assert [text.get_text() for text in study.figure.legends[0].get_texts()] == ["scale_norm", "random"]
    # The base is a line across.
    assert [0.1, 0.1] in [list(line.get_ydata()) for line in axes.lines]
    with pytest.raises(LofitError, match=r"rows: got .* expected"):
        made("k_sweep", found, rows=["k_8"])


def test_data_size_puts_scores_over_the_examples_that_were_there():
    sizes = {"t_25": 25, "t_25_steps": 25, "t_50": 50, "t": 134}
    cells = {
        task: {"lofit": [cell(answers(right), first(2))]} for task, right in zip(sizes, (8, 12, 16, 20), strict=True)
    }
    found = evidence(cells, sizes=sizes, kinds=dict.fromkeys(sizes, "mquake"), baseline=None)
    study = made("data_size", found, series={"epochs": ["t", "t_25", "t_50"], "steps": ["t_25_steps", "t_50"]})
    assert [(line["line"], line["examples"], line["score"]) for line in study.table] == [
        ("epochs", 25, 0.2),
        ("epochs", 50, 0.4),
        ("epochs", 134, 0.5),
        ("steps", 25, pytest.approx(0.3)),
        ("steps", 50, 0.4),
    ]
    (axes,) = study.figure.axes
    assert axes.get_title() == "mquake: em_clean" and len(axes.containers) == 2


def test_relative_accuracy_is_the_score_over_that_of_the_tasks_own_heads():
    choices = {f"{task}_heads": Choice("from_task", {"task": task}) for task in ("one", "two")}
    cells = {
        "one": {
            "lofit": [cell(answers(20), first(2))],
            "one_heads": [cell(answers(20), first(2))],
            "two_heads": [cell(answers(5), first(2))],
        },
        "two": {
            "lofit": [cell(answers(30), first(2))],
            "one_heads": [cell(answers(29), first(2))],
            "two_heads": [cell(answers(30), first(2))],
        },
    }
    study = made("other_task_heads", evidence(cells, choices, baseline=None))
    assert [(line["heads of"], line["tuned on"]) for line in study.table] == [("two", "one"), ("one", "two")]
    assert column(study, "relative") == [0.25, pytest.approx(29 / 30)]
    assert column(study, "difference") == pytest.approx([-15 / 40, -1 / 40])
    # 15 of 40 questions lost is beyond chance; one is not.
    assert column(study, "corrected p")[0] < 0.01 < 0.1 < column(study, "corrected p")[1]
    shown = texts(study.figure)
    assert "0.250 **" in shown and "0.967" in shown and "0.967 *" not in shown and "(0.750)" in shown


def test_heads_of_other_tasks_need_two_tasks():
    cells = {"one": {"lofit": [cell(answers(20), first(2))]}}
    with pytest.raises(
        LofitError, match=r"^rows: got none with the heads of another task; expected one in run.transfers"
    ):
        made("other_task_heads", evidence(cells, baseline=None))


def test_heads_are_counted_by_layer_and_quarter_over_seeds():
    seeds = [cell(answers(20), [(0, 0), (7, 1)]), cell(answers(20), [(0, 1), (3, 1)])]
    study = made("head_distribution", evidence({"one": {"lofit": seeds}}, seeds=(1, 2)))
    (line,) = study.table
    assert [line[f"quarter {at}"] for at in (1, 2, 3, 4)] == [1.0, 0.5, 0.0, 0.5]
    assert line["k"] == 2 and line["layers with heads"] == 3 and line["mean layer"] == (0 + 7 + 0 + 3) / 4
    # Lines stand between layers: after the second, the fourth and the sixth of eight.
    assert [line.get_xdata()[0] for line in study.figure.axes[0].lines] == [1.5, 3.5, 5.5]
    heights = [bar.get_height() for bar in study.figure.axes[0].patches]
    assert heights == [1, 0, 0, 0.5, 0, 0, 0, 0.5]


def test_quarters_of_a_model_whose_layers_four_does_not_divide_hold_every_layer_once():
    for layers in (1, 2, 3, 5, 30):
        found = Evidence(
            "tiny", (layers, 1), (1,), {"one": {"lofit": [cell(answers(1), [(at, 0) for at in range(layers)])]}},
            {"one": {"lofit": Choice("scale_norm")}}, {"one": "one"}, {"one": 1},
        )  # fmt: skip
        (line,) = made("head_distribution", found).table
        quarters = [line[f"quarter {at}"] for at in (1, 2, 3, 4)]
        drawn = [line.get_xdata()[0] + 0.5 for line in made("head_distribution", found).figure.axes[0].lines]
        assert drawn == list(np.cumsum(quarters))[:3]
        assert sum(quarters) == layers and max(quarters) - min(quarters) <= 1


def test_overlap_counts_shared_heads_beside_what_chance_would_share():
    one, two = [(0, 0), (0, 1), (1, 0), (1, 1)], [(0, 0), (0, 1), (2, 0), (2, 1)]
    cells = {"one": {"lofit": [cell(answers(1), one)]}, "two": {"lofit": [cell(answers(1), two)]}}
    (line,) = made("overlap", evidence(cells, baseline=None)).table
    assert (line["heads of"], line["and of"]) == ("one, seed 42", "two, seed 42")
    assert line["shared"] == 2 and line["shared of K"] == 0.5 and line["by chance"] == 4 / 32
    assert line["Jaccard"] == 2 / 6 and line["Jaccard by chance"] == pytest.approx(0.5 / 7.5)


def test_the_jaccard_index_by_chance_is_near_that_of_many_random_sets():
    draws = np.random.default_rng(0)
    seen = []
    for _ in range(2000):
        one, two = (frozenset((0, int(head)) for head in draws.choice(200, 20, replace=False)) for _ in range(2))
        seen.append(jaccard(one, two))
    assert np.mean(seen) == pytest.approx(expected_jaccard(20, 20, 200), rel=0.03)
    assert jaccard(frozenset(), frozenset()) == 1 and mean_jaccard([one]) is None


@pytest.mark.parametrize("name", ["head_selection", "methods"])
def test_rows_are_compared_with_the_reference_and_draws_are_a_range(name):
    drawn = Cell(
        {(draw, 0): {"em_clean": np.array(answers(right))} for draw, right in ((1, 8), (2, 16))},
        {(draw, 0): first(2) for draw in (1, 2)},
        16,
        facts=Facts(kind="lofit"),
    )
    cells = {
        task: {"base": [cell(answers(4), trained=0)], "lofit": [cell(answers(36), first(2))], "random": [drawn]}
        for task in ("one", "two")
    }
    study = made(name, evidence(cells, {"random": Choice("random")}))
    rows = ["lofit", "random"] if name == "head_selection" else ["base", "lofit", "random"]
    assert column(study, "row") == rows * 2
    line = study.table[rows.index("random")]
    assert [line["score"], line["lowest draw"], line["highest draw"]] == pytest.approx([0.3, 0.2, 0.4])
    assert line["draws"] == 2
    assert line["difference"] == pytest.approx(-0.6) and line["corrected p"] < 0.01
    assert study.table[rows.index("lofit")]["difference"] is None
    assert study.short["row"] == rows and study.short["mean"][-1] == "0.300"
    assert study.short["one: em_clean"][rows.index("lofit")].startswith("0.900 [")


def test_seeds_have_their_scores_their_spread_and_how_alike_their_heads_are():
    seeds = [
        cell(answers(10), [(0, 0), (0, 1)]),
        cell(answers(20), [(0, 1), (0, 2)]),
        cell(answers(30), [(0, 2), (0, 3)]),
    ]
    cells = {"one": {"base": [cell(answers(4), trained=0)] * 3, "lofit": seeds}}
    study = made("seeds", evidence(cells, seeds=(1, 2, 3)))
    base, line = study.table
    assert (line["mean"], line["lowest"], line["highest"], line["spread"]) == (0.5, 0.25, 0.75, 0.25)
    assert line["alike"] == pytest.approx((1 / 3 + 0 + 1 / 3) / 3)
    assert base["spread"] == pytest.approx(0) and base["alike"] is None and base["k"] is None
    assert len(study.figure.axes[0].containers) == 6


def test_a_study_without_a_row_of_step_1_says_so():
    found = evidence({"one": {"random": [cell(answers(1), first(2))]}}, {"random": Choice("random")}, baseline=None)
    for name in ("head_selection", "methods", "overlap"):
        with pytest.raises(LofitError, match="got none whose heads step 1 has chosen"):
            made(name, found)


def test_the_same_cells_give_the_same_file(tmp_path):
    cells = {"one": {"base": [cell(answers(4))], "lofit": [cell(answers(36), first(2))]}}
    files = []
    for name in ("head_distribution", "methods", "overlap", "seeds"):
        for attempt in ("a", "b"):
            files.append(tmp_path / f"{name}_{attempt}.png")
            save(made(name, evidence(cells)).figure, files[-1])
        assert files[-1].read_bytes() == files[-2].read_bytes()
