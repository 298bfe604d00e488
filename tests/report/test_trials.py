"""Searched settings: all of them, with what they reached, and how often each was chosen."""

import math

from lofit.report.trials import trial_tables


def trial(lr, score, loss):
    return {"settings": {"lr": lr, "epochs": 5}, "score": score, "loss": loss}


def lines(text):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if "lr" in line]


def test_all_configurations_are_shown_and_the_chosen_one_is_marked():
    tasks = {"mquake": {"lofit": [[trial(0.01, 0.5, 1.0), trial(0.02, 0.75, 2.0)]], "base": [[]]}, "clutrr": {}}
    assert trial_tables(tasks) == (
        "### mquake\n\n"
        "| method | settings          | val score | val loss | chosen |\n"
        "| ------ | ----------------- | --------- | -------- | ------ |\n"
        "| lofit  | lr 0.01, epochs 5 | 0.5000    | 1.0000   |        |\n"
        "| lofit  | lr 0.02, epochs 5 | 0.7500    | 2.0000   | yes    |"
    )
    assert trial_tables({"mquake": {"lofit": [[trial(0.01, 0.5, 1.0)]], "base": []}}) == ""


def test_ties_go_to_the_lower_loss_and_then_to_the_first():
    parts = [[trial(1, 0.5, 2.0), trial(2, 0.5, 1.0), trial(3, 0.5, 1.0)]]
    assert [line[-1] for line in lines(trial_tables({"mquake": {"lofit": parts}}))] == ["", "yes", ""]


def test_over_several_parts_scores_are_means_and_choices_are_counted():
    parts = [
        [trial(1, 0.5, 1.0), trial(2, 0.6, 3.0)],
        [trial(1, 0.7, 2.0), trial(2, 0.6, 1.0)],
        [trial(1, 0.9, 3.0), trial(2, 0.3, 2.0)],
    ]
    first, second = lines(trial_tables({"mquake": {"lofit": parts}}))
    assert first[2:] == ["0.7000", "2.0000", "2 of 3"] and second[2:] == ["0.5000", "2.0000", "1 of 3"]


def test_a_configuration_that_failed_says_so():
    parts = [
        [trial(1, 0.5, 1.0), trial(2, -math.inf, math.inf), trial(3, None, None)],
        [trial(1, 0.6, 1.0), trial(2, 0.8, 0.5), trial(3, None, None)],
        [trial(1, None, None), trial(2, None, None), trial(3, None, None)],
    ]
    one, two, three = lines(trial_tables({"mquake": {"lofit": parts}}))
    assert one[2:] == ["0.5500 (1 of 3 failed)", "1.0000", "1 of 3"]
    assert two[2:] == ["0.8000 (2 of 3 failed)", "0.5000", "1 of 3"]
    assert three[2:] == ["failed", "failed", ""]
