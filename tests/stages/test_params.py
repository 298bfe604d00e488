"""params.yaml: what it may say, and how its faults are told."""

import re
from pathlib import Path

import pytest
import yaml

from lofit.errors import LofitError
from stages.params.load import load, validate

PARAMS = Path(__file__).parents[1] / "params.yaml"


@pytest.fixture
def raw():
    return yaml.safe_load(PARAMS.read_text())


def test_the_file_of_the_project_is_valid():
    params = load(PARAMS)
    cells = [params.cell(task, method) for task in params.tasks for method in params.methods]
    assert {cell.kind for cell in cells} == {"truthfulqa", "mquake", "clutrr"}


def test_values_are_taken_over_as_they_stand(raw):
    params = validate(raw)
    assert params.run.model_dump() == raw["run"] and params.model.model_dump(exclude_unset=True) == raw["model"]
    assert params.tasks["mquake"].model_dump(exclude_unset=True) == raw["tasks"]["mquake"]


def test_a_key_left_out_takes_its_default(raw):
    assert "max_new_tokens" not in raw["tasks"]["truthfulqa"]["evaluate"]
    assert validate(raw).tasks["truthfulqa"].evaluate.max_new_tokens == 16


def test_a_method_overrides_single_keys_of_the_blocks_of_a_task(raw):
    raw["methods"]["mine"] = {"kind": "lofit", "select_heads": {"k": 7}, "tune_bias": {"lr": 0.5, "epochs": 1}}
    params = validate(raw)
    mine, plain = params.cell("mquake", "mine"), params.cell("mquake", "lofit")
    assert (mine.select_heads.k, mine.tune_bias.lr, mine.tune_bias.epochs) == (7, 0.5, 1)
    assert mine.select_heads.ranking == plain.select_heads.ranking
    assert mine.tune_bias.batch_size == plain.tune_bias.batch_size
    assert mine.train_scales == plain.train_scales
    assert plain == params.task("mquake")
    assert params.cell("mquake", "random_heads").select_heads.ranking == "random"


