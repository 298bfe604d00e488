"""Parity with the original implementation, on the figures in tests/golden (see its README)."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from lofit import HeadAdapter, head_layout
from lofit.training.objectives import completion_cross_entropy

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="module", params=["mha", "gqa"])
def golden(request):
    folder = GOLDEN / request.param
    return AutoModelForCausalLM.from_pretrained(folder).eval(), load_file(folder / "expected.safetensors")


def build(case: str, expected: dict, heads: list) -> HeadAdapter:
    at = tuple(torch.tensor(heads).T)
    return {
        "base": lambda: HeadAdapter(heads, torch.zeros_like(expected["offsets"][at]), torch.zeros(len(heads), 8)),
        "scaled": lambda: HeadAdapter(heads, scales=expected["scales"][at]),
        "offset": lambda: HeadAdapter(heads, offsets=expected["offsets"][at]),
    }[case]()


@pytest.mark.parametrize("case", ["base", "scaled", "offset"])
def test_logits_loss_and_gradients_of_the_original(golden, case):
    model, expected = golden
    layout = head_layout(model)
    assert expected["scales"].shape == (layout.num_layers, layout.num_heads, layout.head_dim)
    adapter = build(case, expected, layout.all_heads())
    with adapter.attach(model):
        logits = model(input_ids=expected["input_ids"], attention_mask=expected["attention_mask"]).logits
        loss = completion_cross_entropy(logits, expected["labels"])
        loss.backward()
    seen = expected["attention_mask"].bool()
    assert (logits[seen] - expected[f"{case}.logits"][seen]).abs().max() < 5e-5
    assert abs(loss.item() - expected[f"{case}.loss"].item()) < 1e-5
    for vectors, key in ((adapter.scales, "grad_A"), (adapter.offsets, "grad_v")):
        if vectors is not None:
            ours, theirs = vectors.grad, expected[f"{case}.{key}"].flatten(0, 1)
            assert (ours - theirs).norm() <= 1e-4 * theirs.norm()


def test_the_golden_cases_differ(golden):
    _, expected = golden
    for case in ("scaled", "offset"):
        assert (expected[f"{case}.logits"] - expected["base.logits"]).abs().max() > 1e-3
