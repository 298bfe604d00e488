"""Logits only where a label is, against all of them: values, gradients, and how many are made."""

import pytest
import torch

from lofit import HeadAdapter, head_layout
from lofit.models.forward import completion_logprobs, labelled_logits
from lofit.models.tokens import IGNORED
from lofit.training.objectives import completion_cross_entropy
from tests.families import FAMILIES, VOCABULARY, build

LENGTHS = [(7, 3), (5, 4), (6, 5)]
"""Tokens of a row, and where its completion begins."""


@pytest.fixture
def batch():
    ids = torch.randint(3, VOCABULARY, (3, 7), generator=torch.Generator().manual_seed(1))
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, IGNORED)
    for row, (length, start) in enumerate(LENGTHS):
        mask[row, :length] = 1
        labels[row, start:length] = ids[row, start:length]
    return {"input_ids": ids, "attention_mask": mask}, labels


@pytest.mark.parametrize("name", FAMILIES)
def test_logprobs_and_gradients_are_those_of_all_logits(name, batch):
    family, model = FAMILIES[name], build(name, torch.float64)
    inputs, labels = batch
    adapter = HeadAdapter([(0, 1), (1, 2)], 0.1 * torch.randn(2, family.head_dim))
    weights = torch.tensor([1.0, -2.0, 0.5])
    results = []
    with adapter.attach(model, head_layout(model)):
        for pair in (labelled_logits(model, inputs, labels), (model(**inputs, use_cache=False).logits, labels)):
            logprobs = completion_logprobs(*pair)
            (gradient,) = torch.autograd.grad((logprobs * weights).sum(), adapter.offsets)
            results.append((logprobs, gradient, completion_cross_entropy(*pair)))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    assert results[0][1].abs().max() > 1e-3


def test_the_output_embeddings_see_the_longest_completion_and_one_more_position(batch):
    model = build("llama", torch.float32)
    inputs, labels = batch
    seen = []
    with model.lm_head.register_forward_hook(lambda _, args, output: seen.append(output.shape)):
        logits, kept = labelled_logits(model, inputs, labels)
        model(**inputs)
    # Of lengths 4, 1 and 1.
    assert seen == [(3, 5, VOCABULARY), (3, 7, VOCABULARY)]
    assert logits.shape[:2] == kept.shape == (3, 5)
    assert not model.lm_head._forward_pre_hooks


def test_labels_need_not_stand_together(batch):
    model = build("llama", torch.float64)
    inputs, _ = batch
    labels = torch.full((3, 7), IGNORED)
    for row, place in [(0, 0), (0, 1), (0, 4), (0, 6), (2, 3)]:
        labels[row, place] = inputs["input_ids"][row, place]
    ours = completion_logprobs(*labelled_logits(model, inputs, labels))
    torch.testing.assert_close(ours, completion_logprobs(model(**inputs).logits, labels))
    assert ours[1] == 0 and (ours[[0, 2]] < 0).all()
