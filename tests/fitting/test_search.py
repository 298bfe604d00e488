"""The search of settings on validation records, and what a fit refuses to return."""

import math
from contextlib import nullcontext

import pytest
import torch

import lofit
from lofit import HeadAdapter, LofitError, methods
from lofit.fitting.context import Context, Scoring
from lofit.fitting.grid import candidates, grid
from lofit.methods import lofit as lofit_page
from lofit.settings import NotNegative, Settings
from lofit.tasks.record import Metric, Objective
from lofit.training.loop import Progress
from lofit.training.subject import Subject

RECORDS = [{"prompt": f"Q: {name}? A:", "completion": f" {answer}"} for name, answer in ("ab", "cd", "ef", "gh")]
VAL = [{"prompt": "Q: a? A:", "completion": " b"}, {"prompt": "Q: x? A:", "completion": " y"}]
HEADS = [(0, 1), (1, 2)]


def fit(model, tokenizer, **options):
    given = {"heads": HEADS, "val": VAL, "epochs": 2, "batch_size": 2, **options}
    return lofit.fit(model, tokenizer, RECORDS, **given)


def test_a_grid_is_every_combination_in_order():
    assert grid({"lr": [1, 2], "epochs": [3, 4]}) == [
        {"lr": 1, "epochs": 3},
        {"lr": 1, "epochs": 4},
        {"lr": 2, "epochs": 3},
        {"lr": 2, "epochs": 4},
    ]
    assert grid({}) == grid(None) == [{}]


def test_all_faults_of_a_grid_are_told_before_anything_is_fitted():
    with pytest.raises(LofitError) as refusal:
        candidates(lofit_page.Settings, {"epochs": 0}, {"lr": [0.1, -1, -2]})
    assert str(refusal.value).splitlines() == [
        "epochs: got 0; expected greater than or equal to 1",
        "lr: got -1; expected greater than 0",
        "lr: got -2; expected greater than 0",
    ]


class Page:
    """A method whose adapters are known beforehand: offsets of this strength at one head."""

    RANKING = None

    class Settings(Settings):
        strength: NotNegative = 0.0

    @staticmethod
    def fit(subject, settings, heads):
        return HeadAdapter([(1, 0)], offsets=torch.full((1, 8), settings.strength))


@pytest.fixture
def page(monkeypatch):
    monkeypatch.setattr(methods, "find", lambda name: Page)
    return Page


def losses(model, tokenizer, strengths):
    """The cross-entropy over the validation tokens, by hand."""
    found = {}
    for strength in strengths:
        total, tokens = 0.0, 0
        with HeadAdapter([(1, 0)], offsets=torch.full((1, 8), strength)).attach(model), torch.no_grad():
            for row in VAL:
                prompt = tokenizer(row["prompt"])["input_ids"]
                ids = [*tokenizer(row["prompt"] + row["completion"])["input_ids"], tokenizer.eos_token_id]
                logprobs = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
                for at in range(len(prompt), len(ids)):
                    total -= logprobs[at - 1, ids[at]].item()
                    tokens += 1
        found[strength] = total / tokens
    return found


def test_equal_scores_go_to_the_lower_validation_loss(model, tokenizer, page):
    strengths = [0.0, 3.0, 6.0, 9.0]
    progress = Progress()
    chosen = lofit.fit(
        model,
        tokenizer,
        RECORDS,
        method="page",
        val=VAL,
        tune={"strength": strengths},
        context=Context(progress=progress),
    )
    by_hand = losses(model, tokenizer, strengths)
    assert [trial["settings"]["strength"] for trial in progress.trials] == strengths
    for trial in progress.trials:
        assert trial["score"] == 0 and trial["loss"] == pytest.approx(by_hand[trial["settings"]["strength"]], abs=1e-5)
    best = min(by_hand, key=by_hand.get)
    assert chosen.offsets[0, 0].item() == best and progress.val_loss == pytest.approx(by_hand[best], abs=1e-5)
    assert chosen.provenance.training["parameters"] == {"strength": best}


def test_the_score_comes_before_the_loss(model, tokenizer, page, monkeypatch):
    from lofit.fitting import search

    found = {0.0: (0.2, 1.0), 1.0: (0.7, 9.0), 2.0: (0.7, 8.0), 3.0: (0.7, 8.0)}
    monkeypatch.setattr(search, "scores_on_val", lambda subject, adapter, settings, scoring: found[settings.strength])
    chosen = lofit.fit(model, tokenizer, RECORDS, method="page", val=VAL, tune={"strength": list(found)})
    assert chosen.offsets[0, 0].item() == 2.0


def test_the_search_returns_what_a_plain_fit_with_the_chosen_settings_does(model, tokenizer):
    progress, plain = Progress(), Progress()
    chosen = fit(model, tokenizer, tune={"lr": [0.01, 0.3]}, context=Context(progress=progress))
    lr = chosen.provenance.training["parameters"]["lr"]
    alone = fit(model, tokenizer, lr=lr, context=Context(progress=plain))
    assert torch.equal(chosen.offsets, alone.offsets)
    assert progress.history == plain.history and progress.val_loss == pytest.approx(plain.val_loss, abs=1e-6)


def count_steps(monkeypatch):
    steps = []
    before = HeadAdapter.begin_step
    monkeypatch.setattr(HeadAdapter, "begin_step", lambda self, step: (steps.append(step), before(self, step)))
    return steps


