"""LoReFT: what it starts from, orthonormal rows after training, and settings that say what is trained."""

import math

import pytest
import torch

import lofit
from lofit import LofitError, head_layout
from lofit.fitting.context import Context
from lofit.methods import loreft
from lofit.training.loop import Progress
from lofit.training.subject import Subject

ROWS = [
    ("Q: Can pigs fly? A:", " No, pigs cannot fly", " Yes"),
    ("Q: Where did the cat sit? A:", " on the mat", " in the cat"),
    ("Q: Who? A:", " Roy", " Anna and the dog"),
]
RECORDS = [{"prompt": prompt, "completion": right} for prompt, right, _ in ROWS]
PAIRS = [{"prompt": prompt, "chosen": right, "rejected": wrong} for prompt, right, wrong in ROWS]


def make_subject(model, tokenizer, **changes):
    return Subject(layout=head_layout(model), model=model, tokenizer=tokenizer, records=[], **changes)


def test_it_starts_from_an_orthonormal_basis_and_a_fresh_linear_layer(model, tokenizer):
    settings = loreft.Settings(rank=8, tied=False)
    adapter = loreft.fresh(make_subject(model, tokenizer, seed=3), settings)
    assert adapter.basis.shape == (2, 2, 8, 32) and adapter.bias.shape == (2, 2, 8)
    gram = adapter.basis @ adapter.basis.mT
    torch.testing.assert_close(gram.detach(), torch.eye(8).expand(2, 2, 8, 8), rtol=0, atol=1e-5)
    # No two edits begin alike.
    assert not torch.equal(adapter.basis[0, 0], adapter.basis[0, 1])
    for values in (adapter.weight, adapter.bias):
        assert values.abs().max() <= 32**-0.5
    assert adapter.weight.var().item() == pytest.approx(1 / 32 / 3, rel=0.1)
    torch.manual_seed(99)
    again = loreft.fresh(make_subject(model, tokenizer, seed=3), settings)
    assert all(torch.equal(a, b) for a, b in zip(adapter.parameters(), again.parameters(), strict=True))
    other = loreft.fresh(make_subject(model, tokenizer, seed=4), settings)
    assert not torch.equal(adapter.basis, other.basis)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tied", [True, False])
def test_rows_are_orthonormal_after_fifty_steps(make_model, tokenizer, dtype, tied):
    model = make_model().to(dtype)
    before = loreft.fresh(make_subject(model, tokenizer, seed=42), loreft.Settings(rank=4, tied=tied))
    options = {"rank": 4, "tied": tied, "lr": 0.01, "epochs": 50, "batch_size": 3, "first": 2, "last": 2}
    progress = Progress()
    adapter = lofit.fit(model, tokenizer, RECORDS, method="loreft", context=Context(progress=progress), **options)
    assert len(progress.history) == 50 and progress.history[-1]["loss"] < progress.history[0]["loss"] - 1
    gram = (adapter.basis @ adapter.basis.mT).detach()
    torch.testing.assert_close(gram, torch.eye(4).expand_as(gram), rtol=0, atol=1e-5)
    assert adapter.basis.dtype == adapter.weight.dtype == torch.float32
    for old, new in zip(before.parameters(), adapter.parameters(), strict=True):
        moved = (old - new).detach().flatten(2).norm(dim=2)
        if not tied:
            # What the last layer puts out at first tokens is read by nobody.
            assert moved[1, 0] < 1e-5
            moved = moved.flatten()[[0, 1, 3]]
        assert moved.min() > 0.01


def test_the_reference_of_pairs_is_the_bare_model(model, tokenizer):
    """The edit is not the identity before training; an edited reference would make the first loss exactly ln 2."""
    progress = Progress()
    lofit.fit(
        model, tokenizer, PAIRS, method="loreft", rank=2, epochs=1, batch_size=3, context=Context(progress=progress)
    )
    assert abs(progress.history[0]["loss"] - math.log(2)) > 1e-3


def test_only_the_layers_that_are_named_are_edited(model, tokenizer):
    adapter = lofit.fit(model, tokenizer, RECORDS, method="loreft", layers=[1], rank=2, first=1, last=2, epochs=2)
    assert adapter.layers == [1] and adapter.lowest_layer == 1 and adapter.where == "first 1 and last 2 of the prompt"
    assert sum(value.numel() for value in adapter.parameters()) == 2 * 32 * 2 + 2


def test_keeping_the_prefix_changes_nothing(model, tokenizer):
    from lofit.training.settings import Runtime

    adapters = [
        lofit.fit(
            model,
            tokenizer,
            RECORDS,
            method="loreft",
            layers=[1],
            rank=2,
            epochs=3,
            context=Context(runtime=Runtime(keep_prefix=keep)),
        )
        for keep in (True, False)
    ]
    for one, other in zip(*(adapter.parameters() for adapter in adapters), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"layers": [2]}, r"^layers: got 2; expected 0 to 1, as in the model$"),
        ({"layers": []}, r"^layers: got \[\]; expected at least one entry$"),
        ({"rank": 33}, r"^rank: got 33; expected 1 to 32, the width of the model$"),
        ({"first": 0, "last": 0}, r"^first and last: got 0 and 0"),
        ({"first": -1}, r"^first: got -1; expected greater than or equal to 0$"),
    ],
)
def test_settings_that_cannot_be_meant(model, tokenizer, options, fault):
    with pytest.raises(LofitError, match=fault):
        lofit.fit(model, tokenizer, RECORDS, method="loreft", **options)
