"""The public functions, on a tiny model: what they leave alone, what decides their results, what they refuse."""

from pathlib import Path

import numpy as np
import pytest
import torch

import lofit
from lofit import LofitError, Record, head_layout
from lofit.adapters.heads import HeadAdapter
from lofit.fitting.context import Context
from lofit.tasks.record import Metric
from lofit.training.checkpoint import Checkpoint
from lofit.training.loop import Progress
from lofit.training.settings import Runtime

PROMPTS = ["Q: Can pigs fly? A:", "Q: Where did the cat sit? A:", "Q: Who? A:", "Answer:", "Q: Is she? A:"]
RIGHT = ["No, pigs cannot fly", "on the mat", "Roy", "her brother", "she"]
WRONG = ["Yes", "in the cat", "Anna and the dog", "mat", "it is"]
RECORDS = {
    "completion": [{"prompt": p, "completion": r} for p, r in zip(PROMPTS, RIGHT, strict=True)],
    "preference": [{"prompt": p, "chosen": r, "rejected": w} for p, r, w in zip(PROMPTS, RIGHT, WRONG, strict=True)],
    "choice": [
        {"prompt": p, "choices": [w, r, "no"], "answer": 1} for p, r, w in zip(PROMPTS, RIGHT, WRONG, strict=True)
    ],
}
QUESTIONS = [
    Record(str(i), f"{p}", f" {r}", f" {w}", correct=(f" {r}",), incorrect=(f" {w}", " no"))
    for i, (p, r, w) in enumerate(zip(PROMPTS, RIGHT, WRONG, strict=True))
]
METRICS = {"completion": "exact_match", "preference": "preference_accuracy", "choice": "accuracy"}
QUICK = {"epochs": 2, "batch_size": 2}


@pytest.fixture(params=RECORDS)
def shape(request):
    return request.param


@pytest.fixture
def used(make_model):
    """A model as a caller may have left it: in training mode but for a part, some of its weights to be trained."""
    model = make_model(num_hidden_layers=3, attention_dropout=0.1).train()
    model.model.layers[0].eval()
    for name, weight in model.named_parameters():
        weight.requires_grad_("norm" in name)
    return model


@pytest.fixture
def always_due(monkeypatch):
    """A state after every step, as if each took long."""
    monkeypatch.setattr(Checkpoint, "due", lambda self: self.folder is not None)


# ---------------------------------------------------------------------------------------------- what they leave