@pytest.mark.parametrize(
    ("key", "value", "fault"),
    [
        ("run", None, "run: got None; expected a block of keys"),
        ("run.tasks", "mquake", "run.tasks: got 'mquake'; expected a list"),
        ("run.tasks", ["mquake", "squad"], "run.tasks: got 'squad'; expected truthfulqa, mquake, clutrr"),
        ("run.methods", ["lora"], "run.methods: got 'lora'; expected base, lofit, random_heads, .*"),
        ("run.seeds", [], r"run.seeds: got \[\]; expected at least one entry"),
        ("run.seeds", [42, 7, 42], "run.seeds: got 42 twice; expected each once"),
        ("run.methods", ["base", "base"], "run.methods: got 'base' twice; expected each once"),
        ("run.tasks", ["mquake", "mquake"], "run.tasks: got 'mquake' twice; expected each once"),
        ("run.seeds", [-1], "run.seeds.0: got -1; expected greater than or equal to 0"),
        ("run.seeds", [1.5], "run.seeds.0: got 1.5; expected a whole number"),
        ("run.seeds", [True], "run.seeds.0: got True; expected a whole number"),
        ("model.dtype", "int8", "model.dtype: got 'int8'; expected 'float32', 'bfloat16' or 'float16'"),
        ("model.name", "", "model.name: got ''; expected a text that is not blank"),
        ("model.revision", 5, "model.revision: got 5; expected a text"),
        ("modle", {}, "modle: unknown key; expected run, model, methods, tasks"),
        ("methods.lofit.kind", "lora", "methods.lofit.kind: got 'lora'; expected 'base' or 'lofit'"),
        (
            "methods.lofit.select_heads",
            {"kk": 1},
            "methods.lofit.select_heads.kk: unknown key; expected k, ranking, draw, source",
        ),
        (
            "methods.lofit.select_heads",
            {"k": 0},
            "methods.lofit.select_heads.k: got 0; expected greater than or equal to 1",
        ),
        ("methods.lofit.train_scales", {}, "methods.lofit.train_scales: unknown key; expected kind, select_heads, .*"),
        ("methods.a/b", {"kind": "base"}, "methods.a/b: got 'a/b'; expected letters, digits and _ only"),
        ("tasks.mquake.kind", "squad", "tasks.mquake.kind: got 'squad'; expected 'truthfulqa', .* or 'jsonl'"),
        ("tasks.mquake.evaluate", None, "tasks.mquake.evaluate: got None; expected a block of keys"),
        ("tasks.mquake.evaluate.split", "train", "tasks.mquake.evaluate.split: got 'train'; expected 'val' or 'test'"),
        ("tasks.mquake.extra", 1, "tasks.mquake.extra: unknown key; expected kind, fetch_data, .*, evaluate"),
        ("tasks.mquake.select_heads.k", 0, "tasks.mquake.select_heads.k: got 0; expected greater than or equal to 1"),
        ("tasks.mquake.select_heads.k", -3, "tasks.mquake.select_heads.k: got -3; expected greater than or equal to 1"),
        ("tasks.mquake.select_heads.k", 2.5, "tasks.mquake.select_heads.k: got 2.5; expected a whole number"),
        ("tasks.mquake.select_heads.k", "3", "tasks.mquake.select_heads.k: got '3'; expected a whole number"),
        ("tasks.mquake.tune_bias.lr", 0.0, "tasks.mquake.tune_bias.lr: got 0.0; expected greater than 0"),
        (
            "tasks.mquake.tune_bias.lr",
            yaml.safe_load("1e-3"),
            r"tasks.mquake.tune_bias.lr: got '1e-3'; expected a number \(write 0.001, not 1e-3\)",
        ),
        ("tasks.mquake.tune_bias.lr", float("nan"), "tasks.mquake.tune_bias.lr: got nan; expected a finite number"),
        ("tasks.mquake.tune_bias.lr", float("inf"), "tasks.mquake.tune_bias.lr: got inf; expected a finite number"),
        ("tasks.mquake.train_scales.l1", -0.1, "tasks.mquake.train_scales.l1: got -0.1; expected greater than or .* 0"),
        ("tasks.mquake.tune_bias.l1", 0.1, "tasks.mquake.tune_bias.l1: unknown key; expected lr, epochs, .*"),
        (
            "tasks.truthfulqa.preprocess.folds",
            [2],
            "tasks.truthfulqa.preprocess.folds.0: got 2; expected less than or equal to 1",
        ),
        (
            "tasks.truthfulqa.preprocess.folds",
            [1, 0],
            r"tasks.truthfulqa.preprocess.folds: got \[1, 0\]; expected \[0\], \[1\] or \[0, 1\]",
        ),
        (
            "tasks.truthfulqa.preprocess.folds",
            [],
            r"tasks.truthfulqa.preprocess.folds: got \[\]; expected at least one entry",
        ),
        (
            "tasks.mquake.preprocess.folds",
            [0, 1],
            r"tasks.mquake.preprocess.folds: got \[0, 1\]; expected only for kind truthfulqa",
        ),
        (
            "tasks.clutrr.preprocess.prompt",
            "six_shot",
            "tasks.clutrr.preprocess.prompt: got 'six_shot'; expected only for kind truthfulqa",
        ),
        ("tasks.mquake.preprocess.chat", True, "tasks.mquake.preprocess.chat: got True; expected only for kind jsonl"),
        (
            "tasks.mquake.fetch_data.splits",
            {"val": "dev"},
            "tasks.mquake.fetch_data.splits: got {'val': 'dev'}; expected only for kind jsonl",
        ),
        ("model.device", "gpu", "model.device: got 'gpu'; expected auto, cpu, mps, or cuda or xpu, with :N or without"),
        ("model.quantization", "4bit", "model.quantization: got '4bit'; expected 'bitsandbytes_4bit', .*"),
        ("tasks.mquake.tune_bias.micro_batch_size", 0, "tasks.mquake.tune_bias.micro_batch_size: got 0; .*"),
        ("tasks.mquake.preprocess.train_size", 0, "tasks.mquake.preprocess.train_size: got 0; expected greater .* 1"),
    ],
)
def test_a_fault_names_the_key_the_value_and_what_is_allowed(raw, key, value, fault):
    put(raw, key, value)
    assert re.fullmatch(f"params.yaml: {fault}", "\n".join(faults(raw)))


@pytest.mark.parametrize("value", [True, 1.0])
def test_a_fold_is_a_whole_number(raw, value):
    put(raw, "tasks.truthfulqa.preprocess.folds", [value])
    assert faults(raw) == [f"params.yaml: tasks.truthfulqa.preprocess.folds.0: got {value}; expected a whole number"]


@pytest.mark.parametrize("key", ["model", "run.seeds", "tasks.mquake.tune_bias", "tasks.mquake.tune_bias.lr"])
def test_a_missing_key_is_named_with_its_neighbours(raw, key):
    block, _, name = key.rpartition(".")
    del find(raw, block)[name]
    (fault,) = faults(raw)
    assert fault.startswith(f"params.yaml: {key}: missing; expected a block with at least ") and name in fault


def test_all_faults_are_told_at_once(raw):
    for key, value in (
        ("tasks.mquake.tune_bias.lr", "1e-3"),
        ("tasks.clutrr.select_heads.k", 0),
        ("model.dtype", "int8"),
        ("run.sedes", [1]),
    ):
        put(raw, key, value)
    told = faults(raw)
    assert len(told) == 4
    for key in ("tasks.mquake.tune_bias.lr", "tasks.clutrr.select_heads.k", "model.dtype", "run.sedes"):
        assert sum(fault.startswith(f"params.yaml: {key}: ") for fault in told) == 1


