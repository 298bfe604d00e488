"""Adapters of other kinds through training, scoring and generation, each against a computation of one row at a time."""

from contextlib import contextmanager

import pytest
import torch
from torch import nn

from lofit import HeadAdapter, Record, head_layout
from lofit.adapters.base import Adapter
from lofit.models.tokens import Encoded, encode
from lofit.scoring.predict import predict
from lofit.tasks.record import Metric, Objective
from lofit.training.checkpoint import Checkpoint
from lofit.training.loop import Progress, shuffled
from lofit.training.settings import Runtime, TrainingSettings
from lofit.training.subject import Subject
from tests.pairs import OBJECTIVES, PAIRS, RECORDS

WIDTH = 32
SETTINGS = TrainingSettings(lr=0.05, epochs=3, batch_size=3)
CHOICES = [
    Record(str(number), prompt, right, correct=(right, " no"), incorrect=(wrong, " the cat sat on"))
    for number, (prompt, right, wrong) in enumerate(PAIRS)
]


class Vector(Adapter):
    """Adds a vector to the input of one layer's output projection, everywhere.

    By default of the first layer: what the last one adds at a position is seen at that position alone.
    """

    def __init__(self, layer=0, *, scale=1.0):
        super().__init__()
        self.layer = layer
        generator = torch.Generator().manual_seed(7)
        self.vector = nn.Parameter(scale * torch.randn(WIDTH, generator=generator))

    def added(self):
        return self.vector

    def attach(self, model, layout=None):
        def hook(_, args):
            z = args[0]
            # A pass of another width goes on from what has been read: generated tokens.
            if self.mask is None:
                return (z + self.added(), *args[1:])
            if self.mask.shape != z.shape[:2]:
                return None
            return (z + self.mask[..., None].to(z) * self.added(), *args[1:])

        path = (layout or head_layout(model)).projections[self.layer]
        return model.get_submodule(path).register_forward_pre_hook(hook)


class Places(Vector):
    """That vector at some positions only."""

    def positions(self, row):
        # The first token and the end of the prompt, as far as there are such tokens.
        return sorted({0, max(row.start - 1, 0), max(row.start - 2, 0)})


class WholePrompt(Vector):
    def positions(self, row):
        return range(row.start)


class Tail(Vector):
    """At the last token of a row, which predicts nothing."""

    def positions(self, row):
        return [len(row.ids) - 1]


class Deep(Vector):
    def __init__(self):
        super().__init__(layer=2)

    lowest_layer = 2


class DeepPlaces(Places):
    def __init__(self):
        super().__init__(layer=2)

    lowest_layer = 2


class Noisy(Vector):
    """With noise that seed and step decide."""

    def __init__(self, seed=3):
        super().__init__()
        self.seed, self.noise = seed, torch.zeros(WIDTH)

    def begin_step(self, step):
        generator = torch.Generator().manual_seed(1000 * self.seed + step)
        self.noise = torch.randn(WIDTH, generator=generator)

    def added(self):
        return self.vector + self.noise


class Rewrites(Vector):
    """Another weight while it is attached."""

    @contextmanager
    def attach(self, model, layout=None):
        weight = model.model.layers[0].mlp.up_proj.weight
        before = weight.detach().clone()
        weight.data.mul_(1.5)
        try:
            with super().attach(model, layout):
                yield
        finally:
            weight.data.copy_(before)


@pytest.fixture(scope="module")
def deep(make_model):
    return make_model(num_hidden_layers=4)


@pytest.fixture
def always_due(monkeypatch):
    """A state after every step, as if each took long."""
    monkeypatch.setattr(Checkpoint, "due", lambda self: self.folder is not None)


# ---------------------------------------------------------------------------------------- at some positions


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("kind", [Places, WholePrompt])
@pytest.mark.parametrize("micro_batch_size", [None, 2])
def test_training_edits_the_chosen_positions_and_no_others(model, tokenizer, kind, objective, micro_batch_size):
    adapter = kind()
    runtime = Runtime(micro_batch_size=micro_batch_size)
    subject = make_subject(model, tokenizer, objective=OBJECTIVES[objective], val=RECORDS[:4], runtime=runtime)
    history = subject.train(adapter, SETTINGS)
    vector, losses, val_loss = train_by_hand(model, tokenizer, kind(), OBJECTIVES[objective])
    assert [row["loss"] for row in history] == pytest.approx(losses, rel=1e-4)
    torch.testing.assert_close(adapter.vector.detach(), vector, rtol=1e-3, atol=1e-4)
    assert subject.progress.val_loss == pytest.approx(val_loss, rel=1e-3)
    everywhere = make_subject(model, tokenizer, objective=OBJECTIVES[objective]).train(Vector(), SETTINGS)
    assert [row["loss"] for row in history] != pytest.approx([row["loss"] for row in everywhere], rel=1e-2)
    assert adapter.mask is None and not hooks(model)


