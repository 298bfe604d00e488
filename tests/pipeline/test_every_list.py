"""Rows of every list: what they wait for, what a search keeps, and which data a stage reads."""

import csv
import json

import pytest
import yaml

pytestmark = pytest.mark.slow

TASK = "truthfulqa"
GROUPS = {
    "baselines": ["base", "red"],
    "readers": ["iti"],
    "methods": ["lofit"],
    "measured": ["gradient_heads"],
    "probed": ["probe_heads"],
    "controls": ["random_heads"],
    "transfers": [],
}
STUDIES = {
    "data_size": {"series": {"all": [TASK]}},
    "head_distribution": {},
    "head_selection": {},
    "k_sweep": {"rows": ["lofit", "probe_heads"]},
    "methods": {},
    "overlap": {"rows": ["lofit", "random_heads"]},
    "seeds": {},
}
ROWS = [row for group in ("baselines", "readers", "methods", "measured", "probed", "controls") for row in GROUPS[group]]


@pytest.fixture(scope="module")
def project(make_checkout):
    """All lists on one task, with a search, ten draws of nothing and a drift, run once."""
    checkout = make_checkout("rows")
    text = checkout.folder / "data" / "neutral.txt"
    text.write_text("The sun rises in the east. Bees make honey. Water is wet.\n")
    checkout.edit("run.tasks", [TASK])
    for group, rows in GROUPS.items():
        checkout.edit(f"run.{group}", rows)
    checkout.edit("run.comparisons", {"reference": "lofit", "rows": ["base", "red", "random_heads"]})
    checkout.edit(f"tasks.{TASK}.evaluate.drift", "data/neutral.txt")
    checkout.edit("methods.red.fit", {"epochs": 1, "lr": 0.05})
    checkout.edit("methods.iti.fit", {"k": 2})
    checkout.edit("methods.lofit.tune", {"lr": [0.05, 0.2]})
    checkout.edit("methods.iti.tune", {"alpha": [1.0, 5.0]})
    checkout.edit("methods.random_heads.select_heads", {"ranking": "random", "draws": 2})
    checkout.edit("run.studies", list(STUDIES))
    checkout.edit("studies", STUDIES)
    checkout.first = checkout.repro()
    return checkout


def metrics(project, row, stage):
    return json.loads((project.folder / f"metrics/tiny/{TASK}/1/{row}/{stage}.json").read_text())


def trials(project, row):
    with (project.folder / f"artifacts/trials/{TASK}/1/{row}.csv").open(newline="") as opened:
        return [{**row, "settings": json.loads(row["settings"])} for row in csv.DictReader(opened)]


def test_every_row_is_fitted_and_scored_and_stands_in_the_report(project):
    fitted = {stage.partition("@")[0] for stage in project.first}
    assert {"fit_baseline", "fit_reader", "measure_heads", "probe_heads", "select_measured", "select_probed"} <= fitted
    assert {"tune_bias", "tune_measured", "tune_probed", "tune_control"} <= fitted
    summary = (project.folder / "reports/tiny/summary.md").read_text()
    first = [line.split("|")[1].strip() for line in summary.split("![Scores]")[0].splitlines() if line[:1] == "|"]
    assert first[2:] == ROWS
    for title in ("What each row is", "Random heads", "Searched settings"):
        assert f"# {title}\n" in summary
    with (project.folder / "reports/tiny/summary.csv").open(newline="") as opened:
        rows = {row["method"]: row for row in csv.DictReader(opened) if row["metric"] == "mc1_clean"}
    assert rows["base"]["kl"] == rows["base"]["ce"] == "0.000000" and float(rows["red"]["kl"]) > 0
    assert [row for row in ROWS if rows[row]["corrected_p"]] == ["base", "red", "random_heads"]
    for figure in ("scores", "pareto", "scale_norms"):
        assert (project.folder / f"reports/tiny/{figure}.png").read_bytes().startswith(b"\x89PNG")


def test_every_study_has_its_page_its_figure_and_its_table(project):
    for name in STUDIES:
        place = project.folder / f"reports/tiny/studies/{name}"
        assert place.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
        page = place.with_suffix(".md").read_text()
        assert f"]({name}.png)" in page and "{" not in page
        with place.with_suffix(".csv").open(newline="") as opened:
            assert list(csv.DictReader(opened))
    with (project.folder / "reports/tiny/studies/methods.csv").open(newline="") as opened:
        rows = {row["row"]: row for row in csv.DictReader(opened)}
    assert list(rows) == ROWS
    with (project.folder / f"metrics/tiny/{TASK}/1/red/evaluate.json").open() as opened:
        assert float(rows["red"]["score"]) == pytest.approx(json.load(opened)["test"]["mc1_clean"], abs=1e-6)


def test_a_setting_of_a_study_reruns_that_study_alone(project):
    project.edit("studies.k_sweep.rows", ["probe_heads", "lofit"])
    assert project.changed() == {"study@k_sweep"}
    project.edit("studies.k_sweep.rows", ["lofit", "probe_heads"])


