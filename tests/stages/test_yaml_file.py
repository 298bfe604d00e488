"""YAML: one meaning for DVC and for the stages."""

import pytest

from stages.params import presets
from stages.params.load import load
from stages.params.yaml_file import parse_yaml, read_yaml
from tests.stages.test_params import PARAMS

SCALARS = (
    *("5e-05", "1e-3", "1E5", ".5", "1.", "+1", "-0", "1.5e+3", "010", "09", "0o10", "0x1F", "0b11", "1_000", "1:30"),
    *("on", "off", "yes", "No", "y", "true", "TRUE", "'true'", "2024-01-01", "2024-01-01 10:00:00", "~", "null", "''"),
    *(".inf", "-.Inf", ".nan", "1e", "a: {b: 1e-3}", "[on, 1e-3]", "!!str 1"),
)


@pytest.mark.parametrize("scalar", SCALARS)
def test_the_stages_read_what_dvc_reads(tmp_path, scalar):
    from dvc.utils.serialize import load_yaml

    file = tmp_path / "params.yaml"
    file.write_text(f"key:\n  {scalar}\n")
    ours, theirs = read_yaml(file), load_yaml(str(file))
    # `repr` tells nan from nan's kind, 1 from 1.0 and True, and a text from what it looks like.
    assert repr(ours) == repr(theirs) and type(ours["key"]) is type(theirs["key"])


@pytest.mark.parametrize(("text", "value"), [("1e-3", 0.001), ("on", "on"), ("010", 10), ("1:30", "1:30")])
def test_that_is_yaml_1_2(text, value):
    assert parse_yaml(text, name="text") == value


def test_what_dvc_writes_for_a_small_number_is_a_number(tmp_path):
    """`dvc exp run -S tasks.mquake.tune_bias.lr=0.00005` writes 5e-05."""
    from dvc.utils.serialize import modify_yaml

    file = tmp_path / "params.yaml"
    file.write_text(PARAMS.read_text())
    with modify_yaml(str(file)) as params:
        params["tasks"]["mquake"]["tune_bias"]["lr"] = 0.00005
    assert "lr: 5e-05" in file.read_text()
    assert load(file).tasks["mquake"].tune_bias.lr == 0.00005


def test_a_preset_may_write_a_number_so(tmp_path):
    params, preset = tmp_path / "params.yaml", tmp_path / "preset.yaml"
    params.write_text(PARAMS.read_text())
    preset.write_text("tasks: {mquake: {tune_bias: {lr: 5e-05}}}")
    assert presets.apply(params, preset) == ["tasks.mquake.tune_bias.lr: 0.05 -> 5e-05"]
    assert load(params).tasks["mquake"].tune_bias.lr == 0.00005
