"""What an export has to stand up to before it is believed."""

import copy
import subprocess
import sys

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from lofit import HeadAdapter, LofitError, head_layout, merge
from lofit.export.read_back import in_float32
from lofit.export.verify import TOLERANCE, WITHOUT_LOFIT, Expected, expect, largest_difference, logits, verify
from tests.families import FAMILIES, SHAPE, build

ROWS = [torch.tensor([5, 17, 40, 8]), torch.tensor([9, 2, 33])]


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_nan_is_a_difference_wherever_it_is(place):
    some = [torch.zeros(2, 3) for _ in range(3)]
    others = copy.deepcopy(some)
    others[place][1, 1] = torch.nan
    assert torch.tensor(largest_difference(some, others)).isnan()
    others[place][1, 1] = 2.0
    assert largest_difference(some, others) == 2.0


@pytest.mark.parametrize("tolerance", [1.0, 5.0, -0.1, float("nan")])
def test_a_tolerance_that_lets_everything_pass_is_refused(tmp_path, tolerance):
    expected = Expected(ROWS, [torch.zeros(1)], [torch.ones(1)])
    with pytest.raises(LofitError, match=r"tolerance: got .*; expected from 0 to below 1"):
        verify(tmp_path, expected, dtype="float32", tolerance=tolerance)


def test_an_adapter_that_changes_nothing_cannot_be_verified(model):
    with pytest.raises(
        LofitError, match=r"effect on the logits of 2 fixed prompts is 0; expected one that can be seen"
    ):
        expect(model, HeadAdapter([(0, 1)], torch.zeros(1, 8)), head_layout(model), ROWS)


def test_the_other_process_cannot_import_lofit(tmp_path):
    (tmp_path / "script.py").write_text("import lofit")
    command = [sys.executable, "-c", WITHOUT_LOFIT, tmp_path / "script.py"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode and "import of lofit halted" in done.stderr


@pytest.mark.parametrize("name", FAMILIES)
def test_arithmetic_in_float32_is_that_of_a_model_in_float32_and_leaves_the_weights(name):
    single = build(name, torch.float32)
    half = copy.deepcopy(single)
    for weight in half.parameters():
        weight.data = weight.data.bfloat16()
    whole = copy.deepcopy(half)
    for weight in whole.parameters():
        weight.data = weight.data.float()
    kept = {path: weight.clone() for path, weight in half.named_parameters()}
    with in_float32(half):
        ours = logits(half, ROWS)
    assert largest_difference(ours, logits(whole, ROWS)) < 1e-4
    assert all(
        torch.equal(weight, kept[path]) and weight.dtype == torch.bfloat16 for path, weight in half.named_parameters()
    )
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in half.modules())


def test_in_bfloat16_one_lost_head_of_many_is_seen():
    config = LlamaConfig(**{**SHAPE, "num_hidden_layers": 8})
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    model = model.bfloat16().eval()
    layout = head_layout(model)
    adapter = HeadAdapter(layout.all_heads(), torch.randn(layout.size, layout.head_dim))
    expected = expect(model, adapter, layout, ROWS)
    exact, allowed = share(merge(copy.deepcopy(model), adapter), expected), TOLERANCE["bfloat16"]
    assert exact < allowed / 2
    for lost in (0, layout.size // 2, layout.size - 1):
        fewer = adapter.offsets.detach().clone()
        fewer[lost] = 0
        assert share(merge(copy.deepcopy(model), HeadAdapter(adapter.heads, fewer)), expected) > allowed


def share(model, expected):
    with in_float32(model):
        return largest_difference(logits(model, expected.rows), expected.edited) / expected.effect
