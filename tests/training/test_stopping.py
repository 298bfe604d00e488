"""Early stopping: against a naive reading of an unstopped run, interrupted, and where there is nothing to stop by."""

import copy

import pytest
import torch
from accelerate import Accelerator

import lofit
from lofit import HeadAdapter, LofitError, Record, head_layout
from lofit.fitting.context import Context
from lofit.methods import jola, loreft
from lofit.training.checkpoint import Checkpoint
from lofit.training.initial import fresh_vectors
from lofit.training.loop import Progress, agreed
from lofit.training.settings import Runtime, TrainingSettings
from lofit.training.stopping import best_epoch, is_over
from lofit.training.subject import Subject
from tests.pairs import OBJECTIVES, PAIRS, RECORDS

# Answers of letters that training knows nothing of: what is learned first helps them, what is learned last does not.
STRANGE = [" x9#", " $!7z", " Uv&&q", " 0()", "~~"]
VAL = [
    Record(str(number), PAIRS[number][0], answer, PAIRS[(number + 1) % 5][2]) for number, answer in enumerate(STRANGE)
]
SETTINGS = TrainingSettings(lr=0.1, epochs=9, batch_size=2)
# Gates are noisy within a step, a basis is put right after it: both must be over when the epoch is judged.
KINDS = {
    "heads": lambda subject: HeadAdapter([(0, 1), (1, 2), (1, 3)], fresh_vectors(3, 8, seed=5)),
    "gates": jola.fresh,
    "subspace": lambda subject: loreft.fresh(subject, loreft.Settings(rank=2, first=2, last=2)),
}


@pytest.fixture(params=OBJECTIVES)
def objective(request):
    return OBJECTIVES[request.param]


@pytest.fixture(params=KINDS)
def kind(request):
    return KINDS[request.param]


@pytest.fixture
def always_due(monkeypatch):
    """A state after every step, as if each took long."""
    monkeypatch.setattr(Checkpoint, "due", lambda self: self.folder is not None)


@pytest.mark.parametrize("stop_after", [1, 2, 20])
def test_it_keeps_the_epoch_that_a_naive_loop_keeps(model, tokenizer, objective, kind, stop_after):
    tensors, rows, losses = naive(model, tokenizer, objective, kind, stop_after)
    subject = make_subject(model, tokenizer, objective)
    adapter = kind(subject)
    history = subject.train(adapter, with_stop(stop_after))
    assert adapter.state_dict().keys() == tensors.keys()
    assert all(torch.equal(value, tensors[name]) for name, value in adapter.state_dict().items())
    assert [{key: value for key, value in row.items() if key != "val_loss"} for row in history] == rows
    assert [row["val_loss"] for row in history if "val_loss" in row] == losses
    assert [row["step"] for row in history if "val_loss" in row] == [3 * (epoch + 1) for epoch in range(len(losses))]
    assert subject.progress.val_loss == min(losses)
    assert subject.progress.kept_epoch == losses.index(min(losses)) + 1
    # What is asked afterwards is still measured against the same reference.
    assert subject.loss_on_val(adapter, with_stop(stop_after)) == min(losses)


def test_what_is_learned_by_heart_stops_early_and_the_best_epoch_is_kept(model, tokenizer):
    subject = make_subject(model, tokenizer, OBJECTIVES["dpo"])
    stopped, whole = (KINDS["heads"](subject) for _ in range(2))
    history = subject.train(stopped, with_stop(2))
    best = subject.progress.kept_epoch
    assert best == 3 and len(history) == 3 * (best + 2)
    assert sum(row["loss"] for row in history[-3:]) < sum(row["loss"] for row in history[6:9])
    kept = subject.progress.val_loss
    subject.train(whole, SETTINGS)
    assert kept < subject.progress.val_loss and subject.progress.kept_epoch is None


@pytest.mark.usefixtures("always_due")
@pytest.mark.parametrize("killed_at", [2, 6, 7, -2, -1, None])
def test_a_resumed_run_stops_where_an_unbroken_one_does(model, tokenizer, objective, kind, tmp_path, killed_at):
    unbroken, settings = make_subject(model, tokenizer, objective), with_stop(2)
    expected = kind(unbroken)
    history = unbroken.train(expected, settings)
    deadly = len(history) if killed_at is None else killed_at % len(history)

    def kill(row):
        if row["step"] == deadly and killed_at is not None:
            raise KeyboardInterrupt

    broken = make_subject(model, tokenizer, objective, checkpoint=tmp_path, progress=Progress(on_step=kill))
    if killed_at is None:
        broken.train(kind(broken), settings)
    else:
        with pytest.raises(KeyboardInterrupt):
            broken.train(kind(broken), settings)
    resumed = make_subject(model, tokenizer, objective, checkpoint=tmp_path)
    adapter = kind(resumed)
    assert resumed.train(adapter, settings) == history
    assert resumed.progress.val_loss == unbroken.progress.val_loss
    for name, value in expected.state_dict().items():
        assert torch.equal(adapter.state_dict()[name], value), name


@pytest.mark.usefixtures("always_due")
def test_a_run_that_has_stopped_is_not_trained_on(model, tokenizer, tmp_path):
    subject = make_subject(model, tokenizer, OBJECTIVES["dpo"], checkpoint=tmp_path)
    history = subject.train(KINDS["heads"](subject), with_stop(1))
    assert len(history) < 3 * SETTINGS.epochs
    seen, again = [], make_subject(model, tokenizer, OBJECTIVES["dpo"], checkpoint=tmp_path)
    again.progress.on_step = seen.append
    state = (tmp_path / "state.safetensors").read_bytes()
    assert again.train(KINDS["heads"](again), with_stop(1)) == history == seen
    assert (tmp_path / "state.safetensors").read_bytes() == state


