"""params.yaml: what it may say, and how its faults are told."""

import re
from pathlib import Path

import pytest
import yaml

from lofit.errors import LofitError
from stages.params import effective
from stages.params.load import load, validate

PARAMS = Path(__file__).parents[2] / "params.yaml"


@pytest.fixture
def raw():
    return yaml.safe_load(PARAMS.read_text())


def test_the_file_of_the_project_is_valid():
    params = load(PARAMS)
    assert {task.kind for task in params.tasks.values()} == {"truthfulqa", "mquake", "clutrr"}
    assert params.run.rows == ["base", "lofit", "random_heads"]


def test_values_are_taken_over_as_they_stand(raw):
    params = validate(raw)
    assert params.run.model_dump() == raw["run"] and params.model.model_dump(exclude_unset=True) == raw["model"]
    assert params.tasks["mquake"].model_dump(exclude_unset=True) == raw["tasks"]["mquake"]


def test_a_key_left_out_takes_its_default(raw):
    assert "max_new_tokens" not in raw["tasks"]["truthfulqa"]["evaluate"]
    assert effective.evaluate(validate(raw), "truthfulqa", "base").max_new_tokens == 16


def test_a_row_overrides_single_keys_of_the_blocks_of_a_task(raw):
    blocks = {
        "select_heads": {"k": 7},
        "tune_bias": {"lr": 0.5, "epochs": 1},
        "tune": {},
        "evaluate": {"batch_size": 2},
    }
    raw["methods"]["mine"] = {"kind": "lofit", **blocks}
    raw["run"]["methods"].append("mine")
    params = validate(raw)
    mine, plain = (effective.tune_bias(params, "mquake", row).candidates[0] for row in ("mine", "lofit"))
    assert (mine.lr, mine.epochs, mine.batch_size) == (0.5, 1, plain.batch_size)
    assert plain == params.tasks["mquake"].tune_bias
    chosen = effective.selection(params, "mquake", "mine")
    assert (chosen.k, chosen.ranking) == (7, "scale_norm")
    assert effective.evaluate(params, "mquake", "mine").batch_size == 2
    assert effective.selection(params, "mquake", "random_heads").ranking == "random"


def test_a_row_that_ranks_otherwise_does_not_get_the_settings_of_the_tasks_ranking(raw):
    put(raw, "tasks.mquake.select_heads", {"k": 3, "ranking": "listed", "file": "data/heads/a.npy"})
    params = validate(raw)
    assert effective.selection(params, "mquake", "lofit").settings.file == "data/heads/a.npy"
    assert effective.selection(params, "mquake", "random_heads").settings.model_dump() == {"draws": 1}


def test_a_baseline_has_settings_by_task_and_arguments_of_a_fit(raw):
    fit = {"k": 2, "ranking": "random", "lr": 0.2}
    raw["methods"]["other"] = {
        "kind": "lofit",
        "fit": fit,
        "tasks": {"mquake": {"lr": 0.3}},
        "tune": {},
        "evaluate": {},
    }
    raw["run"]["baselines"].append("other")
    params = validate(raw)
    assert [effective.fit(params, task, "other")[0].settings["lr"] for task in ("mquake", "clutrr")] == [0.3, 0.2]
    assert effective.fit(params, "mquake", "other")[1] == {"k": 2, "ranking": "random"}


