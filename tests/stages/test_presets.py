"""Presets: what they write into params.yaml, and what they leave alone."""

from pathlib import Path

import pytest
import yaml

from lofit import methods, rankings, studies
from lofit.errors import LofitError
from stages.params import effective, presets
from stages.params.load import load

ROOT = Path(__file__).parents[2]
SHIPPED = sorted((ROOT / "presets").glob("*.yaml"))
OF_THE_PAPER = {
    # Step-1 learning rate and L1 weight, step-2 learning rate, K: the published training scripts.
    "llama2-7b": {
        "truthfulqa": (0.005, 0.0005, 0.01, 32),
        "mquake": (0.005, 0.001, 0.01, 32),
        "clutrr": (0.0005, 0.005, 0.01, 32),
    },
    "llama2-13b": {
        "truthfulqa": (0.001, 0.001, 0.02, 48),
        "mquake": (0.001, 0.001, 0.008, 48),
        "clutrr": (0.001, 0.001, 0.01, 48),
    },
    "gemma-7b": {
        "truthfulqa": (0.005, 0.0005, 0.02, 16),
        "mquake": (0.005, 0.0005, 0.008, 16),
        "clutrr": (0.0005, 0.005, 0.01, 16),
    },
}


@pytest.fixture
def params(tmp_path):
    file = tmp_path / "params.yaml"
    file.write_text((ROOT / "params.yaml").read_text())
    return file


@pytest.fixture
def preset(tmp_path):
    def write(text):
        (tmp_path / "preset.yaml").write_text(text)
        return tmp_path / "preset.yaml"

    return write


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_a_shipped_preset_changes_what_it_names_and_nothing_else(params, file):
    text, before, wanted = params.read_text(), read(params), read(file)
    changed = presets.apply(params, file)
    assert read(params) == together(before, wanted)
    assert comments(params.read_text()) == comments(text)
    # Only what differs: every value of the preset is one that it changes.
    assert [line.split(":")[0] for line in changed] == sorted(leaves(wanted), key=list(leaves(read(params))).index)
    assert presets.apply(params, file) == []


OF_MODELS = [file for file in SHIPPED if "model:" in file.read_text()]


@pytest.mark.parametrize("file", OF_MODELS, ids=lambda file: file.stem)
def test_a_shipped_preset_says_how_to_run_it_and_sets_up_what_the_paper_has(params, file):
    head = [line for line in file.read_text().splitlines() if line.startswith("#")]
    assert f"#   python -m stages.preset {file.stem} && dvc repro" in head and len(head[0]) > 20
    presets.apply(params, file)
    made = load(params)
    assert made.run.tasks == ["truthfulqa", "mquake", "clutrr"]
    if made.tasks["mquake"].preprocess.protocol == "lofit":
        assert made.tasks["truthfulqa"].preprocess.folds == [0, 1] and len(made.run.seeds) == 2
    assert {made.tasks[task].fetch_data.source for task in made.run.tasks} == {"public"}
    share = {
        method: effective.selection(made, "mquake", method).k / effective.selection(made, "mquake", "lofit_3pct").k
        for method in ("lofit_3pct", "lofit_10pct")
    }
    assert share["lofit_3pct"] == 1 and 3 <= share["lofit_10pct"] <= 3.5


@pytest.mark.parametrize("name", OF_THE_PAPER)
def test_hyperparameters_are_the_papers(params, name):
    presets.apply(params, ROOT / "presets" / f"{name}.yaml")
    made = load(params)
    for task, figures in OF_THE_PAPER[name].items():
        scales, (offsets,) = made.tasks[task].train_scales, effective.tune_bias(made, task, "lofit_3pct").candidates
        chosen = effective.selection(made, task, "lofit_3pct")
        assert (scales.lr, scales.l1, offsets.lr, chosen.k) == figures
        assert {scales.epochs, offsets.epochs} == {5}
        assert {scales.batch_size, offsets.batch_size} == {8}
        assert made.tasks[task].preprocess.protocol == "lofit" and offsets.beta == 0.5
    assert made.tasks["clutrr"].preprocess.train_size == 300


STUDIES = sorted((ROOT / "presets" / "study").glob("*.yaml"))


@pytest.mark.parametrize("model", [None, "smollm2-135m", "gemma3-270m"])
@pytest.mark.parametrize("file", STUDIES, ids=lambda file: file.stem)
def test_a_study_goes_on_top_of_any_models_preset_and_keeps_its_rows(params, file, model):
    if model is not None:
        presets.apply(params, ROOT / "presets" / f"{model}.yaml")
    before = load(params)
    head = [line for line in file.read_text().splitlines() if line.startswith("#")]
    assert f"#   python -m stages.preset study/{file.stem} && dvc repro" in head and len(head[0]) > 20
    presets.apply(params, presets.find(f"study/{file.stem}", ROOT / "presets"))
    made = load(params)
    assert made.run.studies == [file.stem] and file.stem in made.studies
    assert set(before.run.rows) <= set(made.run.rows) and set(before.run.tasks) <= set(made.run.tasks)
    assert presets.apply(params, file) == []
    # Rows that a study compares have searched as much as LoFiT has.
    if made.run.transfers or made.run.measured:
        searched = {row: len(made.methods[row].tune["lr"]) for row in (*made.run.transfers, *made.run.measured)}
        assert set(searched.values()) == {3}


def test_every_study_has_a_preset():
    assert [file.stem for file in STUDIES] == studies.names()