@pytest.mark.parametrize("kind", [Places, WholePrompt, Vector])
@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_answers_are_scored_with_the_chosen_positions_edited(model, tokenizer, kind, batch_size):
    adapter = kind()
    with adapter.attach(model):
        predictions = predict(
            model,
            tokenizer,
            CHOICES,
            Metric("multiple_choice"),
            batch_size=batch_size,
            max_new_tokens=1,
            reading=adapter.reader,
        )
    assert adapter.mask is None
    for record, prediction in zip(CHOICES, predictions, strict=True):
        for name in ("correct", "incorrect"):
            rows = [encode(tokenizer, record.prompt, answer) for answer in getattr(record, name)]
            with torch.no_grad():
                expected = [logprob_by_hand(model, adapter, row).item() for row in rows]
            assert prediction.evidence[name] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("batch_size", [2, 5])
def test_the_last_token_of_a_row_changes_no_score(model, tokenizer, batch_size):
    adapter, metric = Tail(scale=5.0), Metric("multiple_choice")
    options = {"batch_size": batch_size, "max_new_tokens": 1}
    plain = predict(model, tokenizer, CHOICES, metric, **options)
    with adapter.attach(model):
        edited = predict(model, tokenizer, CHOICES, metric, **options, reading=adapter.reader)
    for one, other in zip(plain, edited, strict=True):
        assert other.evidence["correct"] == pytest.approx(one.evidence["correct"], abs=1e-4)
        assert other.evidence["incorrect"] == pytest.approx(one.evidence["incorrect"], abs=1e-4)


@pytest.mark.parametrize("kind", [Places, WholePrompt, Vector])
@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_generation_edits_the_prompt_behind_its_padding_and_nothing_after_it(model, tokenizer, kind, batch_size):
    adapter = kind()
    with adapter.attach(model):
        predictions = predict(
            model,
            tokenizer,
            RECORDS,
            Metric("exact_match", stops=()),
            batch_size=batch_size,
            max_new_tokens=6,
            reading=adapter.reader,
        )
    texts = [prediction.evidence["generated"] for prediction in predictions]
    assert texts == [continue_by_hand(model, tokenizer, adapter, record.prompt, 6) for record in RECORDS]
    assert texts != [continue_by_hand(model, tokenizer, None, record.prompt, 6) for record in RECORDS]
    assert len(set(texts)) > 1


def test_what_follows_a_prompt_of_one_token_is_not_edited_either(model, tokenizer):
    adapter = WholePrompt(scale=3.0)
    record = Record("1", "Q", " no")
    assert len(tokenizer("Q")["input_ids"]) == 1
    metric = Metric("exact_match", stops=())
    with adapter.attach(model):
        (prediction,) = predict(
            model, tokenizer, [record], metric, batch_size=1, max_new_tokens=6, reading=adapter.reader
        )
    assert prediction.evidence["generated"] == continue_by_hand(model, tokenizer, adapter, "Q", 6)


def test_only_an_adapter_that_acts_at_some_positions_has_something_to_say_of_a_pass():
    assert Vector().reader is None and Vector().acts_everywhere
    adapter = Places()
    assert not adapter.acts_everywhere
    rows = [Encoded((5, 6, 7, 8), 3), Encoded((9, 3), 1)]
    with adapter.reader(rows, 4):
        assert adapter.mask.tolist() == [[True, True, True, False], [True, False, False, False]]
    with adapter.reader(rows, 5, left=True):
        assert adapter.mask.int().tolist() == [[0, 1, 1, 1, 0], [0, 0, 0, 1, 0]]
    with pytest.raises(KeyError), adapter.reader(rows, 4):
        raise KeyError
    assert adapter.mask is None


# ----------------------------------------------------------------------------------------------- kept prefix


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("kind", [Deep, DeepPlaces])
def test_the_kept_prefix_gives_the_losses_of_all_layers(deep, tokenizer, capsys, kind, objective):
    results = []
    for keeps in (True, False):
        adapter = kind()
        runtime = Runtime(keep_prefix=keeps)
        subject = make_subject(deep, tokenizer, objective=OBJECTIVES[objective], runtime=runtime)
        results.append(([row["loss"] for row in subject.train(adapter, SETTINGS)], adapter.vector.detach()))
        assert ("keeping the output of the lower 2 of 4 layers" in capsys.readouterr().out) == keeps
    (kept, vector), (plain, expected) = results
    assert kept == pytest.approx(plain, rel=1e-4)
    torch.testing.assert_close(vector, expected, rtol=1e-3, atol=1e-5)