@pytest.mark.parametrize(
    ("key", "value", "fault"),
    [
        ("run", None, "run: got None; expected a block of keys"),
        ("run.tasks", "mquake", "run.tasks: got 'mquake'; expected a list"),
        (
            "run.tasks",
            ["mquake", "squad"],
            "run.tasks: got 'squad'; expected truthfulqa, truthfulqa_all_pairs, mquake, clutrr",
        ),
        (
            "run.methods",
            ["lora"],
            "run: got 'lora', of kind peft, among the rows of LoFiT; expected it in run.baselines",
        ),
        ("run.methods", ["lori"], "run.methods: got 'lori'; expected base, lofit, random_heads, .*full"),
        ("run.seeds", [], r"run.seeds: got \[\]; expected at least one entry"),
        ("run.seeds", [42, 7, 42], "run.seeds: got 42 twice; expected each once"),
        ("run.methods", ["lofit", "lofit"], "run.methods: got 'lofit' twice; expected each once, in one list"),
        ("run.tasks", ["mquake", "mquake"], "run.tasks: got 'mquake' twice; expected each once"),
        ("run.seeds", [-1], "run.seeds.0: got -1; expected greater than or equal to 0"),
        ("run.seeds", [1.5], "run.seeds.0: got 1.5; expected a whole number"),
        ("run.seeds", [True], "run.seeds.0: got True; expected a whole number"),
        ("model.dtype", "int8", "model.dtype: got 'int8'; expected 'float32', 'bfloat16', 'float16' or 'auto'"),
        ("model.name", "", "model.name: got ''; expected a text that is not blank"),
        ("model.revision", 5, "model.revision: got 5; expected a text"),
        ("modle", {}, "modle: unknown key; expected run, model, out_of_domain, methods, tasks, studies"),
        ("methods.lofit.kind", "lora", "methods.lofit.kind: got 'lora'; expected .*lofit, .*none.*"),
        (
            "methods.lofit.select_heads",
            {"kk": 1},
            "methods.lofit.select_heads.kk: unknown key; expected k, ranking",
        ),
        (
            "methods.lofit.select_heads",
            {"k": 0},
            "methods.lofit.select_heads.k: got 0; expected a .* 3%",
        ),
        ("methods.lofit.train_scales", {}, "methods.lofit.train_scales: unknown key; expected kind, fit, .*"),
        ("methods.a/b", {"kind": "none"}, "methods.a/b: got 'a/b'; expected letters, digits and _ only"),
        ("tasks.mquake.kind", "squad", "tasks.mquake.kind: got 'squad'; expected clutrr, jsonl, mquake, truthfulqa"),
        ("tasks.mquake.evaluate", None, "tasks.mquake.evaluate: got None; expected a block of keys"),
        ("tasks.mquake.evaluate.split", "train", "tasks.mquake.evaluate.split: got 'train'; expected 'val' or 'test'"),
        ("tasks.mquake.extra", 1, "tasks.mquake.extra: unknown key; expected kind, fetch_data, .*, evaluate"),
        (
            "tasks.mquake.select_heads.k",
            0,
            "tasks.mquake.select_heads.k: got 0; expected a .* 3%",
        ),
        (
            "tasks.mquake.select_heads.k",
            -3,
            "tasks.mquake.select_heads.k: got -3; expected a .* 3%",
        ),
        (
            "tasks.mquake.select_heads.k",
            2.5,
            "tasks.mquake.select_heads.k: got 2.5; expected a .* 3%",
        ),
        (
            "tasks.mquake.select_heads.k",
            True,
            "tasks.mquake.select_heads.k: got True; expected a .* 3%",
        ),
        (
            "tasks.mquake.select_heads.k",
            "3",
            "tasks.mquake.select_heads.k: got '3'; expected a .* 3%",
        ),
        (
            "tasks.mquake.select_heads.k",
            "3 %",
            "tasks.mquake.select_heads.k: got '3 %'; expected a .* 3%",
        ),
        (
            "tasks.mquake.select_heads.k",
            "0%",
            "tasks.mquake.select_heads.k: got '0%'; expected a .* 3%",
        ),
        (
            "tasks.mquake.select_heads.k",
            "101%",
            "tasks.mquake.select_heads.k: got '101%'; expected a .* 3%",
        ),
        ("tasks.mquake.tune_bias.lr", 0.0, "tasks.mquake.tune_bias.lr: got 0.0; expected greater than 0"),
        (
            "tasks.mquake.tune_bias.lr",
            "1e-3",
            "tasks.mquake.tune_bias.lr: got '1e-3'; expected a number",
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
        ("model.device", "cpu", "model.device: unknown key; expected name, revision, .*"),
        ("model.quantization", "4bit", "model.quantization: got '4bit'; expected 'bitsandbytes_4bit', .*"),
        ("tasks.mquake.tune_bias.micro_batch_size", 1, "tasks.mquake.tune_bias.micro_batch_size: unknown key; .*"),
        ("run.controls", ["lofit", "random_heads"], "run.controls: got 'lofit' twice; expected each once, in one list"),
        ("tasks.mquake.preprocess.train_size", 0, "tasks.mquake.preprocess.train_size: got 0; expected greater .* 1"),
    ],
)
def test_a_fault_names_the_key_the_value_and_what_is_allowed(raw, key, value, fault):
    put(raw, key, value)
    assert re.fullmatch(f"params.yaml: {fault}", "\n".join(faults(raw)))


@pytest.mark.parametrize(
    ("run", "blocks", "fault"),
    [
        (["table_6"], {}, "run.studies: got 'table_6'; expected data_size, .*, seeds"),
        (["overlap"], {}, "studies.overlap: missing; expected a block, {} for its defaults"),
        (["overlap", "overlap"], {"overlap": {}}, "run.studies: got 'overlap' twice; expected each once"),
        (["overlap"], {"overlap": {"row": "lofit"}}, "studies.overlap.row: unknown key; expected rows"),
        (["k_sweep"], {"k_sweep": {"rows": ["lofit"]}}, r"studies.k_sweep.rows: got \['lofit'\]; expected at least .*"),
        (
            ["k_sweep"],
            {"k_sweep": {"rows": ["lofit", "k_9"]}},
            "studies.k_sweep: got the row 'k_9'; expected base, lofit, random_heads",
        ),
        (
            ["data_size"],
            {"data_size": {"series": {"line": ["mquake", "few"]}}},
            "studies.data_size: got the task 'few'; expected truthfulqa, mquake, clutrr",
        ),
    ],
)
def test_a_faulty_study_is_named(raw, run, blocks, fault):
    raw["run"]["studies"], raw["studies"] = run, blocks
    assert re.fullmatch(f"params.yaml: {fault}", "\n".join(faults(raw)))


@pytest.mark.parametrize("value", [True, 1.0])
def test_a_fold_is_a_whole_number(raw, value):
    put(raw, "tasks.truthfulqa.preprocess.folds", [value])
    assert faults(raw) == [f"params.yaml: tasks.truthfulqa.preprocess.folds.0: got {value}; expected a whole number"]


@pytest.mark.parametrize("key", ["model", "run.seeds", "tasks.mquake.evaluate", "tasks.mquake.evaluate.split"])
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
    put(raw, "tasks.mquake.preprocess.template", "{prompt")
    put(raw, "tasks.truthfulqa.preprocess.folds", [0, 1])
    put(raw, "tasks.truthfulqa.select_heads", {"k": 3, "ranking": "listed", "file": "data/heads/a.npy"})
    told = faults(raw)
    for words in (
        "run.tasks: got 'squad'",
        "run.seeds: got 1 twice",
        "tasks.clutrr.preprocess.folds: got [1]; expected only for kind truthfulqa",
        "methods.lofit.evaluate.batch_size: got 0",
        "methods.random_heads.evaluate.split: got an override; expected none",
        "model.revision: got 'main'; expected null for demo",
        "tasks.mquake.preprocess.template: got '{prompt' (",
        "tasks.mquake.preprocess.template: got '{prompt'; expected only for kind jsonl",
        "tasks.truthfulqa.select_heads.ranking: got a list of heads; expected one only where truthfulqa has one fold",
    ):
        assert sum(fault.startswith(f"params.yaml: {words}") for fault in told) == 1, words
    assert len(told) == 9


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "the whole file: got None; expected a block of keys"),
        ("- 1\n", r"the whole file: got \[1\]; expected a block of keys"),
        ("run:\n  tasks: [a\n", r"line \d+, column \d+: .*expected ',' or ']'.*"),
        ("run:\n\ttasks: 1\n", "line 2, column 1: .*cannot start any token.*"),
        ("a: b: c\n", "line 1, column 5: mapping values are not allowed .*"),
        ("run: {}\n---\nrun: {}\n", "line 2, column 1: .*found another document"),
        ("run: !secret a\n", "line 1, column 6: could not determine a constructor for the tag '!secret'"),
        ("run: 2024-13-01\n", "month must be in 1..12"),
        ("run: !!bool maybe\n", "'maybe'"),
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
    with pytest.raises(LofitError, match=r"params.yaml: line \d+, column 7: .*duplicate key \"lr\""):
        load(tmp_path / "params.yaml")


