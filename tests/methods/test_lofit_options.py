"""LoFiT's options: scales next to offsets, and a strength that training does not depend on."""

import pytest
import torch

import lofit
from lofit import Record, head_layout
from lofit.fitting.context import Context
from lofit.methods import lofit as page
from lofit.training import loop
from lofit.training.initial import fresh_vectors
from lofit.training.loop import Progress
from lofit.training.subject import Subject

RECORDS = [
    {"prompt": "Q: Can pigs fly? A:", "completion": " No, pigs cannot fly"},
    {"prompt": "Q: Where did the cat sit? A:", "completion": " on the mat"},
    {"prompt": "Q: Who? A:", "completion": " Roy"},
]
HEADS = [(0, 1), (1, 3)]
FIXED = {"heads": HEADS, "lr": 0.02, "epochs": 2, "batch_size": 2}


def fit(model, tokenizer, **options):
    return lofit.fit(model, tokenizer, RECORDS, **FIXED, **options)


def test_offsets_alone_are_trained_by_default(model, tokenizer):
    adapter = fit(model, tokenizer)
    assert adapter.scales is None
    assert torch.equal(adapter.offsets, fit(model, tokenizer, vectors="offsets", strength=1.0).offsets)


def test_scales_start_from_a_seed_of_their_own_and_are_trained_with_the_offsets(model, tokenizer):
    tiny = lofit.fit(model, tokenizer, RECORDS, heads=HEADS, lr=1e-9, epochs=1, vectors="scales_and_offsets", seed=5)
    torch.testing.assert_close(tiny.offsets.detach(), fresh_vectors(2, 8, seed=5), rtol=0, atol=1e-8)
    torch.testing.assert_close(tiny.scales.detach(), fresh_vectors(2, 8, seed=6), rtol=0, atol=1e-8)
    adapter = fit(model, tokenizer, vectors="scales_and_offsets")
    assert (adapter.scales.norm(dim=1) > 0.01).all() and (adapter.offsets.norm(dim=1) > 0.01).all()


@pytest.mark.parametrize("strength", [0.5, 2.0])
@pytest.mark.parametrize("vectors", ["offsets", "scales_and_offsets"])
def test_a_strength_multiplies_what_is_trained(model, tokenizer, strength, vectors):
    plain = fit(model, tokenizer, vectors=vectors)
    strong = fit(model, tokenizer, vectors=vectors, strength=strength)
    for name, vector in plain.vectors().items():
        assert torch.equal(strong.vectors()[name], vector * strength)
    assert strong.provenance.training["parameters"]["strength"] == strength


def test_the_validation_loss_is_that_of_the_strength(model, tokenizer):
    rows = [Record(str(at), row["prompt"], row["completion"]) for at, row in enumerate(RECORDS)]
    subject = Subject(layout=head_layout(model), model=model, tokenizer=tokenizer, records=rows, val=rows[:2])
    adapter = page.fit(subject, page.Settings(strength=3.0, epochs=2), HEADS)
    assert subject.progress.val_loss == subject.loss_on_val(adapter, page.Settings())
    assert subject.progress.val_loss != subject.loss_on_val(adapter * (1 / 3), page.Settings())


def test_a_search_over_strengths_trains_once(model, tokenizer, tmp_path, monkeypatch):
    steps = []
    gradients = loop.gradients
    monkeypatch.setattr(loop, "gradients", lambda *args, **more: steps.append(1) or gradients(*args, **more))
    progress = Progress()
    found = fit(
        model,
        tokenizer,
        val=RECORDS[:2],
        checkpoint=tmp_path,
        tune={"strength": [0.0, 0.5, 1.0, 2.0]},
        context=Context(progress=progress),
    )
    assert len(steps) == 2 * 2
    assert len({trial["loss"] for trial in progress.trials}) == 4
    strength = found.provenance.training["parameters"]["strength"]
    plain = fit(model, tokenizer)
    assert torch.equal(found.offsets, plain.offsets * strength)
    best = max(progress.trials, key=lambda trial: (trial["score"], -trial["loss"]))
    assert strength == best["settings"]["strength"]