def test_where_the_lowest_layer_is_not_known_no_prefix_is_kept(deep, tokenizer, capsys):
    make_subject(deep, tokenizer).train(Vector(layer=2), SETTINGS)
    assert "keeping" not in capsys.readouterr().out


# ------------------------------------------------------------------------------------- checkpoints and noise


@pytest.mark.parametrize("killed_at", range(1, 7))
def test_noise_of_a_step_is_the_same_in_a_resumed_run(model, tokenizer, tmp_path, always_due, killed_at):
    unbroken = Noisy()
    history = make_subject(model, tokenizer).train(unbroken, SETTINGS)
    assert len(history) == 6
    interrupt(make_subject(model, tokenizer, checkpoint=tmp_path), Noisy(), killed_at)
    resumed, other = Noisy(), Noisy(seed=4)
    assert make_subject(model, tokenizer, checkpoint=tmp_path).train(resumed, SETTINGS) == history
    assert torch.equal(resumed.vector, unbroken.vector)
    make_subject(model, tokenizer).train(other, SETTINGS)
    assert not torch.equal(other.vector, unbroken.vector)


@pytest.mark.parametrize(
    "killed_at",
    [
        *range(1, 7),
    ],
)
def test_a_resumed_run_with_a_kept_prefix_ends_as_an_unbroken_one(deep, tokenizer, tmp_path, always_due, killed_at):
    unbroken, resumed = Deep(), Deep()
    make_subject(deep, tokenizer).train(unbroken, SETTINGS)
    interrupt(make_subject(deep, tokenizer, checkpoint=tmp_path), Deep(), killed_at)
    make_subject(deep, tokenizer, checkpoint=tmp_path).train(resumed, SETTINGS)
    assert torch.equal(resumed.vector, unbroken.vector)