CALLS = {
    "fit": lambda model, tokenizer, rows, **more: lofit.fit(model, tokenizer, rows, k=2, val=rows[:2], **QUICK, **more),
    "train_scales": lambda model, tokenizer, rows, **more: lofit.train_scales(model, tokenizer, rows, **QUICK, **more),
    "tune_bias": lambda model, tokenizer, rows, **more: lofit.tune_bias(
        model, tokenizer, rows, [(2, 1), (1, 0)], **QUICK, **more
    ),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_fit_leaves_the_model_as_it_was(used, tokenizer, shape, call, checkpointing):
    before = condition(used)
    context = Context(runtime=Runtime(gradient_checkpointing=checkpointing))
    adapter = CALLS[call](used, tokenizer, RECORDS[shape], context=context)
    assert_same(used, before)
    assert adapter.vectors() and all(vector.abs().sum() > 0 for vector in adapter.vectors().values())


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_fit_that_fails_leaves_the_model_as_it_was(used, tokenizer, call, checkpointing):
    def fail(row):
        raise ZeroDivisionError

    before = condition(used)
    runtime = Runtime(gradient_checkpointing=checkpointing)
    context = Context(progress=Progress(on_step=fail), runtime=runtime)
    with pytest.raises(ZeroDivisionError):
        CALLS[call](used, tokenizer, RECORDS["preference"], context=context)
    assert_same(used, before)


@pytest.mark.parametrize("edited", [False, True])
def test_a_score_leaves_the_model_as_it_was_and_is_that_of_evaluation_mode(used, make_model, tokenizer, shape, edited):
    adapter = HeadAdapter([(0, 1), (2, 3)], 3 * torch.ones(2, 8)) if edited else None
    before = condition(used)
    scores = lofit.score(used, tokenizer, RECORDS[shape], adapter=adapter)
    assert_same(used, before)
    assert list(scores) == [METRICS[shape]]
    assert scores == lofit.score(make_model(num_hidden_layers=3), tokenizer, RECORDS[shape], adapter=adapter)


def test_the_default_score_is_the_share_of_right_answers(model, tokenizer):
    one_by_one = [lofit.score(model, tokenizer, [row])["accuracy"] for row in RECORDS["choice"]]
    assert lofit.score(model, tokenizer, RECORDS["choice"]) == {"accuracy": pytest.approx(np.mean(one_by_one))}
    assert set(one_by_one) <= {0.0, 1.0}
    scores = lofit.score(model, tokenizer, QUESTIONS, metric=Metric("multiple_choice", "clean"), batch_size=2)
    assert list(scores) == ["mc1_clean", "mc2_clean", "mc3_clean"]


def test_an_adapter_that_the_caller_has_attached_is_scored_too(model, tokenizer):
    adapter = HeadAdapter([(0, 1), (1, 3)], 3 * torch.ones(2, 8))
    metric = Metric("multiple_choice")
    inside = lofit.score(model, tokenizer, QUESTIONS, metric=metric, adapter=adapter)
    with adapter.attach(model):
        assert lofit.score(model, tokenizer, QUESTIONS, metric=metric) == inside
    assert lofit.score(model, tokenizer, QUESTIONS, metric=metric) != inside


def test_tuning_raises_the_score_that_it_is_for(model, tokenizer):
    adapter = lofit.fit(model, tokenizer, RECORDS["choice"], k=4, epochs=20, batch_size=5)
    rows, metric = RECORDS["choice"], Metric("multiple_choice")
    plain, tuned = (lofit.score(model, tokenizer, rows, metric=metric, adapter=edit) for edit in (None, adapter))
    assert tuned["mc2"] > plain["mc2"]


# ------------------------------------------------------------------------------------------- what decides them


def test_the_same_seed_gives_the_same_bytes(model, tokenizer, shape, tmp_path):
    contents = []
    for number, seed in enumerate((1, 1, 2)):
        adapter = lofit.fit(model, tokenizer, RECORDS[shape], k=2, seed=seed, **QUICK)
        adapter.save_pretrained(tmp_path / str(number))
        contents.append({file.name: file.read_bytes() for file in (tmp_path / str(number)).iterdir()})
    assert contents[0] == contents[1] and contents[0]["model.safetensors"] != contents[2]["model.safetensors"]


def test_a_fit_is_its_three_steps(model, tokenizer, shape):
    rows = RECORDS[shape]
    whole = lofit.fit(model, tokenizer, rows, k=3, seed=5, scale_settings={"lr": 0.02, **QUICK}, lr=0.05, **QUICK)
    scales = lofit.train_scales(model, tokenizer, rows, seed=5, lr=0.02, **QUICK)
    assert scales.heads == head_layout(model).all_heads() and scales.offsets is None
    heads = lofit.select_heads(scales, 3)
    by_hand = sorted(scales.heads, key=lambda head: -scales.scales[scales.heads.index(head)].norm())[:3]
    assert heads == by_hand
    tuned = lofit.tune_bias(model, tokenizer, rows, heads, seed=5, lr=0.05, **QUICK)
    assert tuned.heads == whole.heads == sorted(heads) and tuned.scales is None
    assert torch.equal(tuned.offsets, whole.offsets)
    assert tuned.provenance == whole.provenance


def test_heads_are_selected_from_scores_of_any_kind():
    scores = np.array([[0.1, 0.9, 0.3], [0.9, 0.2, 0.0]])
    expected = [(0, 1), (1, 0), (0, 2)]
    assert lofit.select_heads(scores, 3) == lofit.select_heads(torch.from_numpy(scores), 3) == expected
    order = [(1, 2), (0, 0), (1, 0), (0, 2), (1, 1), (0, 1)]
    vectors = torch.tensor([[scores[head]] * 2 for head in order])
    assert lofit.select_heads(HeadAdapter(order, scales=vectors), 3) == expected


def test_named_heads_take_the_place_of_a_ranking(model, tokenizer):
    rows, heads = RECORDS["completion"], [(1, 2), (0, 3)]
    adapter = lofit.fit(model, tokenizer, rows, heads=heads, **QUICK)
    assert adapter.heads == sorted(heads)
    assert torch.equal(adapter.offsets, lofit.tune_bias(model, tokenizer, rows, heads, **QUICK).offsets)


def test_the_share_of_heads_that_is_tuned_by_default(make_model, tokenizer):
    model = make_model(num_hidden_layers=5)
    assert len(lofit.fit(model, tokenizer, RECORDS["completion"], ranking="random", **QUICK).heads) == 2


def test_a_random_ranking_is_decided_by_task_seed_and_draw(model, tokenizer):
    def heads(seed=1, **known):
        options = {"ranking": "random", "k": 4, "seed": seed, "epochs": 1}
        return lofit.fit(model, tokenizer, RECORDS["completion"], **options, context=Context(**known)).heads

    base = heads(task="cats")
    assert base == heads(task="cats")
    assert len({tuple(base), tuple(heads(task="dogs")), tuple(heads(task="cats", draw=2)), tuple(heads(2))}) > 2
    order = np.random.default_rng([1, 1, *b"cats"]).permutation(8)[:4]
    assert base == sorted(divmod(int(index), 4) for index in order)


def test_the_method_none_edits_nothing(model, tokenizer):
    adapter = lofit.fit(model, tokenizer, RECORDS["completion"], method="none")
    assert adapter.heads == [] and adapter.vectors() == {}
    plain = lofit.score(model, tokenizer, QUESTIONS)
    assert lofit.score(model, tokenizer, QUESTIONS, adapter=adapter) == plain


def test_an_adapter_says_how_it_was_made(model, tokenizer, tmp_path):
    context = Context(task="cats")
    made = lofit.fit(model, tokenizer, RECORDS["choice"], k=1, seed=9, lr=0.05, **QUICK, context=context)
    made.save_pretrained(tmp_path)
    read = HeadAdapter.from_pretrained(tmp_path).provenance
    assert read == made.provenance
    assert (read.training["task"], read.training["method"], read.training["seed"]) == ("cats", "lofit", 9)
    assert read.training["parameters"]["lr"] == 0.05 and read.num_heads == 4


def test_the_loss_of_held_out_records_does_not_change_the_adapter(model, tokenizer, shape):
    rows, progress = RECORDS[shape], Progress()
    without = lofit.tune_bias(model, tokenizer, rows[:3], [(1, 1)], **QUICK)
    context = Context(progress=progress)
    adapter = lofit.tune_bias(model, tokenizer, rows[:3], [(1, 1)], val=rows[3:], context=context, **QUICK)
    assert torch.equal(without.offsets, adapter.offsets)
    assert progress.val_loss > 0 and [row["step"] for row in progress.history] == [1, 2, 3, 4]


def test_records_may_come_once(model, tokenizer):
    rows = RECORDS["preference"]
    listed = lofit.tune_bias(model, tokenizer, rows, [(1, 1)], val=rows[:1], **QUICK)
    streamed = lofit.tune_bias(model, tokenizer, iter(rows), [(1, 1)], val=iter(rows[:1]), **QUICK)
    assert torch.equal(listed.offsets, streamed.offsets)
    assert lofit.score(model, tokenizer, iter(rows)) == lofit.score(model, tokenizer, rows)


def test_dicts_and_records_are_the_same(model, tokenizer):
    records = [
        Record(str(i), p, f" {r}", f" {w}") for i, (p, r, w) in enumerate(zip(PROMPTS, RIGHT, WRONG, strict=True))
    ]
    ours, theirs = (
        lofit.tune_bias(model, tokenizer, rows, [(1, 1)], **QUICK) for rows in (records, RECORDS["preference"])
    )
    assert torch.equal(ours.offsets, theirs.offsets)
    assert lofit.score(model, tokenizer, records) == lofit.score(model, tokenizer, RECORDS["preference"])


@pytest.mark.parametrize("killed_at", [1, 4, 6, 7, 8, 11, 12])
def test_an_interrupted_fit_ends_as_an_unbroken_one(model, tokenizer, shape, tmp_path, always_due, killed_at):
    """Of twelve steps, six are those of the scales."""
    steps = []

    def kill(row):
        steps.append(row["step"])
        if len(steps) == killed_at:
            raise KeyboardInterrupt

    options = {"k": 2, "seed": 4, "scale_settings": QUICK, **QUICK}
    unbroken = lofit.fit(model, tokenizer, RECORDS[shape], **options)
    with pytest.raises(KeyboardInterrupt):
        context = Context(progress=Progress(on_step=kill))
        lofit.fit(model, tokenizer, RECORDS[shape], **options, checkpoint=tmp_path, context=context)
    passes = []
    with model.register_forward_hook(lambda *_: passes.append(1)):
        resumed = lofit.fit(model, tokenizer, RECORDS[shape], **options, checkpoint=str(tmp_path))
        count = len(passes)
        lofit.fit(model, tokenizer, RECORDS[shape], **options)
    assert resumed.heads == unbroken.heads and torch.equal(resumed.offsets, unbroken.offsets)
    # Something of it was there already, unless nothing had been written.
    assert (count < len(passes) - count) == (killed_at > 1)


def test_nothing_is_written_without_a_checkpoint_folder(model, tokenizer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lofit.fit(model, tokenizer, RECORDS["completion"], k=1, **QUICK)
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_of_other_heads_is_not_resumed(model, tokenizer, tmp_path):
    rows = RECORDS["completion"]
    lofit.tune_bias(model, tokenizer, rows, [(0, 1), (1, 2)], checkpoint=tmp_path, **QUICK)
    met = lofit.tune_bias(model, tokenizer, rows, [(0, 0), (1, 3)], checkpoint=tmp_path, **QUICK)
    assert torch.equal(met.offsets, lofit.tune_bias(model, tokenizer, rows, [(0, 0), (1, 3)], **QUICK).offsets)


# ---------------------------------------------------------------------------------------------- what they refuse


ROW, PAIR = RECORDS["completion"][0], RECORDS["preference"][0]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"method": "lora"}, "method: got 'lora'; expected full, iti, jola, lofit, "),
        (
            {"ranking": "best"},
            "ranking: got 'best'; expected from_task, gradient, group_lasso, ",
        ),
        ({"k": 9}, "k: got 9; expected a whole number from 1 to 8, the heads of the model"),
        ({"k": 0}, "k: got 0; expected a whole number from 1 to 8, the heads of the model"),
        ({"k": 2.5}, "k: got 2.5; expected a whole number from 1 to 8"),
        ({"seed": "1"}, "seed: got '1'; expected a whole number from 0 to 2147483647"),
        ({"seed": 2**64}, "seed: got 18446744073709551616; expected a whole number from 0"),
        ({"heads": []}, "heads: got none; expected at least one (layer, head)"),
        ({"heads": [1, 2]}, "heads: got [1, 2]; expected pairs of whole numbers, (layer, head)"),
        ({"checkpoint": Path(__file__)}, f"checkpoint: got {__file__}, a file; expected a folder"),
        ({"records": ROW}, "records: got one dict; expected a list of them"),
        ({"speed": 1}, "speed: unknown key; expected lr, epochs, batch_size, beta, max_length"),
        ({"lr": "high"}, "lr: got 'high'; expected a number"),
        ({"lr": -1.0}, "lr: got -1.0; expected greater than 0"),
        ({"epochs": 0}, "epochs: got 0; expected greater than or equal to 1"),
        (
            {"scale_settings": {"l2": 1.0}},
            "l2: unknown key; expected lr, epochs, batch_size, beta, max_length, stop_after, l1",
        ),
        ({"ranking": "random", "ranking_settings": {"draws": 0}}, "draws: got 0; expected greater than or equal to 1"),
        (
            {"ranking": "from_task", "ranking_settings": {"task": "cats"}},
            "ranking: got 'from_task'; expected `heads`",
        ),
        (
            {"ranking": "random", "scale_settings": {"lr": 0.1}},
            "scale_settings: got {'lr': 0.1}; expected none for random, which trains no scales",
        ),
        ({"heads": [(0, 1), (2, 0)]}, "heads: got (2, 0); expected layers 0 to 1 and heads 0 to 3"),
        ({"heads": [(0, 1), (0, 1)]}, "head (0, 1) is named twice; expected each head once"),
        ({"max_length": 5}, "prompt 'Q: Can pigs fly? A:'...: "),
        ({"method": "none", "k": 1}, "k: got 1; expected none for none, which selects no heads"),
        ({"method": "none", "heads": [(0, 1)]}, "heads: got [(0, 1)]; expected none for none, which selects no heads"),
        ({"method": "none", "ranking": "random"}, "ranking: got 'random'; expected none for none, which selects no"),
        ({"method": "none", "lr": 0.1}, "lr: unknown key; expected no key at all"),
        ({"records": []}, "records: got none; expected at least one"),
        ({"records": iter(())}, "records: got none; expected at least one"),
        ({"records": [ROW, PAIR]}, "record 2: got a preference; expected a completion, as the records before"),
        ({"records": [PAIR, Record("1", "Q:", " A")]}, "record 2: got a completion; expected a preference, as the"),
        ({"records": [ROW, "Q: A"]}, "record 2: got a str; expected a dict or a Record"),
        ({"records": [{"prompt": "Q:"}]}, "records, row 1: got prompt; expected, besides the prompt, completion; or"),
        ({"records": [ROW, {"completion": "A"}]}, "records, row 2: no field 'prompt'"),
        ({"records": [{**ROW, "completion": [7]}]}, "records, row 1: field 'completion' is [7]; expected a text"),
        ({"val": [ROW, PAIR]}, "record 2: got a preference; expected a completion, as the records before"),
    ],
)
def test_what_a_fit_cannot_use_is_one_line(model, tokenizer, options, words):
    options = {"k": 2, **options} if {"heads", "method", "k"}.isdisjoint(options) else options
    records = options.pop("records", RECORDS["completion"])
    with pytest.raises(LofitError) as refusal:
        lofit.fit(model, tokenizer, records, **options)
    assert str(refusal.value).startswith(words) and "\n" not in str(refusal.value)


