"""The goals are ratios of the rows that were measured."""

from benchmarks.goals import goals, summary
from benchmarks.measure import Row
from benchmarks.training import LOFIT, LORA, PUBLISHED


def row(group, series, name, ms, mb=1.0, absolute=None):
    return Row(group, series, name, None, ms, ms, ms, 1.0, 1.0, 1.0, mb, 50.0, None, absolute)


ROWS = [
    row("training", "mquake, step 1", LOFIT, 10, 4),
    row("training", "mquake, step 1", LORA, 11, 6),
    row("training", "mquake, step 1", PUBLISHED, 30),
    row("training", "mquake, step 2", LOFIT, 5, 2),
    row("training", "mquake, step 2", LORA, 4, 6),
    row("training", "mquake, step 2", PUBLISHED, 30),
    row("lm-eval", "8 answers", "lofit", 2),
    row("lm-eval", "8 answers", "lm-eval, batch_size 1", 17, absolute=3e-6),
]


def test_ratios_are_of_the_other_way_over_lofit():
    met = {goal.text: (goal.ratio, goal.least) for goal in goals(ROWS)}
    assert met == {
        "mquake: time of the published form, both steps together": (4.0, 4.0),
        "mquake, step 1: time of LoRA's step, lofit's loop": (1.1, 1.0),
        "mquake, step 1: memory of LoRA's step, lofit's loop": (1.5, 1.0),
        "mquake, step 2: time of LoRA's step, lofit's loop": (0.8, 1.0),
        "mquake, step 2: memory of LoRA's step, lofit's loop": (3.0, 1.0),
        "scoring: time of lm-eval, batch_size 1": (8.5, 8.0),
    }


def test_a_goal_that_is_missed_says_so():
    lines = [line for line in summary(ROWS).splitlines() if line.startswith("| mquake, step 2: time")]
    assert lines[0].split("|")[2:5] == [" 0.80     ", " 1        ", " no  "]
    assert summary(ROWS).count(" yes ") == 5
    assert "log-probability from lm-eval's: 3.0e-06 nats" in summary(ROWS)


def test_rows_of_random_models_have_no_goals():
    assert summary([row("step1", "scales", "lofit", 1)]) == ""