@pytest.mark.parametrize(
    ("key", "value", "fault"),
    [
        (
            "methods.lofit.tune_bias",
            None,
            "methods.lofit.tune_bias: missing; expected a block, {}",
        ),
        ("methods.base.fit", None, "methods.base.fit: missing; expected a block, {} where nothing differs"),
        (
            "methods.base.tune_bias",
            {"lr": 0.1},
            "methods.base.tune_bias: got a block; expected none for rows that are no LoFiT",
        ),
        ("methods.lofit.fit", {"lr": 0.1}, "methods.lofit.fit: got a block; expected none for the rows of LoFiT"),
        ("methods.base.fit", {"lr": 0.1}, "methods.base.fit.lr: unknown key; expected k, ranking, "),
        ("methods.lofit.kind", "none", "run: got 'lofit', of kind none, among the rows of LoFiT"),
        ("methods.random_heads.select_heads", {}, "run.controls: got 'random_heads', whose ranking is scale_norm; "),
        (
            "methods.lofit.select_heads",
            {"ranking": "from_task", "task": "clutrr"},
            "run.methods: got 'lofit', whose ranking is from_task; expected it in run.transfers",
        ),
        (
            "methods.lofit.select_heads",
            {"ranking": "best"},
            "methods.lofit.select_heads.ranking: got 'best'",
        ),
        (
            "methods.random_heads.select_heads",
            {"ranking": "random", "draws": 0},
            "methods.random_heads.select_heads.draws",
        ),
        (
            "tasks.mquake.train_scales",
            None,
            "tasks.mquake.train_scales: missing; expected a block",
        ),
        ("methods.base.tasks", {"squad": {}}, "methods.base.tasks: got 'squad'; expected truthfulqa, "),
    ],
)
def test_a_row_has_its_blocks_and_stands_in_its_list(raw, key, value, fault):
    put(raw, key, value)
    told = faults(raw)
    assert [line for line in told if line.startswith(f"params.yaml: {fault}")], told


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


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"methods.lofit.tune": {"lr": [0.1, -1]}}, "methods.lofit.tune.lr: got -1; expected greater than 0"),
        ({"methods.lofit.tune": {"lr": []}}, "methods.lofit.tune.lr: got []; expected a list of values"),
        ({"methods.lofit.tune": {"lr": 0.1}}, "methods.lofit.tune.lr: got 0.1; expected a list"),
        ({"methods.lofit.tune": {"lr": [0.1, 0.1]}}, "methods.lofit.tune.lr: got 0.1 twice; expected each once"),
        ({"methods.lofit.tune": {"rate": [0.1]}}, "methods.lofit.tune.rate: unknown key; expected lr, epochs"),
        ({"methods.base.tune": {"lr": [0.1]}}, "methods.base.tune.lr: unknown key; expected no key at all"),
        ({"methods.lofit.tune": None}, "methods.lofit.tune: missing; expected a block, {} where nothing differs"),
        (
            {"methods.lofit.tune": {"lr": [0.1, 0.2]}, "methods.random_heads.tune": {"lr": [0.1]}},
            "methods.random_heads.tune: got 1 configurations; expected 2, as methods.lofit has",
        ),
        (
            {"run.comparisons": {"reference": "best", "rows": ["base"]}},
            "run.comparisons.reference: got 'best'; expected base, lofit, random_heads",
        ),
        (
            {"run.comparisons": {"reference": "lofit", "rows": ["lofit"]}},
            "run.comparisons.rows: got 'lofit', the reference; expected other rows",
        ),
        (
            {"run.comparisons": {"reference": "lofit", "rows": []}},
            "run.comparisons.rows: got []; expected at least one entry",
        ),
        (
            {"methods.lofit.select_heads": {"ranking": "gradient"}},
            "run.methods: got 'lofit', whose ranking is gradient; expected it in run.measured",
        ),
        (
            {"methods.lofit.select_heads": {"ranking": "probe"}},
            "run.methods: got 'lofit', whose ranking is probe; expected it in run.probed",
        ),
        (
            {"methods.base": {"kind": "iti", "fit": {}, "tune": {}, "evaluate": {}}},
            "run: got 'base', which looks at activations; expected it in run.readers",
        ),
    ],
)
def test_searches_comparisons_and_lists_are_checked(raw, changes, fault):
    for key, value in changes.items():
        put(raw, key, value)
    told = faults(raw)
    assert [line for line in told if line.startswith(f"params.yaml: {fault}")], told


def test_a_search_keeps_what_is_fixed_apart_from_what_is_searched(raw):
    put(raw, "methods.lofit.tune", {"lr": [0.2, 0.4], "epochs": [1, 2]})
    fit = effective.tune_bias(validate(raw), "mquake", "lofit")
    assert fit.tune == {"lr": [0.2, 0.4], "epochs": [1, 2]}
    assert not {"lr", "epochs"} & set(fit.settings) and fit.settings["batch_size"] == 8
    assert [(one.lr, one.epochs) for one in fit.candidates] == [(0.2, 1), (0.2, 2), (0.4, 1), (0.4, 2)]