def test_several_wrong_settings_are_a_line_each(model, tokenizer):
    with pytest.raises(LofitError) as refusal:
        lofit.train_scales(model, tokenizer, RECORDS["completion"], lr=0.0, l1=-1.0, k=3)
    assert [line.split(":")[0] for line in str(refusal.value).splitlines()] == ["lr", "l1", "k"]


def test_held_out_records_of_another_shape_are_refused(model, tokenizer):
    with pytest.raises(LofitError, match="got a completion; expected a preference"):
        lofit.fit(model, tokenizer, [PAIR, PAIR], k=1, val=[ROW], **QUICK)


@pytest.mark.parametrize("call", [lofit.score, lofit.train_scales])
def test_the_others_refuse_such_records_too(model, tokenizer, call):
    for records, words in (([], "records: got none"), ([ROW, PAIR], "record 2: got a preference; expected a comp")):
        with pytest.raises(LofitError, match=f"^{words}"):
            call(model, tokenizer, records)


def test_scales_of_some_heads_cannot_be_ranked():
    for adapter in (HeadAdapter([(0, 0), (1, 1)], scales=torch.ones(2, 8)), HeadAdapter([(0, 0)], torch.ones(1, 8))):
        with pytest.raises(LofitError, match="scales: got some heads'; expected those of all heads"):
            lofit.select_heads(adapter, 1)
    with pytest.raises(LofitError, match=r"^k: got 7; expected 1 to 6"):
        lofit.select_heads(np.ones((2, 3)), 7)


