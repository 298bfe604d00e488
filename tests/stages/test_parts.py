"""What a fitted cell leaves: figures of the last epoch or the one that was kept; adapters that name their base."""

import pytest
import torch

from lofit import HeadAdapter
from lofit.adapters.provenance import Provenance
from lofit.storage.files import read_json, write_json
from lofit.training.loop import Progress
from stages import paths
from stages.parts import over_parts, summarise, write_adapters

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


@pytest.mark.parametrize(("conversion", "known_as"), [(None, "some/folder"), ({"sha256": "0" * 64}, "smollm2-135m")])
def test_an_adapter_names_its_base_so_that_it_is_found_again(conversion, known_as, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    layout = {"num_layers": 2, "num_heads": 4, "head_dim": 8, "projections": ["0.o_proj", "1.o_proj"]}
    base = {"name": "smollm2-135m", "source": "some/folder", "revision": "f" * 64, "layout": layout}
    write_json(paths.BASE_MODEL, {**base, "conversion": conversion})
    train = paths.data_folder("task") / "train.jsonl"
    train.parent.mkdir(parents=True)
    train.write_text("")
    adapter = HeadAdapter([(0, 1)], offsets=torch.ones(1, 8), provenance=Provenance(training={"parameters": {}}))
    write_adapters({(1, 0): adapter}, "task", 42, "lofit")
    config = read_json(paths.adapter_folder("task", 42, "lofit") / "fold_0" / "config.json")
    assert (config["base_model"], config["base_revision"]) == (known_as, "f" * 64)