@pytest.mark.parametrize("runtime", [{"micro_batch_size": 1}, {"gradient_checkpointing": True}])
def test_how_it_is_carried_out_changes_no_more_than_rounding(model, tokenizer, objective, runtime):
    subjects = [make_subject(model, tokenizer, objective, runtime=some) for some in (Runtime(), Runtime(**runtime))]
    adapters = [KINDS["heads"](subject) for subject in subjects]
    histories = [subject.train(some, with_stop(2)) for subject, some in zip(subjects, adapters, strict=True)]
    one, other = ([row["val_loss"] for row in history if "val_loss" in row] for history in histories)
    assert other == pytest.approx(one, rel=1e-3)
    torch.testing.assert_close(adapters[1].offsets, adapters[0].offsets, rtol=1e-3, atol=1e-4)


def test_a_tensor_that_only_later_epochs_move_is_no_fault(model, tokenizer):
    """LoRA's A stays where it is in the first step, in which B is zero; here each epoch is one step."""
    config = {"peft_type": "LORA", "r": 2, "target_modules": ["q_proj"]}
    records = [{"prompt": prompt, "completion": right} for prompt, right, _ in PAIRS]
    strange = [{"prompt": record.prompt, "completion": record.completion} for record in VAL]
    progress = Progress()
    settings = {"config": config, "lr": 0.2, "batch_size": 5, "epochs": 4, "stop_after": 1}
    context = Context(progress=progress)
    lofit.fit(model, tokenizer, records, method="peft", val=strange, context=context, **settings)
    assert progress.kept_epoch == 1 and len(progress.history) == 2


@pytest.mark.parametrize("place", ["method", "step 1", "subject"])
def test_without_validation_records_it_is_refused_before_any_step(model, tokenizer, place):
    records = [{"prompt": prompt, "completion": right} for prompt, right, _ in PAIRS]
    given = {"method": {"stop_after": 3}, "step 1": {"scale_settings": {"stop_after": 3}}}
    calls = []
    handle = model.register_forward_pre_hook(lambda *_: calls.append(1))
    with pytest.raises(LofitError) as refusal:
        if place == "subject":
            subject = make_subject(model, tokenizer, OBJECTIVES["dpo"], val=[])
            subject.train(KINDS["heads"](subject), with_stop(3))
        else:
            lofit.fit(model, tokenizer, records, k=2, epochs=1, **given[place])
    handle.remove()
    assert not calls
    assert str(refusal.value) == (
        "stop_after: got 3, but no validation records (val); expected some to stop by, or null"
    )


@pytest.mark.parametrize(
    ("losses", "best", "over"),
    [
        ([], None, []),
        ([3.0], 1, []),
        ([3.0, 2.0, 2.5], 2, [1]),
        ([3.0, 2.0, 2.0], 2, [1]),
        ([2.0, 3.0, 2.5, 2.1], 1, [1, 2, 3]),
        ([2.0, 3.0, 1.0, 1.5], 3, [1]),
    ],
)
def test_an_epoch_is_better_only_if_its_loss_is_lower_than_every_one_before(losses, best, over):
    history = [
        row for epoch, loss in enumerate(losses, 1) for row in ({"epoch": epoch}, {"epoch": epoch, "val_loss": loss})
    ]
    assert best_epoch(history) == best
    assert [wait for wait in (1, 2, 3, 4) if is_over(history, wait)] == over
    assert not is_over(history, None)


def test_one_process_goes_by_its_own_loss_and_several_by_that_of_the_first():
    assert agreed(0.1 + 0.2, Accelerator(cpu=True)) == 0.1 + 0.2

    class Process:
        device, num_processes = "cpu", 2

        def __init__(self, first):
            self.is_main_process = first

        def reduce(self, value, _):
            # The other process of the two is the first one, or says nothing.
            return value if self.is_main_process else value + 0.25

    assert agreed(0.25, Process(True)) == agreed(0.75, Process(False)) == 0.25


# ---------------------------------------------------------------------------------------------------------- helpers


def make_subject(model, tokenizer, objective, **more):
    given = {"records": RECORDS, "val": VAL, "seed": 3, "objective": objective, **more}
    return Subject(head_layout(model), model=model, tokenizer=tokenizer, **given)


def with_stop(stop_after):
    return SETTINGS.model_copy(update={"stop_after": stop_after})


def naive(model, tokenizer, objective, kind, stop_after):
    """Trains all epochs and judges each from what the adapter was after it.

    Returns the numbers of the best epoch, and the rows and losses of the epochs up to where it would have stopped.
    """
    subject, snapshots = make_subject(model, tokenizer, objective), []
    adapter = kind(subject)

    def keep(row):
        if row["step"] % 3 == 0:
            snapshots.append(copy.deepcopy(adapter.state_dict()))

    subject.progress = Progress(on_step=keep)
    rows = subject.train(adapter, SETTINGS)
    best, tensors, losses, waited = float("inf"), None, [], 0
    for snapshot in snapshots:
        adapter.load_state_dict(snapshot)
        losses.append(subject.loss_on_val(adapter, SETTINGS))
        if losses[-1] < best:
            best, tensors, waited = losses[-1], snapshot, 0
        else:
            waited += 1
        if waited == stop_after:
            break
    return tensors, rows[: 3 * len(losses)], losses
