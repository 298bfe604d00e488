"""What decides each cell: the plan against edits of the code, and dvc.yaml against the plan."""

import shutil
from pathlib import Path

import pytest
import yaml

from stages.params import code, presets
from stages.params.load import load, validate
from stages.params.plan import plans
from stages.plan import plan_file

ROOT = Path(__file__).parents[2]
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
OTHER_PAGE = '"""Another method."""\n\nfrom lofit.methods.none import Settings, fit\n\nRANKING = None\n'


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A copy of the code and of params.yaml."""
    folder = tmp_path_factory.mktemp("tree")
    for name in ("lofit", "stages"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "params.yaml", folder)
    return folder


@pytest.fixture
def affected(tree, monkeypatch):
    """The stages whose plans an edit of a file changes; the edit is undone."""
    monkeypatch.chdir(tree)

    def read():
        code.imports.cache_clear()
        code.module_hash.cache_clear()
        return dict(plans(load(Path("params.yaml"))))

    def edit(file, change):
        path, before = tree / file, read()
        old = path.read_text() if path.exists() else None
        new = change(old)
        assert new != old
        path.write_text(new)
        try:
            after = read()
        finally:
            path.write_text(old) if old is not None else path.unlink()
        assert before.keys() == after.keys()
        return {cell for cell in before if before[cell] != after[cell]}

    return edit


def stages_of(cells):
    return {cell[0] for cell in cells}


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("lofit/training/loop.py", lambda text: f"# A comment.\n{text}\n# Another.\n"),
        ("lofit/methods/lofit.py", lambda text: text.replace('"""LoFiT: ', '"""LoFiT, that is, ', 1)),
        (
            "lofit/training/loop.py",
            lambda text: text.replace('    """Train the parameters', '    """Do train the parameters'),
        ),
        (
            "lofit/models/tokens.py",
            lambda text: text.replace("def padding_id(\n", "def padding_id(").replace("    ", "     "),
        ),
        ("lofit/methods/another.py", lambda _: OTHER_PAGE),
        ("lofit/adapters/card.py", lambda text: text.replace("## How to use it", "## Use")),
        ("stages/tracking.py", lambda text: text.replace("FLUSH_SECONDS = 1.0", "FLUSH_SECONDS = 2.0")),
        ("stages/params/load.py", lambda text: text.replace("twice", "two times")),
        ("lofit/errors.py", lambda text: text + "\nX = 1\n"),
        ("lofit/export/merge.py", lambda text: text + "\nX = 1\n"),
        ("lofit/cli/inspect.py", lambda text: text + "\nX = 1\n"),
    ],
)
def test_what_decides_no_result_reruns_nothing_but_check_and_cards(affected, file, change):
    assert stages_of(affected(file, change)) <= ({"report"} if "card" in file else set())


def appended(text):
    return text + "\nADDED = 1\n"


@pytest.mark.parametrize(
    ("file", "stages"),
    [
        ("lofit/methods/lofit.py", {"tune_bias"}),
        ("lofit/methods/none.py", {"fit_baseline"}),
        ("lofit/rankings/random.py", {"select_heads"}),
        ("lofit/rankings/scale_norm.py", {"train_scales", "select_heads"}),
        ("lofit/tasks/mquake.py", {"preprocess"}),
        ("lofit/tasks/clutrr.py", {"preprocess"}),
        ("lofit/scoring/metrics.py", {"evaluate", "report"}),
        ("lofit/report/table.py", {"report"}),
        ("lofit/models/prefix.py", {"train_scales", "tune_bias", "fit_baseline"}),
        ("lofit/models/generation.py", {"evaluate"}),
        ("lofit/demo/corpus.py", {"demo_model"}),
        ("stages/evaluate.py", {"evaluate"}),
        ("stages/parts.py", {"train_scales", "tune_bias", "fit_baseline"}),
    ],
)
def test_an_edit_of_code_reaches_the_stages_that_use_it(affected, file, stages):
    cells = affected(file, appended)
    assert stages_of(cells) == stages
    rows = {cell[2] for cell in cells if len(cell) == 3}
    if file == "lofit/rankings/random.py":
        assert rows == {"random_heads"}
    if file == "lofit/rankings/scale_norm.py":
        assert rows == {"lofit"}
    if file.startswith("lofit/tasks/"):
        assert {cell[1] for cell in cells} == {Path(file).stem}


def test_a_changed_number_or_text_in_the_code_counts(affected):
    cells = affected("lofit/training/initial.py", lambda text: text.replace("INIT_STD = 0.001", "INIT_STD = 0.002"))
    assert {"train_scales", "tune_bias"} <= stages_of(cells)
    cells = affected("lofit/tasks/clutrr.py", lambda text: text.replace('"\\n", "."', '"\\n", "!"'))
    assert stages_of(cells) == {"preprocess"}


def test_a_field_of_settings_counts_by_its_effect_alone(affected):
    """The default of a key that every row sets reaches nobody; that it reaches others is a test of the pipeline."""
    assert (
        affected("lofit/methods/lofit.py", lambda text: text.replace("lr: Positive = 0.1", "lr: Positive = 0.2"))
        == set()
    )


def of_all_tasks(stage, row):
    return {(stage, task, row) for task in ("truthfulqa", "mquake", "clutrr")}


@pytest.fixture
def effect():
    """The cells whose plans a change of params.yaml changes."""
    raw = yaml.safe_load((ROOT / "params.yaml").read_text())

    def change(key, value):
        before = dict(plans(validate(raw)))
        *parents, last = key.split(".")
        edited = yaml.safe_load(yaml.safe_dump(raw))
        block = edited
        for parent in parents:
            block = block[parent]
        block[last] = value
        after = dict(plans(validate(edited)))
        return {cell for cell in before | after if before.get(cell) != after.get(cell)}

    return change


@pytest.mark.parametrize(
    ("key", "value", "cells"),
    [
        (
            "methods.lofit.evaluate",
            {"batch_size": 3},
            {("evaluate", task, "lofit") for task in ("truthfulqa", "mquake", "clutrr")},
        ),
        (
            "methods.lofit.tune_bias",
            {"lr": 0.7},
            {("tune_bias", task, "lofit") for task in ("truthfulqa", "mquake", "clutrr")},
        ),
        ("tasks.clutrr.tune_bias.lr", 0.7, {("tune_bias", "clutrr", row) for row in ("lofit", "random_heads")}),
        ("tasks.clutrr.train_scales.l1", 0.7, {("train_scales", "clutrr")}),
        ("tasks.clutrr.select_heads.k", 4, {("select_heads", "clutrr", row) for row in ("lofit", "random_heads")}),
        ("tasks.clutrr.tune_bias.beta", 0.5, set()),
        (
            "methods.random_heads.select_heads",
            {"ranking": "random", "draws": 10},
            {("select_heads", task, "random_heads") for task in ("truthfulqa", "mquake", "clutrr")},
        ),
    ],
)
def test_a_key_reaches_the_cells_that_listen_to_it(effect, key, value, cells):
    assert effect(key, value) == cells


def test_every_cell_has_its_file_in_the_plan_and_every_stage_depends_on_one(tree):
    presets.apply(tree / "params.yaml", ROOT / "presets" / "all_methods.yaml")
    other = tree / "other.yaml"
    other.write_text(
        "run: {out_of_domain: [base], studies: [seeds]}\nout_of_domain: {tasks: [mmlu]}\nstudies: {seeds: {}}\n"
    )
    presets.apply(tree / "params.yaml", other)
    try:
        written = {cell[0] for cell in dict(plans(load(tree / "params.yaml")))}
    finally:
        shutil.copy(ROOT / "params.yaml", tree)
    for name, stage in STAGES.items():
        if name == "check":
            continue
        (dep,) = [dep for dep in stage["deps"] if dep.startswith("artifacts/plan/")]
        module = stage["cmd"].split()[2].removeprefix("stages.")
        planned = dep.split("/")[2]
        assert planned == module and planned in written
        assert dep == str(plan_file(planned, *dep.removesuffix(".json").split("/")[3:] if "{" in dep else ()))


def test_every_command_is_a_module():
    for stage in STAGES.values():
        module = stage["cmd"].split()[2]
        assert (ROOT / Path(*module.split("."))).with_suffix(".py").is_file()


def test_no_row_waits_for_a_step_of_another_method():
    """`base` and random heads wait for nothing that step 1 makes."""
    made_by_step_1 = {out.split("/${")[0] for out in STAGES["train_scales"]["outs"]}
    activations = "artifacts/activations"
    for name in ("fit_baseline", "fit_reader", "rank_heads", "measure_heads", "probe_heads", "evaluate_baseline"):
        assert not [dep for dep in STAGES[name]["deps"] if dep.startswith(tuple(made_by_step_1))], name
    # Nor does anybody wait for activations who does not look at them.
    waiting = {name for name, stage in STAGES.items() if [dep for dep in stage.get("deps", ()) if activations in dep]}
    assert waiting == {"fit_reader", "probe_heads"}
    assert any(dep.startswith(tuple(made_by_step_1)) for dep in STAGES["select_heads"]["deps"])


def test_how_to_run_is_no_dependency():
    text = (ROOT / "dvc.yaml").read_text()
    assert "runtime.yaml" not in text
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    runtime = yaml.safe_load((ROOT / "runtime.yaml").read_text())
    assert {"device", "micro_batch_size", "keep_prefix"} <= set(runtime)
    assert not set(runtime) & {
        key
        for block in [params["model"], *params["tasks"]["clutrr"].values()]
        for key in block
        if isinstance(block, dict)
    }


@pytest.mark.parametrize("stage", ["check", "fetch_data", "preprocess", "reference", "select_heads"])
def test_stages_without_a_model_import_neither_torch_nor_mlflow(stage, run_python):
    modules = run_python(f"import sys, stages.{stage}; print(*(m for m in ('torch', 'mlflow') if m in sys.modules))")
    assert modules.strip() == ""


def test_a_plan_is_made_without_torch(run_python):
    """`check` runs at every edit."""
    modules = run_python(
        "import sys; from pathlib import Path; from stages.params.load import load; "
        "from stages.params.plan import plans; assert list(plans(load(Path('params.yaml')))); "
        "print('torch' in sys.modules)"
    )
    assert modules.strip() == "False"


def test_lofit_help_needs_no_torch(run_python):
    modules = run_python("import sys, lofit.cli; print(*(m for m in ('torch', 'mlflow') if m in sys.modules))")
    assert modules.strip() == ""