CHANGES = {
    "the seed": {"seed": 4},
    "the records": {"records": RECORDS[:4]},
    "the objective": {"objective": Objective("dpo")},
    "a setting": {"settings": TrainingSettings(lr=0.06, epochs=3, batch_size=3)},
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_state_of_a_run_with_other_inputs_is_not_resumed(model, tokenizer, tmp_path, always_due, change):
    interrupt(make_subject(model, tokenizer, checkpoint=tmp_path), Vector(), 3)
    others = dict(CHANGES[change])
    settings = others.pop("settings", SETTINGS)
    fresh, met = Vector(), Vector()
    make_subject(model, tokenizer, **others).train(fresh, settings)
    make_subject(model, tokenizer, **others, checkpoint=tmp_path).train(met, settings)
    assert torch.equal(met.vector, fresh.vector)


def test_the_state_of_an_adapter_of_other_heads_is_not_resumed(model, tokenizer, tmp_path):
    start = 0.001 * torch.ones(2, 8)
    make_subject(model, tokenizer, checkpoint=tmp_path).train(HeadAdapter([(0, 1), (1, 2)], start), SETTINGS)
    fresh, met = (HeadAdapter([(0, 0), (1, 3)], start) for _ in range(2))
    make_subject(model, tokenizer).train(fresh, SETTINGS)
    make_subject(model, tokenizer, checkpoint=tmp_path).train(met, SETTINGS)
    assert torch.equal(met.offsets, fresh.offsets)


def test_the_state_of_another_model_is_not_resumed(model, make_model, tokenizer, tmp_path):
    make_subject(model, tokenizer, checkpoint=tmp_path).train(Vector(), SETTINGS)
    other, fresh, met = make_model(seed=1), Vector(), Vector()
    make_subject(other, tokenizer).train(fresh, SETTINGS)
    make_subject(other, tokenizer, checkpoint=tmp_path).train(met, SETTINGS)
    assert torch.equal(met.vector, fresh.vector)


# ------------------------------------------------------------------------------------------- changed weights


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("fails", [False, True])
def test_an_adapter_that_changes_weights_leaves_them_as_they_were(make_model, tokenizer, objective, fails):
    model, adapter = make_model(), Rewrites()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    subject = make_subject(model, tokenizer, objective=OBJECTIVES[objective], val=RECORDS[:2])
    if fails:
        interrupt(subject, adapter, 2)
        with pytest.raises(ZeroDivisionError), adapter.attach(model):
            predict(model, tokenizer, RECORDS, Metric("preference_accuracy"), batch_size=1 // 0, max_new_tokens=1)
    else:
        history = subject.train(adapter, SETTINGS)
        other = make_subject(model, tokenizer, objective=OBJECTIVES[objective]).train(Vector(), SETTINGS)
        assert [row["loss"] for row in history] != pytest.approx([row["loss"] for row in other], rel=1e-3)
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    assert not hooks(model)


def test_activations_that_are_made_again_are_edited_at_the_same_places(make_model, tokenizer):
    """The backward pass runs a layer's inside again, hooks and all, after the loss has been computed."""
    trained = []
    for checkpointing in (False, True):
        model = make_model()
        adapter = Places()
        subject = Subject(
            layout=head_layout(model),
            model=model,
            tokenizer=tokenizer,
            records=RECORDS,
            runtime=Runtime(gradient_checkpointing=checkpointing),
        )
        subject.train(adapter, SETTINGS)
        trained.append(adapter.vector.detach())
    torch.testing.assert_close(*trained, rtol=1e-4, atol=1e-5)


# -------------------------------------------------------------------------------------------------- helpers


def make_subject(model, tokenizer, *, records=RECORDS, seed=3, **more):
    return Subject(head_layout(model), seed=seed, model=model, tokenizer=tokenizer, records=records, **more)


def hooks(model):
    return [module for module in model.modules() if module._forward_pre_hooks or module._forward_hooks]


def interrupt(subject, adapter, killed_at):
    """Train until a kill after so many steps."""

    def kill(row):
        if row["step"] == killed_at:
            raise KeyboardInterrupt

    subject.progress = Progress(on_step=kill)
    with pytest.raises(KeyboardInterrupt):
        subject.train(adapter, SETTINGS)


@contextmanager
def edited_by_hand(model, adapter, places):
    """`adapter` at these positions of the only row; no adapter, no edit."""

    def hook(_, args):
        # Passes are made anew for every token: no cache, no padding.
        (z,) = args
        edit = torch.zeros(1, z.shape[1], 1)
        edit[0, list(range(z.shape[1]) if places is None else places)] = 1
        return (z + edit * adapter.vector,)

    if adapter is None:
        yield
        return
    path = head_layout(model).projections[adapter.layer]
    with model.get_submodule(path).register_forward_pre_hook(hook):
        yield


def logprob_by_hand(model, adapter, row):
    with edited_by_hand(model, adapter, adapter and adapter.positions(row)):
        logprobs = model(torch.tensor([row.ids]), use_cache=False).logits[0].double().log_softmax(-1)
    return sum(logprobs[at - 1, row.ids[at]] for at in range(max(row.start, 1), len(row.ids)))


def loss_by_hand(model, tokenizer, adapter, records, objective, references):
    rows = [encode(tokenizer, record.prompt, record.completion, end=tokenizer.eos_token_id) for record in records]
    chosen = [logprob_by_hand(model, adapter, row) for row in rows]
    if objective.kind == "cross_entropy":
        return -sum(chosen) / sum(len(row.ids) - max(row.start, 1) for row in rows)
    total = 0
    for record, score in zip(records, chosen, strict=True):
        worse = logprob_by_hand(
            model, adapter, encode(tokenizer, record.prompt, record.rejected, end=tokenizer.eos_token_id)
        )
        margin = (score - worse) - references[record.id]
        total = total - nn.functional.logsigmoid(SETTINGS.beta * margin)
    return total / len(records)


def train_by_hand(model, tokenizer, adapter, objective):
    """The vector at the end, the losses of all steps, and that of the first four records afterwards."""
    references = {}
    for record in RECORDS:
        rows = [
            encode(tokenizer, record.prompt, text, end=tokenizer.eos_token_id)
            for text in (record.completion, record.rejected)
        ]
        with torch.no_grad():
            better, worse = (
                logprob_by_hand(model, adapter if objective.reference == "initial" else None, row) for row in rows
            )
        references[record.id] = better - worse
    optimizer = torch.optim.AdamW([adapter.vector], lr=SETTINGS.lr, weight_decay=0.0)
    losses, total = [], SETTINGS.epochs * 2
    for step in range(total):
        epoch, at = divmod(step, 2)
        order = shuffled(len(RECORDS), seed=3, epoch=epoch)[3 * at : 3 * at + 3]
        optimizer.param_groups[0]["lr"] = SETTINGS.lr * (1 - step / total)
        loss = loss_by_hand(model, tokenizer, adapter, [RECORDS[i] for i in order], objective, references)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_([adapter.vector], 1.0)
        optimizer.step()
        losses.append(loss.item())
    with torch.no_grad():
        after = loss_by_hand(model, tokenizer, adapter, RECORDS[:4], objective, references).item()
    return adapter.vector.detach(), losses, after


@torch.no_grad()
def continue_by_hand(model, tokenizer, adapter, prompt, count):
    """Greedy, all tokens anew for each one, with edits of the prompt alone; everywhere, where that is what it does."""
    ids = tokenizer(prompt)["input_ids"]
    start = len(ids)
    places = adapter and adapter.positions(Encoded(tuple(ids), start))
    while len(ids) < start + count and tokenizer.eos_token_id not in ids[start:]:
        with edited_by_hand(model, adapter, places):
            ids = [*ids, model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax().item()]
    return tokenizer.decode(ids[start:], skip_special_tokens=True)
