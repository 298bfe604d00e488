"""What every method and every ranking promises a caller of `lofit.fit`, on cross-entropy and on preference pairs."""

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

import lofit
from lofit import Record, methods, rankings
from lofit.fitting.context import Context
from lofit.tasks.record import Metric
from lofit.training import subject
from lofit.training.checkpoint import Checkpoint
from lofit.training.loop import Progress
from lofit.training.settings import TrainingSettings

ANSWERS = [
    ("Q: Can pigs fly? A:", " No, pigs cannot fly", " Yes"),
    ("Q: Where did the cat sit? A:", " on the mat", " in the cat"),
    ("Q: Who? A:", " Roy", " Anna and the dog"),
    ("Answer:", " her brother", " mat"),
    ("Q: Is she? A:", " she", " it is"),
    ("Q: Who met the dog? A:", " Anna", " the mat"),
    ("Q: Can Roy fly? A:", " Roy cannot", " pigs"),
]
RECORDS = {
    "choices": [
        Record(str(i), prompt, right, correct=(right,), incorrect=(wrong, " no"))
        for i, (prompt, right, wrong) in enumerate(ANSWERS)
    ],
    "pairs": [
        Record(str(i), prompt, right, wrong, correct=(right,), incorrect=(wrong, " no"))
        for i, (prompt, right, wrong) in enumerate(ANSWERS)
    ],
}
IDS = torch.arange(1, 41).view(2, 20)
QUICK = {"epochs": 2, "batch_size": 3}
"""Four steps on five records."""
FEW: dict[str, Any] = {"scale_settings": {**QUICK, "l1": 0.001}}
LISTED = "layer,head\n1,2\n0,3\n"


@dataclass(frozen=True)
class Case:
    """A method with settings of its own, and arguments of `fit`."""

    method: str

    settings: dict[str, Any] = field(default_factory=dict)

    arguments: dict[str, Any] = field(default_factory=dict)

    @property
    def page(self) -> Any:
        return methods.find(self.method)

    @property
    def trains(self) -> bool:
        """Whether the method itself takes steps."""
        return issubclass(self.page.Settings, TrainingSettings)

    @property
    def all_settings(self) -> dict[str, Any]:
        return {**(QUICK if self.trains else {}), **self.settings}


LORA = {"peft_type": "LORA", "r": 4, "lora_dropout": 0.1, "target_modules": ["q_proj", "v_proj"]}
OWN: dict[str, list[Case]] = {
    "full": [Case("full", {"lr": 0.01})],
    "iti": [Case("iti", {"alpha": 8.0, "positions": places}, {"k": 3}) for places in ("all", "answer")],
    "jola": [Case("jola", {"lr": 0.1, "lam": 0.001})],
    "lofit": [
        Case("lofit", {"vectors": vectors, "lr": 0.3}, {"heads": [(1, 0), (1, 3)]})
        for vectors in ("offsets", "scales_and_offsets")
    ],
    "loreft": [Case("loreft", {"rank": 2, "first": 2, "last": 2, "tied": tied, "lr": 0.05}) for tied in (True, False)],
    "peft": [Case("peft", {"config": LORA, "lr": 0.05}), Case("peft", {"config": {"peft_type": "IA3"}, "lr": 0.05})],
    "red": [Case("red", {"lr": 0.05})],
    "repe": [Case("repe", {"strength": 1.0})],
    "residual": [Case("residual", {"lr": 0.1})],
}
"""A method that is not here is fitted by its defaults."""
OF_RANKINGS: dict[str, dict[str, Any]] = {
    "scale_norm": FEW,
    "group_lasso": {"ranking_settings": {**QUICK, "lam": 0.001}},
    "offset_norm": {"ranking_settings": QUICK},
}
CASES = {
    **{
        f"{name} {number}": case
        for name in methods.names()
        if name != "none"
        for number, case in enumerate(OWN.get(name, [Case(name)]), 1)
    },
    **{
        f"lofit by {name}": Case("lofit", {"lr": 0.3}, {"k": 2, "ranking": name, **OF_RANKINGS.get(name, {})})
        for name in rankings.names()
        if rankings.find(name).NEEDS != "other_scales"
    },
}
KILLS = [
    pytest.param(case, which, id=f"{name}, {which} run")
    for name, case in CASES.items()
    for which in ("only", "ranking's", "last")
    if case.trains and (which != "only") == (case.arguments.get("ranking") in OF_RANKINGS)
    if case.arguments.get("ranking") in (None, *OF_RANKINGS)
]
"""Rankings that train make two runs of it."""


@pytest.fixture(params=RECORDS)
def shape(request):
    return request.param


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]


