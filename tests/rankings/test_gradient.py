"""The gradient ranking, against gradients taken by hand."""

import numpy as np
import pytest
import torch

from lofit import LofitError, Record, head_layout
from lofit.fitting.rank_heads import scores_of_heads
from lofit.rankings import gradient
from lofit.tasks.record import Objective
from lofit.training.reference import pair_logprobs
from lofit.training.settings import Runtime
from lofit.training.subject import Subject

ROWS = [
    ("Q: Can pigs fly? A:", " No, pigs cannot fly", " Yes"),
    ("Q: Where did the cat sit? A:", " on the mat", " in the cat"),
    ("Q: Who? A:", " Roy", " Anna and the dog"),
    ("Answer:", " her brother", " mat"),
]
RECORDS = [Record(str(number), *row) for number, row in enumerate(ROWS)]
OBJECTIVES = {"cross_entropy": Objective("cross_entropy"), "dpo": Objective("dpo")}


def make_subject(model, tokenizer, objective="cross_entropy", **changes):
    parts = {"layout": head_layout(model), "model": model, "tokenizer": tokenizer, "records": RECORDS}
    return Subject(**{**parts, "objective": OBJECTIVES[objective], **changes})


def by_hand(model, tokenizer, objective, beta=0.5):
    """N x layers x heads x head_dim: each record's gradient of an offset at every position, one record at a time."""
    layout = head_layout(model)
    found = []
    for prompt, right, wrong in ROWS:
        offsets = torch.zeros(2, 4, 8, requires_grad=True)
        handles = [
            model.get_submodule(path).register_forward_pre_hook(
                lambda _, args, layer=layer, offsets=offsets: (args[0] + offsets[layer].flatten(),)
            )
            for layer, path in enumerate(layout.projections)
        ]
        totals, count = [], 0
        for completion in (right, wrong)[: 2 if objective == "dpo" else 1]:
            start = len(tokenizer(prompt)["input_ids"])
            ids = [*tokenizer(prompt + completion)["input_ids"], tokenizer.eos_token_id]
            logprobs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
            totals.append(sum(logprobs[at - 1, ids[at]] for at in range(start, len(ids))))
            count = len(ids) - start
        if objective == "dpo":
            # At v = 0 the reference is the model itself.
            margin = (totals[0] - totals[0].detach()) - (totals[1] - totals[1].detach())
            loss = -torch.nn.functional.logsigmoid(beta * margin)
        else:
            loss = -totals[0] / count
        loss.backward()
        for handle in handles:
            handle.remove()
        found.append(offsets.grad.double().numpy())
    return np.stack(found)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_norm_is_that_of_the_mean_gradient(model, tokenizer, objective, checkpointing):
    subject = make_subject(model, tokenizer, objective, runtime=Runtime(gradient_checkpointing=checkpointing))
    ids = torch.arange(1, 11)[None]
    before = model(ids).logits
    scores = gradient.rank(subject, gradient.Settings(), None)
    expected = np.linalg.norm(by_hand(model, tokenizer, objective).mean(0), axis=-1)
    assert scores.shape == (2, 4) and expected.min() > 0
    np.testing.assert_allclose(scores, expected, rtol=1e-3)
    assert torch.equal(model(ids).logits, before)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_other_score_is_in_standard_errors(model, tokenizer, objective):
    subject = make_subject(model, tokenizer, objective)
    scores = gradient.rank(subject, gradient.Settings(score="standard_error"), None)
    each = by_hand(model, tokenizer, objective)
    expected = np.zeros((2, 4))
    for layer, head in np.ndindex(2, 4):
        for number in range(8):
            values = each[:, layer, head, number]
            expected[layer, head] += values.mean() ** 2 / (values.var(ddof=1) / len(values))
    np.testing.assert_allclose(scores, expected, rtol=2e-3)


def test_beta_scales_the_gradients_of_pairs(model, tokenizer):
    subject = make_subject(model, tokenizer, "dpo")
    once, twice = (gradient.rank(subject, gradient.Settings(beta=beta), None) for beta in (0.5, 1.0))
    np.testing.assert_allclose(twice, 2 * once, rtol=1e-3)


def test_the_reference_of_pairs_is_the_subjects(model, tokenizer):
    """A reference other than the model's own changes the weight of each pair."""
    bare = make_subject(model, tokenizer, "dpo")
    pairs = pair_logprobs(model, tokenizer, RECORDS, OBJECTIVES["dpo"])
    shifted = [(chosen + 4 * number, rejected) for number, (chosen, rejected) in enumerate(pairs)]
    same = make_subject(model, tokenizer, "dpo", references=(pairs, []))
    other = make_subject(model, tokenizer, "dpo", references=(shifted, []))
    scores = [gradient.rank(subject, gradient.Settings(), None) for subject in (bare, same, other)]
    np.testing.assert_allclose(scores[0], scores[1], rtol=1e-4)
    weights = 1 / (1 + np.exp(-0.5 * 4 * np.arange(4)))
    expected = np.linalg.norm((by_hand(model, tokenizer, "dpo") * 2 * weights[:, None, None, None]).mean(0), axis=-1)
    np.testing.assert_allclose(scores[2], expected, rtol=1e-3)


def test_a_gradient_that_is_the_same_for_every_record_has_no_error(model, tokenizer):
    subject = make_subject(model, tokenizer, records=RECORDS[:1] * 3)
    assert gradient.rank(subject, gradient.Settings(score="standard_error"), None).max() == 0
    with pytest.raises(LofitError, match=r"^score: got standard_error for 1 record; expected at least 2$"):
        gradient.rank(
            make_subject(model, tokenizer, records=RECORDS[:1]), gradient.Settings(score="standard_error"), None
        )


def test_a_fit_ranks_by_it(make_model, tokenizer):
    model = make_model()
    model.requires_grad_(True)
    scores = scores_of_heads(make_subject(model, tokenizer), "gradient", {"score": "norm"})
    np.testing.assert_allclose(
        scores, np.linalg.norm(by_hand(model, tokenizer, "cross_entropy").mean(0), axis=-1), rtol=1e-3
    )
    assert all(parameter.requires_grad for parameter in model.parameters())
