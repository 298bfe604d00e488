"""The losses against their closed forms and against loops over tokens, values and gradients."""

import math

import pytest
import torch

from lofit.models.forward import completion_logprobs
from lofit.models.tokens import IGNORED
from lofit.training.objectives import completion_cross_entropy, dpo_loss, l1_penalty

LABELS = torch.tensor([[IGNORED, IGNORED, 3, 1, IGNORED], [IGNORED, 4, 0, 2, 2], [2, IGNORED, IGNORED, IGNORED, 1]])


@pytest.fixture
def logits():
    return (
        torch.randn(3, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).float().requires_grad_()
    )


def test_uniform_logits_cost_log_vocabulary_for_each_counted_token():
    logits = torch.zeros(3, 5, 6)
    expected = -math.log(6) * torch.tensor([2.0, 4.0, 1.0])
    torch.testing.assert_close(completion_logprobs(logits, LABELS), expected)
    torch.testing.assert_close(completion_cross_entropy(logits, LABELS), torch.tensor(math.log(6)))


def test_logprobs_are_those_of_a_loop_over_tokens(logits):
    torch.testing.assert_close(completion_logprobs(logits, LABELS), torch.stack(logprobs_by_hand(logits)))


def test_gradients_of_the_logprobs_are_those_of_the_loop(logits):
    weights = torch.tensor([1.0, -2.0, 0.5])
    (ours,) = torch.autograd.grad((completion_logprobs(logits, LABELS) * weights).sum(), logits)
    (theirs,) = torch.autograd.grad((torch.stack(logprobs_by_hand(logits)) * weights).sum(), logits)
    assert theirs.abs().max() > 0.1
    torch.testing.assert_close(ours, theirs)


def test_cross_entropy_is_the_mean_over_tokens_not_over_rows(logits):
    expected = -sum(logprobs_by_hand(logits)) / 7
    torch.testing.assert_close(completion_cross_entropy(logits, LABELS), expected)
    (ours,) = torch.autograd.grad(completion_cross_entropy(logits, LABELS), logits)
    (theirs,) = torch.autograd.grad(expected, logits)
    torch.testing.assert_close(ours, theirs)


def test_ignored_positions_take_no_part(logits):
    (gradient,) = torch.autograd.grad(completion_cross_entropy(logits, LABELS), logits)
    predicts_counted = torch.zeros(3, 5, dtype=torch.bool)
    predicts_counted[:, :-1] = LABELS[:, 1:] != IGNORED
    assert (gradient[~predicts_counted] == 0).all()
    assert (gradient[predicts_counted].abs().amax(-1) > 0).all()


def test_a_token_that_the_model_forbids_does_not_spoil_other_rows(logits):
    forbidding = logits.detach().clone()
    forbidding[..., 0] = -math.inf
    labels = LABELS[[0, 2]]
    torch.testing.assert_close(
        completion_logprobs(forbidding[[0, 2]], labels),
        torch.stack(
            [
                sum(row)
                for row in (
                    [forbidding[0, 1].log_softmax(-1)[3], forbidding[0, 2].log_softmax(-1)[1]],
                    [forbidding[2, 3].log_softmax(-1)[1]],
                )
            ]
        ),
    )


def test_half_precision_logits_are_summed_in_float32(logits):
    ours = completion_logprobs(logits.detach().bfloat16(), LABELS)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, completion_logprobs(logits.detach().bfloat16().float(), LABELS))


def test_dpo_is_its_closed_form_over_pairs():
    chosen, rejected = [-3.0, -1.0], [-2.0, -4.0]
    ref_chosen, ref_rejected = [-2.5, -2.0], [-2.5, -2.0]
    expected = [
        -math.log(1 / (1 + math.exp(-0.5 * ((c - rc) - (r - rr)))))
        for c, r, rc, rr in zip(chosen, rejected, ref_chosen, ref_rejected, strict=True)
    ]
    loss = dpo_loss(*map(torch.tensor, (chosen, rejected, ref_chosen, ref_rejected)), beta=0.5)
    assert loss.item() == pytest.approx(sum(expected) / 2, rel=1e-6)


def test_gradients_of_dpo_are_beta_times_the_chance_of_a_wrong_order():
    chosen = torch.tensor([-3.0, -1.0], requires_grad=True)
    rejected = torch.tensor([-2.0, -4.0], requires_grad=True)
    dpo_loss(chosen, rejected, torch.tensor([-2.5, -2.0]), torch.tensor([-2.5, -2.0]), beta=0.5).backward()
    wrong = torch.sigmoid(-0.5 * torch.tensor([-1.0, 3.0]))
    torch.testing.assert_close(chosen.grad, -0.5 * wrong / 2)
    torch.testing.assert_close(rejected.grad, 0.5 * wrong / 2)


@pytest.mark.parametrize("beta", [0.0, 1e-9])
def test_dpo_without_beta_is_log_2(beta):
    wild = [torch.tensor([value]) for value in (-30.0, -1.0, -7.0, -90.0)]
    assert dpo_loss(*wild, beta=beta).item() == pytest.approx(math.log(2), abs=1e-6)


def test_dpo_of_the_reference_itself_is_log_2():
    chosen, rejected = torch.tensor([-3.0, -8.0]), torch.tensor([-5.0, -1.0])
    assert dpo_loss(chosen, rejected, chosen, rejected, beta=0.5).item() == pytest.approx(math.log(2))


def test_dpo_stays_finite_at_large_margins():
    far = [torch.tensor([value]) for value in (-1e4, 0.0, 0.0, 0.0)]
    assert dpo_loss(*far, beta=0.5).item() == pytest.approx(5000.0)


def test_l1_is_the_sum_of_absolute_values():
    vectors = torch.tensor([[1.0, -2.0], [0.5, 0.0]], requires_grad=True)
    penalty = l1_penalty(vectors, weight=0.1)
    penalty.backward()
    assert penalty.item() == pytest.approx(0.35)
    torch.testing.assert_close(vectors.grad, torch.tensor([[0.1, -0.1], [0.1, 0.0]]))
    assert l1_penalty(None, weight=0.1).item() == 0


# ---------------------------------------------------------------------------------------------------------- helpers


def logprobs_by_hand(logits: torch.Tensor) -> list[torch.Tensor]:
    """For each row, the sum over its labelled tokens of log(exp(logit) / sum of exp)."""
    rows = []
    for row, labels in zip(logits, LABELS.tolist(), strict=True):
        total = torch.zeros(())
        for position in range(1, len(labels)):
            if labels[position] != IGNORED:
                odds = row[position - 1].exp()
                total = total + (odds[labels[position]] / odds.sum()).log()
        rows.append(total)
    return rows