def test_a_list_is_added_to_once_and_a_block_begins_like_another(params, preset):
    file = preset(
        "run: {seeds+: [43], tasks+: [few]}\n"
        "tasks: {few: {like: mquake, preprocess: {train_size: 25}, tune_bias: {epochs: 7}}}\n"
    )
    before, text = read(params), params.read_text()
    presets.apply(params, file)
    made = read(params)
    assert made["run"]["seeds"] == [42, 43] and made["run"]["tasks"] == [*before["run"]["tasks"], "few"]
    few, mquake = made["tasks"]["few"], made["tasks"]["mquake"]
    assert few == together(mquake, {"preprocess": {"train_size": 25}, "tune_bias": {"epochs": 7}})
    assert mquake == before["tasks"]["mquake"] and comments(params.read_text()) == comments(text)
    assert presets.apply(params, file) == []


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("run: {name+: [a]}", r"run\.name\+: got \['a'\]; expected a list to add to a list"),
        ("run: {seeds+: 43}", r"run\.seeds\+: got 43; expected a list to add to a list"),
        ("tasks: {few: {like: nonesuch}}", r"tasks\.few\.like: got 'nonesuch'; expected truthfulqa, .*mquake, clutrr"),
    ],
)
def test_what_cannot_be_added_to_or_begun_like_is_one_line(params, preset, text, fault):
    before = params.read_bytes()
    with pytest.raises(LofitError, match=fault):
        presets.apply(params, preset(text))
    assert params.read_bytes() == before


def test_comments_stay_above_what_they_speak_of(params, preset):
    file = preset(
        "run: {tasks: [mquake], methods: [wide]}\nmodel: {world: 3}\n"
        "methods: {wide: {kind: lofit, select_heads: {}, tune_bias: {}, tune: {}, evaluate: {}}}\n"
    )
    before = params.read_text()
    presets.apply(params, file)
    lines = params.read_text().splitlines()
    assert comments("\n".join(lines)) == comments(before)
    for number, line in enumerate(before.splitlines()):
        if line.strip().startswith("#"):
            below = before.splitlines()[number + 1].split(":")[0]
            assert lines[lines.index(line) + 1].split(":")[0] == below


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("model: {dtype: float8}", "model.dtype: got 'float8'; expected 'float32'"),
        ("modle: {dtype: float32}", "modle: unknown key; expected run, model"),
        ("run: {methods: [nonesuch]}", "run.methods: got 'nonesuch'"),
        ("tasks: {mquake: {tune_bias: {lr: fast}}}", "got 'fast'; expected a number"),
        ("methods: {new: {}}", "methods.new.kind: missing"),
        ("- model", r"got \['model'\]; expected a block of keys"),
        ("", "got None; expected a block of keys"),
        ("model: {name: a, name: b}", "found duplicate key"),
        ("model: [", "preset.yaml: line 2, column 1: "),
        ("model: {name: !secret a}", "preset.yaml: line 1, column 15: .*'!secret'"),
    ],
)
def test_faults_leave_the_file_alone(params, preset, text, fault):
    before = params.read_bytes()
    with pytest.raises(LofitError, match=fault):
        presets.apply(params, preset(text))
    assert params.read_bytes() == before
    assert sorted(file.name for file in params.parent.iterdir()) == ["params.yaml", "preset.yaml"]


def test_a_faulty_params_yaml_is_told_from_a_faulty_preset(params, preset):
    params.write_text(params.read_text().replace("dtype: float32", "dtype: float31"))
    with pytest.raises(LofitError, match=r"params\.yaml: model\.dtype: got 'float31'"):
        presets.apply(params, preset("model: {dtype: float32}"))


def test_presets_are_found_by_name_or_file_and_described_by_their_first_line(tmp_path):
    (tmp_path / "small.yaml").write_text("# A small model.\n#\n# More.\nmodel: {}\n")
    assert presets.descriptions(tmp_path) == {"small": "A small model."}
    assert presets.find("small", tmp_path) == presets.find(str(tmp_path / "small.yaml"), tmp_path)
    with pytest.raises(LofitError, match=r"^preset: got 'large'; expected small, or a file$"):
        presets.find("large", tmp_path)
    with pytest.raises(LofitError, match="no such folder"):
        presets.descriptions(tmp_path / "nowhere")


# ---------------------------------------------------------------------------------------------------------- helpers


def read(file):
    return yaml.safe_load(file.read_text())


def together(base, changes):
    if not isinstance(base, dict) or not isinstance(changes, dict):
        return changes
    return base | {key: together(base.get(key), value) for key, value in changes.items()}


def leaves(block, prefix=""):
    found = {}
    for key, value in block.items():
        found |= leaves(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
    return found


def comments(text):
    return [line for line in text.splitlines() if line.strip().startswith("#")]


def test_all_methods_runs_every_method_and_every_ranking(params):
    """A page without a row here would be a method that nobody has seen run."""
    presets.apply(params, ROOT / "presets" / "all_methods.yaml")
    made = load(params)
    assert {made.methods[row].kind for row in made.run.rows} == set(methods.names())
    rankings_used = {
        effective.selection(made, task, row).ranking for task in made.run.tasks for row in made.run.lofit_rows
    }
    # A list of heads is a file of the user's.
    assert rankings_used == set(rankings.names()) - {"listed"}
    named = {made.run.comparisons.reference, *made.run.comparisons.rows}
    assert named <= set(made.run.rows) and effective.selection(made, "mquake", "same_layers").settings.draws == 5
    assert effective.selection(made, "mquake", "random_heads").settings.draws >= 10
