"""runtime.yaml and the variables that take precedence over it."""

import pytest

from lofit.errors import LofitError
from stages.runtime import RuntimeFile, read_runtime

ON, OFF = ("on", "ON", "true", "True", "yes", "Yes", "1", "'on'"), ("off", "OFF", "false", "False", "no", "NO", "0")


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write a runtime.yaml; no variable is set."""
    for key in RuntimeFile.model_fields:
        monkeypatch.delenv(f"LOFIT_{key.upper()}", raising=False)

    def write(text):
        (tmp_path / "runtime.yaml").write_text(text)
        return tmp_path / "runtime.yaml"

    return write


@pytest.mark.parametrize("key", ["tracking", "keep_prefix", "gradient_checkpointing"])
@pytest.mark.parametrize(("word", "wanted"), [(word, True) for word in ON] + [(word, False) for word in OFF])
def test_a_switch_takes_all_words_for_on_and_off(write, monkeypatch, key, word, wanted):
    assert getattr(read_runtime(write(f"{key}: {word}")), key) is wanted
    file = write(f"{key}: {'off' if wanted else 'on'}")
    monkeypatch.setenv(f"LOFIT_{key.upper()}", word)
    assert getattr(read_runtime(file), key) is wanted


@pytest.mark.parametrize("word", ["x", "2", "offf", "null", "[off]", ""])
def test_any_other_word_for_a_switch_is_a_fault(write, monkeypatch, word):
    with pytest.raises(LofitError, match=r"^runtime\.yaml: tracking: got .*; expected on or off$"):
        read_runtime(write(f"tracking: {word}"))
    monkeypatch.setenv("LOFIT_TRACKING", word)
    with pytest.raises(LofitError, match=r"^LOFIT_TRACKING: got .*; expected on or off$"):
        read_runtime(write("tracking: on"))


@pytest.mark.parametrize(
    ("name", "value", "fault"),
    [
        ("DEVICE", "gpu", "got 'gpu'; expected auto, cpu, mps, or cuda or xpu, with :N or without"),
        ("DEVICE_MAP", "all", "got 'all'; expected 'auto'"),
        ("PROCESSES", "0", "got 0; expected greater than or equal to 1"),
        ("MICRO_BATCH_SIZE", "many", "got 'many'; expected a whole number"),
        ("PREFIX_MEMORY_GB", ".nan", "got nan; expected a finite number"),
        ("PREFIX_MEMORY_GB", "[", "line 2, column 1: while parsing a flow node, did not find expected node content"),
        ("DEVICE", "cuda: 1", "got {'cuda': 1}; expected a text"),
    ],
)
def test_a_fault_of_a_variable_names_it(write, monkeypatch, name, value, fault):
    monkeypatch.setenv(f"LOFIT_{name}", value)
    with pytest.raises(LofitError) as refusal:
        read_runtime(write("keep_prefix: on"))
    assert str(refusal.value) == f"LOFIT_{name}: {fault}"


def test_faults_of_the_file_and_of_variables_are_told_apart(write, monkeypatch):
    monkeypatch.setenv("LOFIT_DEVICE", "gpu")
    with pytest.raises(LofitError) as refusal:
        read_runtime(write("device: cpu\nprocesses: two\ntrackin: off\n"))
    variable, *in_file = sorted(str(refusal.value).splitlines())
    assert variable.startswith("LOFIT_DEVICE: got 'gpu'; ")
    assert in_file[0] == "runtime.yaml: processes: got 'two'; expected a whole number"
    assert in_file[1].startswith("runtime.yaml: trackin: unknown key; expected device, ")


def test_variables_are_read_as_the_file_is(write, monkeypatch):
    values = {"DEVICE": "cuda:1", "MICRO_BATCH_SIZE": "null", "PREFIX_MEMORY_GB": "1e-1", "PROCESSES": "2"}
    for name, value in values.items():
        monkeypatch.setenv(f"LOFIT_{name}", value)
    read = read_runtime(write("micro_batch_size: 4"))
    assert (read.device, read.micro_batch_size, read.prefix_memory_gb, read.processes) == ("cuda:1", None, 0.1, 2)
