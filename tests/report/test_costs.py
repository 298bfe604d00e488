"""Costs: means of what was measured, and blanks for what was not."""

from lofit.report.costs import Cost, cost_csv, cost_of, cost_table

MEBIBYTE = 2**20


def test_a_cost_is_the_mean_over_the_cells_that_measured_it():
    cells = [
        {"training_seconds": 10.0, "host_bytes": 3 * MEBIBYTE, "device_bytes": None, "steps": 7},
        {"training_seconds": 20.0, "selection_seconds": 4.0, "host_bytes": 5 * MEBIBYTE},
    ]
    assert cost_of("mquake", "lofit", cells) == Cost("mquake", "lofit", 15.0, 4.0, 4 * MEBIBYTE, None)
    assert cost_of("mquake", "base", [{}]) == cost_of("mquake", "base", []) == Cost("mquake", "base")


def test_the_table_leaves_blank_what_was_not_measured():
    costs = [Cost("mquake", "base"), Cost("mquake", "lofit", 15.04, 0.0, 2048.4 * MEBIBYTE, None)]
    assert cost_table(costs) == (
        "| task   | method | training, s | selection of heads, s | peak host memory, MiB | peak device memory, MiB |\n"
        "| ------ | ------ | ----------- | --------------------- | --------------------- | ----------------------- |\n"
        "| mquake | base   |             |                       |                       |                         |\n"
        "| mquake | lofit  | 15.0        | 0.0                   | 2,048                 |                         |"
    )
    assert cost_csv(costs) == [
        ["task", "method", "training_seconds", "selection_seconds", "host_bytes", "device_bytes"],
        ["mquake", "base", "", "", "", ""],
        ["mquake", "lofit", "15.040", "0.000", str(round(2048.4 * MEBIBYTE)), ""],
    ]