def test_the_package_says_what_it_does_not_have():
    assert set(lofit.__all__) >= {"fit", "score", "train_scales", "select_heads", "tune_bias", "HeadAdapter", "merge"}
    assert all(getattr(lofit, name) is not None for name in lofit.__all__)
    with pytest.raises(AttributeError, match="module 'lofit' has no attribute 'fitt'"):
        lofit.fitt  # noqa: B018


# -------------------------------------------------------------------------------------------------------- helpers


def condition(model):
    """All that a call might leave changed in a model, and in torch."""
    return {
        "weights": {name: value.clone() for name, value in model.state_dict().items()},
        "wanted": {name: weight.requires_grad for name, weight in model.named_parameters()},
        "grads": {name: weight.grad for name, weight in model.named_parameters()},
        "training": {name: module.training for name, module in model.named_modules()},
        "hooks": {name: hooks_of(module) for name, module in model.named_modules()},
        "forwards": {name: vars(module).get("forward") for name, module in model.named_modules()},
        "checkpointing": model.is_activation_checkpointing,
        "config": model.config.to_dict(),
        "dropout": [layer.self_attn.attention_dropout for layer in model.model.layers],
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "random": torch.get_rng_state(),
    }


def hooks_of(module):
    return [len(vars(module)[kind]) for kind in ("_forward_pre_hooks", "_forward_hooks", "_backward_hooks")]


def assert_same(model, before):
    after = condition(model)
    assert all(torch.equal(after["weights"][name], value) for name, value in before["weights"].items())
    assert torch.equal(after["random"], before["random"])
    for kind in before.keys() - {"weights", "random"}:
        assert after[kind] == before[kind], kind


@pytest.mark.parametrize("heads", [np.array([[1, 2], [0, 1]]), torch.tensor([[1, 2], [0, 1]]), [[1, 2], [0, 1]]])
def test_heads_may_be_arrays(model, tokenizer, heads):
    adapter = lofit.fit(model, tokenizer, RECORDS["completion"], heads=heads, epochs=1)
    assert adapter.heads == [(0, 1), (1, 2)]
    assert lofit.tune_bias(model, tokenizer, RECORDS["completion"], heads, epochs=1).heads == [(0, 1), (1, 2)]