@pytest.fixture
def fit(model, tokenizer, shape, tmp_path):
    (tmp_path / "heads.csv").write_text(LISTED)

    def run(case, **more):
        arguments = dict(case.arguments)
        if arguments.get("ranking") == "listed":
            arguments["ranking_settings"] = {"file": str(tmp_path / "heads.csv")}
        rows = RECORDS[shape]
        options = {**case.all_settings, **arguments, **more}
        return lofit.fit(model, tokenizer, rows[:5], method=case.method, val=rows[5:], seed=7, **options)

    return run


@pytest.fixture
def always_due(monkeypatch):
    """A state after every step, as if each took long."""
    monkeypatch.setattr(Checkpoint, "due", lambda self: self.folder is not None)


def test_two_fits_are_alike_to_the_bit_say_their_settings_and_leave_the_model_alone(model, fit, case):
    base = logits(model)
    weights = {name: weight.clone() for name, weight in model.state_dict().items()}
    fits = []
    for others in (1, 99):
        # What is drawn from torch's own generator must not matter.
        torch.manual_seed(others)
        fits.append(fit(case))
    first, second = fits
    assert_same(first, second)
    assert torch.equal(logits(model), base)
    assert all(torch.equal(weight, weights[name]) for name, weight in model.state_dict().items())
    training = first.provenance.training
    assert training["method"] == case.method and training["seed"] == 7
    assert training["parameters"] == case.page.Settings.of(case.all_settings).model_dump(mode="json")


def test_scores_under_it_depend_neither_on_the_batches_nor_on_other_records(model, tokenizer, fit, shape, case):
    adapter, rows, base = fit(case), RECORDS[shape][:4], logits(model)

    def score(rows, batch_size, adapter=adapter):
        options = {"adapter": adapter, "metric": Metric("multiple_choice"), "batch_size": batch_size}
        return lofit.score(model, tokenizer, rows, **options)["mc2"]

    alone = [score([row], 1) for row in rows]
    for batch_size in (1, 5, 32):
        assert score(rows, batch_size) == pytest.approx(sum(alone) / 4, rel=1e-4)
    # A hundred times what is near.
    assert max(abs(one - score([row], 1, None)) for one, row in zip(alone, rows, strict=True)) > 3e-3
    assert torch.equal(logits(model), base)


@pytest.mark.parametrize("shape", ["pairs"], indirect=True)
def test_the_reference_of_pairs_is_that_of_the_bare_model(model, fit, case, monkeypatch):
    base, seen, given = logits(model), [], subject.pair_logprobs

    def watched(model, *arguments, reading, **options):
        seen.append((logits(model), reading, given(model, *arguments, reading=reading, **options)))
        return seen[-1][-1]

    monkeypatch.setattr(subject, "pair_logprobs", watched)
    fit(case)
    assert bool(seen) == case.trains
    for now, reading, _ in seen:
        assert torch.equal(now, base) and reading is None
    # Training and validation records, in each step alike.
    assert {tuple(pairs) for _, _, pairs in seen} == {tuple(pairs) for _, _, pairs in seen[:2]}


@pytest.mark.parametrize(("case", "which"), KILLS)
@pytest.mark.usefixtures("always_due")
def test_a_fit_that_is_killed_and_resumed_ends_as_an_unbroken_one(fit, case, which, tmp_path, capsys):
    rows, done = [], []
    whole = fit(case, context=Context(progress=Progress(on_step=rows.append)))
    assert [row["step"] for row in rows].count(1) == (1 if which == "only" else 2)
    deadly = 3 if which == "ranking's" else len(rows) - 1

    def kill(row):
        done.append(row)
        if len(done) == deadly:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(case, checkpoint=tmp_path / "state", context=Context(progress=Progress(on_step=kill)))
    capsys.readouterr()
    resumed = fit(case, checkpoint=tmp_path / "state")
    assert f"resuming at step {done[-1]['step'] - 1} of 4" in capsys.readouterr().out
    assert_same(resumed, whole)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.trains and "k" not in case.arguments])
def test_a_fit_that_may_stop_early_ends_with_the_best_epoch_that_it_has_seen(fit, name):
    progress = Progress()
    fit(CASES[name], epochs=4, stop_after=1, context=Context(progress=progress))
    losses = [row["val_loss"] for row in progress.history if "val_loss" in row]
    assert progress.val_loss == min(losses) and len(losses) > 1
    assert progress.kept_epoch == losses.index(min(losses)) + 1 >= len(losses) - 1


# ---------------------------------------------------------------------------------------------------------- helpers


@torch.no_grad()
def logits(model):
    return model(IDS).logits


def assert_same(one, other):
    """The same adapter, tensors to the bit."""
    assert type(one) is type(other) and one.facts() == other.facts()
    assert one.tensors().keys() == other.tensors().keys() and one.tensors()
    for name, tensor in one.tensors().items():
        assert tensor.dtype == other.tensors()[name].dtype
        assert torch.equal(tensor, other.tensors()[name]), name
