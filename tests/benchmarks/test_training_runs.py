"""Whole runs of training: the published form goes through the same batches and ends where lofit's loop does."""

import pytest
import torch

from benchmarks.measure import difference
from benchmarks.steps import fresh_adapter
from benchmarks.training import LOFIT, PUBLISHED, by_lofit, chosen_heads, courses, side_by_side, whole_runs


@pytest.mark.parametrize("task", ["mquake", "truthfulqa"])
@pytest.mark.parametrize("step", [0, 1])
def test_the_published_form_and_lofit_lose_the_same_in_every_step(setting, task, step):
    course = courses(setting, setting.texts.tuning[task])[step]
    heads, vectors = [(setting.layout.all_heads(), "scales"), ([(1, 2), (3, 0)], "offsets")][step]
    variants = {variant.name: variant for variant in side_by_side(setting, course, heads, vectors)}
    losses = {}
    for name in (LOFIT, PUBLISHED):
        with variants[name].around():
            losses[name] = variants[name].run()["losses"]
    assert len(losses[LOFIT]) == variants[LOFIT].steps == 10
    assert difference(losses[PUBLISHED], losses[LOFIT]) < 1e-4
    # Steps of the same epoch see other rows, and steps of the same rows other vectors.
    assert len(set(losses[LOFIT].tolist())) == 10


def test_runs_begin_anew_each_time(setting):
    course = courses(setting, setting.texts.tuning["mquake"])[1]
    ours = side_by_side(setting, course, [(0, 1)], "offsets")[0]
    with ours.around():
        assert torch.equal(ours.run()["losses"], ours.run()["losses"])


def test_lora_changes_neither_the_model_nor_what_is_compared(setting):
    before = {name: value.clone() for name, value in setting.model.state_dict().items()}
    course = courses(setting, setting.texts.tuning["mquake"])[0]
    for variant in side_by_side(setting, course, setting.layout.all_heads(), "scales")[1:3]:
        assert variant.name.startswith("LoRA")
        with variant.around():
            assert variant.run() == {}
    after = setting.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_step_two_tunes_the_heads_with_the_largest_scales(setting):
    course = courses(setting, setting.texts.tuning["mquake"])[0]
    adapter = fresh_adapter(setting, setting.layout.all_heads(), "scales")
    by_lofit(setting, course, adapter)
    squares = {head: sum(x * x for x in row) for head, row in zip(adapter.heads, adapter.scales.tolist(), strict=True)}
    # 3 % of 16 heads are less than one.
    assert chosen_heads(setting, course) == [max(squares, key=squares.get)]


def test_each_task_has_a_table_for_each_step(setting):
    series = list(whole_runs(setting))
    assert [member.title for member in series] == [
        f"{task}, step {step}" for task in ("mquake", "truthfulqa") for step in (1, 2)
    ]
    assert "4 preference pairs of truthfulqa" in series[2].note and "10 steps" in series[2].note
