"""dtype auto: bfloat16 where the device computes in it."""

import pytest
import torch

from lofit.errors import LofitError
from lofit.models.runtime import pick_dtype


@pytest.mark.parametrize(
    ("known", "dtype"),
    [
        ({"avx512_bf16": True, "amx_bf16": False}, "bfloat16"),
        ({"avx512_bf16": False, "amx_bf16": True}, "bfloat16"),
        ({"avx512_f": True, "avx512_bf16": False}, "float32"),
        ({}, "float32"),
    ],
)
def test_on_a_processor_it_is_what_the_processor_has_instructions_for(known, dtype, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known, raising=False)
    assert pick_dtype("auto", "cpu") == dtype
    assert pick_dtype("float16", "cpu") == "float16"


def test_where_torch_cannot_say_it_is_float32(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert pick_dtype("auto", "cpu") == "float32"


@pytest.mark.parametrize(("supported", "dtype"), [(True, "bfloat16"), (False, "float32")])
def test_on_an_accelerator_it_is_what_that_computes_in(supported, dtype, monkeypatch):
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 1)
    # Emulated, it would be slower than float32.
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation or supported)
    assert pick_dtype("auto", "auto") == dtype


def test_another_name_is_refused():
    with pytest.raises(LofitError, match="dtype: got 'half'; expected auto, float32, bfloat16, float16"):
        pick_dtype("half", "cpu")
