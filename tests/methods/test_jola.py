"""JoLA: gates by the formula, noise by the step alone, penalties by hand, and folding to the same edit."""

import math
from contextlib import suppress

import pytest
import torch

import lofit
from lofit import HeadAdapter, Record, head_layout
from lofit.adapters.gates import GatedHeads
from lofit.methods import jola
from lofit.tasks.record import Objective
from lofit.training.subject import Subject

ROWS = [
    ("Q: Can pigs fly? A:", " No, pigs cannot fly", " Yes"),
    ("Q: Where did the cat sit? A:", " on the mat", " in the cat"),
    ("Q: Who? A:", " Roy", " Anna and the dog"),
]
RECORDS = [{"prompt": prompt, "completion": right} for prompt, right, _ in ROWS]
IDS = torch.arange(1, 21).view(2, 10)


@pytest.fixture
def gated(model):
    """Gates of every kind: shut, open, and between."""
    heads = head_layout(model).all_heads()
    generator = torch.Generator().manual_seed(0)
    scales, offsets = torch.randn(2, 8, 8, generator=generator)
    log_gates = torch.tensor([[-5.0, -2.4, 0, 1, 2.4, 5, -5, -3], [-5.0, 1, 0, -1, 2.4, 5, 0.3, -4]])
    return GatedHeads(heads, scales, offsets, log_gates, seed=7)


def test_gates_outside_of_steps_are_the_formula(gated):
    expected = [
        [min(max(1.2 / (1 + math.exp(-value)) - 0.1, 0), 1) for value in row] for row in gated.log_gates.tolist()
    ]
    torch.testing.assert_close(gated.gates(), torch.tensor(expected))
    assert gated.gates()[0, 0] == 0 and gated.gates()[0, 5] == 1


def test_gates_in_a_step_are_the_formula_of_its_noise(gated):
    gated.begin_step(3)
    uniform = 1e-6 + (1 - 2e-6) * torch.rand(2, 8, generator=torch.Generator().manual_seed(7 * 1_000_003 + 3))
    concrete = 1 / (1 + torch.exp(-(torch.log(uniform / (1 - uniform)) + gated.log_gates) / 0.33))
    torch.testing.assert_close(gated.gates(), torch.clamp(1.2 * concrete - 0.1, 0, 1), rtol=1e-4, atol=1e-5)


def test_noise_is_of_seed_and_step_alone_and_ends_with_the_step(gated):
    quiet = gated.gates()
    drawn = {}
    for step in (0, 1, 2, 1):
        gated.begin_step(step)
        if step in drawn:
            assert torch.equal(gated.gates(), drawn[step])
        drawn[step] = gated.gates()
        # The passes of one step have one draw.
        assert torch.equal(gated.gates(), drawn[step])
        gated.end_step(0.1)
        assert torch.equal(gated.gates(), quiet)
    assert not torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[1], drawn[2])


def test_chances_are_how_often_gates_are_open(gated):
    open_ = torch.zeros(2, 8)
    for step in range(4000):
        gated.begin_step(step)
        open_ += gated.gates().detach() > 0
    assert (open_ / 4000 - gated.chances()).abs().max() < 0.035


def test_the_edit_is_the_formula_values_and_gradients(model, gated):
    """Against a naive edit of the projections' input, in a step with noise."""
    layout = head_layout(model)
    gated.begin_step(0)
    with gated.attach(model, layout):
        logits = model(IDS).logits
    mine = torch.autograd.grad(logits.square().mean(), list(gated.parameters()))
    scales, offsets, log_gates = (value.detach().clone().requires_grad_() for value in gated.parameters())
    noise = gated._noise

    def edit(layer):
        def hook(_, args):
            heads = args[0].unflatten(-1, (4, 8)).unbind(-2)
            g = (1.2 * torch.sigmoid((noise.logit() + log_gates) / 0.33) - 0.1).clamp(0, 1)
            rows = range(4 * layer, 4 * layer + 4)
            return (
                torch.cat(
                    [(1 + g[1, i] * scales[i]) * z + g[0, i] * offsets[i] for i, z in zip(rows, heads, strict=True)],
                    dim=-1,
                ),
            )

        return hook

    handles = [
        model.get_submodule(path).register_forward_pre_hook(edit(layer))
        for layer, path in enumerate(layout.projections)
    ]
    naive = model(IDS).logits
    for handle in handles:
        handle.remove()
    torch.testing.assert_close(logits, naive, rtol=1e-4, atol=1e-4)
    for one, other in zip(mine, torch.autograd.grad(naive.square().mean(), [scales, offsets, log_gates]), strict=True):
        assert one.any()
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_folding_is_exact_and_drops_the_heads_behind_shut_gates(make_model, gated, dtype):
    model = make_model().to(dtype)
    folded = gated.folded()
    # Of heads 0 and 7 both gates are shut; of 1 and 6 the offsets' are.
    assert type(folded) is HeadAdapter and folded.heads == head_layout(model).all_heads()[1:7]
    assert not folded.offsets[0].any() and folded.scales[0].any()
    with gated.attach(model):
        expected = model(IDS).logits
    with folded.attach(model):
        assert torch.equal(model(IDS).logits, expected)
    assert not torch.equal(expected, model(IDS).logits)