def test_a_second_repro_runs_nothing(project):
    assert project.repro() == []


def test_the_searched_settings_are_those_of_the_best_trial(project):
    for row, key in (("lofit", "lr"), ("iti", "alpha")):
        tried = trials(project, row)
        assert len(tried) == 2
        best = max(tried, key=lambda trial: (float(trial["score"]), -float(trial["loss"])))
        config = json.loads((project.folder / f"artifacts/adapters/{TASK}/1/{row}/fold_0/config.json").read_text())
        assert config["training"]["parameters"][key] == best["settings"][key]
    assert trials(project, "red") == []


def test_costs_are_told_and_dvc_does_not_know_of_them(project):
    costs = project.folder / "reports/tiny/costs.md"
    assert all(row in costs.read_text() for row in ROWS)
    assert "costs" not in (project.folder / "dvc.lock").read_text()
    before = project.bytes_of("dvc.lock")
    costs.write_text("other figures\n")
    (project.folder / f"artifacts/costs/{TASK}/1/red/fit_baseline.json").unlink()
    assert project.repro() == [] and project.bytes_of("dvc.lock") == before


def test_a_larger_grid_trains_only_what_is_new_and_nothing_twice_for_another_row(project):
    file = project.folder / "params.yaml"
    before = file.read_text()
    known = {str(trial["settings"]): trial for trial in trials(project, "lofit")}
    params = yaml.safe_load(before)
    params["methods"]["lofit"]["tune"] = {"lr": [0.2, 0.1, 0.05]}
    params["methods"]["iti"]["tune"] = {"alpha": [1.0, 5.0, 10.0]}
    params["methods"]["twin"] = params["methods"]["lofit"]
    params["run"]["methods"] = ["lofit", "twin"]
    file.write_text(yaml.safe_dump(params, sort_keys=False))
    project.repro()
    parts = {part.split("'")[0]: part for part in project.output.split("Running stage '")[1:]}
    # Two of three were known.
    assert parts[f"tune_bias@{TASK}-1-lofit"].count("finished before") == 2
    assert parts[f"tune_bias@{TASK}-1-twin"].count("finished before") == 3
    again = {str(trial["settings"]): trial for trial in trials(project, "lofit")}
    assert {key: again[key] for key in known} == known
    twins = [
        (project.folder / f"artifacts/adapters/{TASK}/1/{row}/fold_0/model.safetensors").read_bytes()
        for row in ("lofit", "twin")
    ]
    assert twins[0] == twins[1]
    file.write_text(before)
    project.repro()


def test_another_k_measures_nothing_anew(project):
    file = project.folder / "params.yaml"
    before = file.read_text()
    project.edit(f"tasks.{TASK}.select_heads.k", 2)
    changed = project.changed()
    assert {f"select_measured@{TASK}-1-gradient_heads", f"select_probed@{TASK}-1-probe_heads"} <= changed
    assert not [stage for stage in changed if stage.startswith(("measure", "probe_heads", "train", "collect"))]
    file.write_text(before)
    project("dvc", "repro", "check")


def test_test_records_are_read_by_evaluate_alone(project):
    """With a test split that nobody can read, every stage before `evaluate` ends as before."""
    dvc = yaml.safe_load((project.folder / "dvc.yaml").read_text())["stages"]
    readers = {name for name, stage in dvc.items() if any("test.jsonl" in dep for dep in stage.get("deps", ()))}
    assert readers and all(name.startswith("evaluate") for name in readers)
    # A whole folder of records would hold them, too.
    whole = "artifacts/data/${item.task}"
    assert not [name for name, stage in dvc.items() if whole in stage.get("deps", ())]
    test = project.folder / f"artifacts/data/{TASK}/test.jsonl"
    known = test.read_bytes()
    test.chmod(0o644)
    test.unlink()
    test.write_text("nobody reads this\n")
    made = project.bytes_of("artifacts/adapters/**/*", "artifacts/heads/**/*", "artifacts/rankings/**/*")
    try:
        for row in ("red", "iti"):
            project("python", "-m", "stages.fit_baseline", *cell(row), "--run-name", "tiny", LOFIT_TRACKING="on")
        for row in ("gradient_heads", "probe_heads"):
            project("python", "-m", "stages.measure_heads", *cell(row))
        project("python", "-m", "stages.tune_bias", *cell("lofit"), "--run-name", "tiny", LOFIT_TRACKING="on")
        assert project.bytes_of("artifacts/adapters/**/*", "artifacts/heads/**/*", "artifacts/rankings/**/*") == made
        project("python", "-m", "stages.evaluate", *cell("red"), "--run-name", "tiny", ok=False)
    finally:
        test.write_bytes(known)


def cell(row):
    return ("--task", TASK, "--seed", "1", "--method", row)
