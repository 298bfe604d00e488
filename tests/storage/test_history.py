"""Curves: what was written comes back, with losses on validation records where there are some."""

from lofit.storage.history import COLUMNS, read_history, write_history

ROWS = [
    {"step": step, "draw": 1, "fold": 0, "epoch": epoch, "loss": 1 / step, "penalty": 0.0, "lr": 0.1}
    for step, epoch in ((1, 1), (2, 1), (3, 2))
]


def test_a_curve_of_a_run_that_cannot_stop_early_has_the_columns_of_every_run(tmp_path):
    write_history(tmp_path / "curve.csv", iter(ROWS))
    assert (tmp_path / "curve.csv").read_text().splitlines() == [
        ",".join(COLUMNS),
        "1,1,0,1,1,0,0.1",
        "2,1,0,1,0.5,0,0.1",
        "3,1,0,2,0.333333,0,0.1",
    ]
    assert read_history(tmp_path / "curve.csv")[1] == ROWS[1]


def test_the_loss_on_validation_records_stands_at_the_end_of_an_epoch(tmp_path):
    rows = [ROWS[0], ROWS[1] | {"val_loss": 2.0}, ROWS[2] | {"val_loss": 1 / 3}]
    write_history(tmp_path / "curve.csv", rows)
    lines = (tmp_path / "curve.csv").read_text().splitlines()
    assert [line.split(",")[len(COLUMNS)] for line in lines] == ["val_loss", "", "2", "0.333333"]
    read = read_history(tmp_path / "curve.csv")
    assert read[0] == ROWS[0] and [row.get("val_loss") for row in read] == [None, 2.0, 0.333333]
