"""Checkpoints: whole or not there, and only for the inputs that they were made from."""

import pytest
import torch

from lofit.training import checkpoint
from lofit.training.checkpoint import Checkpoint, fingerprint, load_optimizer_tensors, optimizer_tensors

TENSORS = {"adapter.offsets": torch.arange(6.0).view(2, 3), "optimizer.0.step": torch.tensor(7.0)}
HISTORY = [{"step": 7, "loss": 0.1 + 0.2, "lr": 1e-3}]


def test_what_was_saved_comes_back_to_the_bit(tmp_path):
    Checkpoint(tmp_path / "deep" / "run").save(7, TENSORS, HISTORY)
    step, tensors, history = Checkpoint(tmp_path / "deep" / "run").load()
    assert (step, history) == (7, HISTORY)
    assert tensors.keys() == TENSORS.keys()
    assert all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)


def test_the_latest_state_is_the_one_that_counts(tmp_path):
    state = Checkpoint(tmp_path)
    state.save(1, TENSORS, [])
    state.save(2, {"adapter.offsets": torch.ones(1)}, HISTORY)
    assert state.load()[0] == 2
    assert [file.name for file in tmp_path.iterdir()] == ["state.safetensors"]


@pytest.mark.parametrize("before", [None, 3])
def test_a_write_that_was_cut_short_is_never_taken_for_a_whole_one(tmp_path, monkeypatch, before):
    state = Checkpoint(tmp_path)
    if before:
        state.save(before, TENSORS, HISTORY)

    def killed(tensors, file, metadata):
        file.write_bytes(b"half a file")
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "save_file", killed)
    with pytest.raises(KeyboardInterrupt):
        state.save(4, TENSORS, [])
    assert any(file.name != "state.safetensors" for file in tmp_path.iterdir())
    found = state.load()
    assert found is None if before is None else found[0] == before


def test_nothing_is_saved_or_found_without_a_folder():
    state = Checkpoint(None, seconds=0.0)
    state.save(1, TENSORS, [])
    assert state.load() is None and not state.due()
    state.clear()


def test_a_checkpoint_is_due_when_so_long_has_passed_since_the_last_one(tmp_path, monkeypatch):
    now = 100.0
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: now)
    state, due = Checkpoint(tmp_path, seconds=4.0), []
    for second in range(1, 12):
        now = 100.0 + second
        if state.due():
            due.append(second)
            state.save(second, TENSORS, [])
    assert due == [4, 8]
    assert Checkpoint(tmp_path, seconds=0.0).due() and not Checkpoint(tmp_path).due()


def test_the_state_of_other_inputs_is_not_read(tmp_path):
    Checkpoint(tmp_path, inputs="these").save(7, TENSORS, HISTORY)
    assert Checkpoint(tmp_path, inputs="those").load() is None and Checkpoint(tmp_path).load() is None
    assert Checkpoint(tmp_path, inputs="these").load()[0] == 7


@pytest.mark.parametrize("damage", [b"", b"half a file", None])
def test_a_damaged_state_is_no_state(tmp_path, damage):
    Checkpoint(tmp_path).save(7, TENSORS, HISTORY)
    file = tmp_path / "state.safetensors"
    file.write_bytes(file.read_bytes()[:-1] if damage is None else damage)
    assert Checkpoint(tmp_path).load() is None


def test_a_cleared_checkpoint_is_gone(tmp_path):
    state = Checkpoint(tmp_path / "run")
    state.save(1, TENSORS, [])
    state.clear()
    state.clear()
    assert state.load() is None and not (tmp_path / "run").exists()


def test_a_saved_tensor_is_a_copy(tmp_path):
    base = torch.zeros(4, 4)
    Checkpoint(tmp_path).save(1, {"a": base.T, "b": base[1]}, [])
    base += 1
    assert all(value.abs().max() == 0 for value in Checkpoint(tmp_path).load()[1].values())


def test_an_optimizer_goes_on_as_if_it_had_never_stopped():
    straight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([straight], lr=0.1)
    for step in range(6):
        if step == 3:
            resumed = torch.nn.Parameter(straight.detach().clone())
            other = torch.optim.AdamW([resumed], lr=0.1)
            saved = {name: value.clone() for name, value in optimizer_tensors(optimizer).items()}
            load_optimizer_tensors(other, saved)
        for vectors, stepper in ((straight, optimizer), *([(resumed, other)] if step >= 3 else [])):
            stepper.zero_grad()
            (vectors**3).sum().backward()
            stepper.step()
    assert torch.equal(straight, resumed)


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "a.txt").write_text("changed"),
        lambda folder: (folder / "c.txt").write_text("new"),
        lambda folder: (folder / "a.txt").unlink(),
        lambda folder: (folder / "deep" / "b.txt").write_text("changed"),
    ],
)
def test_a_fingerprint_changes_with_the_content_of_a_folder(tmp_path, change):
    folder = make_folder(tmp_path / "one")
    before = fingerprint(folder)
    change(folder)
    assert fingerprint(folder) != before


def test_a_fingerprint_does_not_change_with_the_path(tmp_path):
    one, other = make_folder(tmp_path / "one"), make_folder(tmp_path / "other" / "place")
    assert fingerprint({"lr": 0.1}, one) == fingerprint({"lr": 0.1}, other)
    assert fingerprint(one / "a.txt") == fingerprint(other / "a.txt")


def test_a_fingerprint_changes_with_the_numbers_of_a_tensor_and_not_with_its_place_in_memory():
    vectors = torch.arange(6.0).view(2, 3)
    same = vectors.T.contiguous().T
    assert not same.is_contiguous() and fingerprint(same) == fingerprint(vectors)
    assert fingerprint(vectors.clone().requires_grad_()) == fingerprint(vectors)
    assert fingerprint(vectors + 1e-6) != fingerprint(vectors)


@pytest.mark.parametrize("other", [({"lr": 0.2}, 42), ({"lr": 0.1}, 43), ({"lr": 0.1},), ({"lr": 0.1}, "42")])
def test_a_fingerprint_changes_with_every_plain_input(other):
    assert fingerprint(*other) != fingerprint({"lr": 0.1}, 42)


def test_a_fingerprint_does_not_depend_on_the_order_of_keys():
    assert fingerprint({"a": 1, "b": [(0, 1)]}) == fingerprint({"b": [[0, 1]], "a": 1})


# ---------------------------------------------------------------------------------------------------------- helpers


def make_folder(folder):
    (folder / "deep").mkdir(parents=True)
    (folder / "a.txt").write_text("a")
    (folder / "deep" / "b.txt").write_text("b")
    return folder