def test_faults_between_blocks_are_told_at_once(raw):
    put(raw, "run.tasks", ["squad"])
    put(raw, "run.seeds", [1, 1])
    put(raw, "tasks.clutrr.preprocess.folds", [1])
    put(raw, "methods.lofit.evaluate", {"batch_size": 0})
    put(raw, "methods.random_heads.evaluate", {"split": "val"})
    put(raw, "model.revision", "main")
    put(raw, "model.device_map", "auto")
    put(raw, "model.device", "cpu")
    put(raw, "tasks.mquake.preprocess.template", "{prompt")
    put(raw, "tasks.truthfulqa.preprocess.folds", [0, 1])
    put(raw, "tasks.truthfulqa.select_heads", {"k": 3, "ranking": "random", "source": "data/heads/a.npy"})
    told = faults(raw)
    for words in (
        "run.tasks: got 'squad'",
        "run.seeds: got 1 twice",
        "tasks.clutrr.preprocess.folds: got [1]; expected only for kind truthfulqa",
        "methods.lofit.evaluate.batch_size: got 0",
        "methods.random_heads.evaluate.split: got an override; expected only in the task's own block",
        "model.revision: got 'main'; expected for demo: null",
        "model.device: got 'cpu'; expected with device_map: auto",
        "tasks.mquake.preprocess.template: got '{prompt' (",
        "tasks.mquake.preprocess.template: got '{prompt'; expected only for kind jsonl",
        "tasks.truthfulqa.select_heads.ranking: got 'random'; expected that or a source, not both",
        "tasks.truthfulqa.select_heads.source: got a list of heads; expected with one fold only",
    ):
        assert sum(fault.startswith(f"params.yaml: {words}") for fault in told) == 1, words
    assert len(told) == 11


def test_a_method_that_ranks_by_itself_does_not_get_the_list_of_the_task(raw):
    put(raw, "tasks.mquake.select_heads", {"k": 3, "source": "data/heads/a.npy"})
    params = validate(raw)
    assert params.cell("mquake", "lofit").select_heads.source == "data/heads/a.npy"
    assert params.cell("mquake", "random_heads").select_heads.source is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "the whole file: got None; expected a block of keys"),
        ("- 1\n", r"the whole file: got \[1\]; expected a block of keys"),
        ("run:\n  tasks: [a\n", r".*expected ',' or ']'.* line \d+, column \d+.*"),
        ("run:\n\ttasks: 1\n", ".*cannot start any token.* line 2, column 1.*"),
        ("a: b: c\n", ".*mapping values are not allowed here.* line 1, column 5.*"),
    ],
)
def test_a_file_that_is_not_a_yaml_block_is_one_line(tmp_path, text, words):
    file = tmp_path / "params.yaml"
    file.write_text(text)
    with pytest.raises(LofitError) as refusal:
        load(file)
    assert re.fullmatch(f"{re.escape(str(file))}: {words}", str(refusal.value))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(
        LofitError, match=r"params.yaml: No such file or directory; expected a file; run from the project's root"
    ):
        load(tmp_path / "params.yaml")


def test_a_file_of_another_encoding_is_named(tmp_path):
    (tmp_path / "params.yaml").write_bytes(b"run: \xe9\n")
    with pytest.raises(LofitError, match=r"params.yaml: byte 5 is not UTF-8"):
        load(tmp_path / "params.yaml")


def test_a_key_that_stands_twice_is_refused(tmp_path):
    text = PARAMS.read_text().replace("      lr: 0.05\n", "      lr: 0.05\n      lr: 0.5\n", 1)
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(LofitError, match=r"lr.*twice"):
        load(tmp_path / "params.yaml")


@pytest.mark.parametrize(
    ("task", "method", "words"),
    [
        ("squad", "lofit", "task: got 'squad'; expected truthfulqa, mquake, clutrr"),
        ("mquake", "lora", "method: got 'lora'; expected base, lofit, random_heads, .*"),
    ],
)
def test_a_cell_that_is_not_in_the_file_is_refused(raw, task, method, words):
    with pytest.raises(LofitError, match=words):
        validate(raw).cell(task, method)


def test_a_method_without_heads_takes_no_training_overrides(raw):
    put(raw, "methods.base.tune_bias", {"lr": 0.1})
    assert faults(raw) == [
        "params.yaml: methods.base: got overrides of training; expected for kind base: those of evaluate"
    ]


# ---------------------------------------------------------------------------------------------------------- helpers


def find(raw, path):
    block = raw
    for part in path.split(".") if path else ():
        block = block[part]
    return block


def put(raw, key, value):
    block, _, name = key.rpartition(".")
    find(raw, block)[name] = value


def faults(raw):
    with pytest.raises(LofitError) as refusal:
        validate(raw)
    return str(refusal.value).split("\n")