def test_a_larger_grid_computes_only_what_is_new(model, tokenizer, tmp_path, monkeypatch):
    steps = count_steps(monkeypatch)
    first = Progress()
    fit(model, tokenizer, tune={"lr": [0.01, 0.1]}, checkpoint=tmp_path, context=Context(progress=first))
    assert len(steps) == 8
    again = Progress()
    chosen = fit(model, tokenizer, tune={"lr": [0.1, 0.2, 0.01]}, checkpoint=tmp_path, context=Context(progress=again))
    assert len(steps) == 12
    known = {trial["settings"]["lr"]: trial for trial in first.trials}
    assert [trial for trial in again.trials if trial["settings"]["lr"] in known] == [known[0.1], known[0.01]]
    # What is found again is what would have been computed.
    lr = chosen.provenance.training["parameters"]["lr"]
    assert torch.equal(chosen.offsets, fit(model, tokenizer, lr=lr).offsets)


def test_a_rate_that_diverges_is_a_bad_trial_and_no_end(model, tokenizer, monkeypatch):
    progress = Progress()
    chosen = fit(model, tokenizer, tune={"lr": [1e30, 0.1]}, context=Context(progress=progress))
    assert chosen.provenance.training["parameters"]["lr"] == 0.1
    assert progress.trials[0]["score"] == -math.inf and progress.trials[0]["loss"] == math.inf
    with pytest.raises(LofitError, match="lower lr"):
        fit(model, tokenizer, tune={"lr": [1e30]})


def test_a_search_needs_validation_records(model, tokenizer):
    with pytest.raises(LofitError, match=r"^tune: got a grid, but no validation records \(val\)"):
        fit(model, tokenizer, tune={"lr": [0.1]}, val=())


def test_no_test_record_is_known_to_a_search(model, tokenizer):
    """What a fit gets is training and validation records; the metric of the task decides."""
    scoring = Scoring(Metric("exact_match", "clean"), batch_size=2, max_new_tokens=2)
    chosen = fit(model, tokenizer, tune={"lr": [0.1, 0.2]}, context=Context(scoring=scoring))
    assert isinstance(chosen, HeadAdapter)


# ---------------------------------------------------------------------------------------------------------- guards


def test_an_edit_that_changes_nothing_is_an_error(model, tokenizer, monkeypatch):
    class Lost(HeadAdapter):
        """Edits nothing, whatever its numbers say."""

        def attach(self, model, layout=None):
            return nullcontext()

    class Page:
        RANKING = None
        Settings = lofit_page.Settings

        @staticmethod
        def fit(subject, settings, heads):
            return Lost([(0, 0)], offsets=torch.ones(1, 8))

    monkeypatch.setattr(methods, "find", lambda name: Page)
    with pytest.raises(LofitError, match="the adapter changes no logit"):
        lofit.fit(model, tokenizer, RECORDS, method="lost")


def test_a_trained_tensor_that_never_moved_is_an_error(model, tokenizer):
    subject = Subject(
        layout=lofit.head_layout(model),
        model=model,
        tokenizer=tokenizer,
        records=[lofit.Record(str(i), row["prompt"], row["completion"]) for i, row in enumerate(RECORDS)],
    )
    adapter = HeadAdapter([(0, 0)], offsets=torch.zeros(1, 8))
    # In bfloat16, 1 + 2e-5 is 1: the published scales of RED never moved.
    adapter.frozen = torch.nn.Parameter(torch.ones(4))
    with pytest.raises(LofitError, match="frozen has not moved in training; expected every trained tensor to change"):
        subject.train(adapter, lofit_page.Settings(lr=0.1, epochs=1, batch_size=2))


def test_an_adapter_of_any_kind_is_read_by_what_its_folder_says(tmp_path):
    made = HeadAdapter(HEADS, offsets=torch.ones(2, 8))
    made.save_pretrained(tmp_path)
    assert torch.equal(lofit.load_adapter(tmp_path).offsets, made.offsets)
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace('"kind": "heads"', '"kind": "unheard_of"'))
    with pytest.raises(LofitError, match=r"kind: got 'unheard_of'; expected answer_heads, heads, .*, or a newer lofit"):
        lofit.load_adapter(tmp_path)
    with pytest.raises(LofitError, match="got an adapter of kind unheard_of; expected heads"):
        HeadAdapter.from_pretrained(tmp_path)


def test_the_reference_of_an_untrained_adapter_stays_that_of_training(model, tokenizer):
    """Protocol lofit: the reference carries the fresh adapter. Scored with the trained one, each loss would be ln 2."""
    pairs = [
        {"prompt": "Q: a? A:", "chosen": " b", "rejected": " c"},
        {"prompt": "Q: d? A:", "chosen": " e", "rejected": " f"},
    ]
    plain, searched = Progress(), Progress()
    objective = Objective("dpo", reference="initial")
    for progress, options in ((plain, {"lr": 0.3}), (searched, {"tune": {"lr": [0.3]}})):
        context = Context(objective=objective, progress=progress)
        lofit.fit(model, tokenizer, pairs, heads=HEADS, val=pairs, epochs=4, context=context, **options)
    assert searched.val_loss == pytest.approx(plain.val_loss, abs=1e-6)
    assert plain.val_loss < math.log(2) - 0.05