def test_gates_start_as_published(model, tokenizer):
    subject = Subject(layout=head_layout(model), model=model, tokenizer=tokenizer, records=[], seed=3)
    many = torch.cat([jola.fresh(replaced(subject, seed)).log_gates.detach().flatten() for seed in range(300)])
    bound = math.sqrt(6 / 5)
    assert many.abs().max() <= bound and abs(many.mean()) < 0.05
    assert abs(many.var() - bound**2 / 3) < 0.03


def test_the_published_penalty_by_hand():
    chances = torch.rand(2, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for step in (0, 1, 250):
        lam = 0.1 * math.exp(-0.01 * step)
        expected = 0.0
        for layer in range(3):
            offsets = [float(chances[0, 4 * layer + head]) for head in range(4)]
            scales = [float(chances[1, 4 * layer + head]) for head in range(4)]
            expected += (lam * sum(offsets) / 4 + (1 - lam) * sum(scales) / 4) / 12
        assert float(jola.published_penalty(chances, 3, 4, step)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("penalty", ["paper", "published"])
def test_each_step_reports_its_penalty(model, tokenizer, penalty):
    subject = make_subject(model, tokenizer)
    first = jola.fresh(subject).chances().detach()
    jola.fit(subject, jola.Settings(penalty=penalty, lam=0.5, epochs=1, lr=1e-6, batch_size=1), [])
    rows = subject.progress.history
    expected = [
        float(0.5 * first.mean() if penalty == "paper" else jola.published_penalty(first, 2, 4, step))
        for step in range(3)
    ]
    assert [row["penalty"] for row in rows] == pytest.approx(expected, rel=1e-4)


def test_gates_all_shut_are_an_empty_adapter_and_a_warning(model, tokenizer, capsys):
    adapter = lofit.fit(model, tokenizer, RECORDS, method="jola", lam=1e4, lr=0.5, epochs=20)
    assert adapter.heads == []
    assert "warning: jola: no gate is open" in capsys.readouterr().err


def test_the_validation_loss_is_that_of_the_adapter_that_is_returned(model, tokenizer, capsys):
    subject = make_subject(model, tokenizer)
    adapter = jola.fit(subject, jola.Settings(epochs=2, lr=0.05), [])
    assert subject.progress.val_loss == pytest.approx(subject.loss_on_val(adapter, jola.Settings()), abs=1e-6)
    assert "of 16 gates are open" in capsys.readouterr().err


def test_an_interrupted_run_draws_the_same(model, tokenizer, tmp_path, monkeypatch):
    settings = jola.Settings(epochs=3, lr=0.05, batch_size=1)
    whole = jola.fit(make_subject(model, tokenizer), settings, [])
    monkeypatch.setattr("lofit.training.checkpoint.Checkpoint.due", lambda self: True)

    def stop(row):
        if row["step"] == 5:
            raise KeyboardInterrupt

    subject = make_subject(model, tokenizer, tmp_path)
    subject.progress.on_step = stop
    with suppress(KeyboardInterrupt):
        jola.fit(subject, settings, [])
    resumed = make_subject(model, tokenizer, tmp_path)
    seen = []
    monkeypatch.setattr(GatedHeads, "begin_step", spied(GatedHeads.begin_step, seen))
    again = jola.fit(resumed, settings, [])
    assert seen == [4, 5, 6, 7, 8]
    assert again.heads == whole.heads
    assert torch.equal(again.scales, whole.scales) and torch.equal(again.offsets, whole.offsets)


def test_it_trains_on_pairs_and_is_the_same_every_time(model, tokenizer):
    rows = [{"prompt": prompt, "chosen": right, "rejected": wrong} for prompt, right, wrong in ROWS]
    one, other = (lofit.fit(model, tokenizer, rows, method="jola", epochs=2) for _ in range(2))
    assert one.heads == other.heads and torch.equal(one.scales, other.scales) and one.offsets.any()


# ---------------------------------------------------------------------------------------------------------- helpers


def make_subject(model, tokenizer, checkpoint=None):
    records = [Record(str(number), prompt, right) for number, (prompt, right, _) in enumerate(ROWS)]
    return Subject(
        layout=head_layout(model),
        model=model,
        tokenizer=tokenizer,
        records=records,
        val=records[:2],
        objective=Objective("cross_entropy"),
        checkpoint=checkpoint,
    )


def replaced(subject, seed):
    subject.seed = seed
    return subject


def spied(method, seen):
    def begin_step(self, step):
        seen.append(step)
        method(self, step)

    return begin_step
