"""The figures of a fitted cell: of the last epoch, or of the one that was kept."""

from lofit.training.loop import Progress
from stages.parts import over_parts, summarise

LOSSES = [(1, 8.0), (1, 6.0), (2, 4.0), (2, 2.0), (3, 1.0), (3, 3.0)]


def progress(val_losses=(), val_loss=0.5):
    history = [{"step": step, "epoch": epoch, "loss": loss} for step, (epoch, loss) in enumerate(LOSSES, 1)]
    for row, loss in zip(history[1::2], val_losses, strict=False):
        row["val_loss"] = loss
    return Progress(history=history, val_loss=val_loss)


def test_the_train_loss_is_that_of_the_epoch_whose_numbers_the_adapter_has():
    last = summarise(progress(), 7)
    kept = summarise(progress((2.0, 1.0, 1.5)), 7)
    assert last == {"steps": 6, "trained_parameters": 7, "train_loss": 2.0, "val_loss": 0.5}
    assert kept == {**last, "train_loss": 3.0, "kept_epoch": 2}


def test_the_epochs_that_parts_have_kept_are_averaged():
    figures = [summarise(progress((2.0, 1.0, 1.5)), 7), summarise(progress((2.0, 3.0, 1.0)), 7)]
    assert over_parts(figures) == {
        "steps": 12,
        "trained_parameters": 7,
        "train_loss": 2.5,
        "val_loss": 0.5,
        "kept_epoch": 2.5,
    }
    assert "kept_epoch" not in over_parts([summarise(progress(), 7)])
