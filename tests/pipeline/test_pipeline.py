"""The pipeline as its users drive it: `dvc repro`, an edit of params.yaml, `dvc repro` again."""

import csv
import json
import os
import signal
import subprocess
import time

import numpy as np
import pytest
import torch
import yaml
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

pytestmark = pytest.mark.slow

FITS = [("train_scales", ""), ("tune_bias", "-lofit"), ("tune_control", "-random_heads")]
OWN_METHOD = '''
"""The same offset at some random heads, untrained."""

import torch

from lofit.adapters.heads import HeadAdapter
from lofit.settings import Settings as BaseSettings

RANKING = "random"


class Settings(BaseSettings):
    strength: float = 1.0


def fit(subject, settings, heads):
    return HeadAdapter(heads, offsets=settings.strength * torch.ones(len(heads), subject.layout.head_dim))
'''

TASKS = ("truthfulqa", "clutrr")
CELL = "metrics/tiny/truthfulqa/1/lofit/evaluate.json"


@pytest.fixture(scope="module")
def project(make_checkout):
    checkout = make_checkout("project")
    checkout.first = checkout.repro(LOFIT_TRACKING="on")
    checkout("git", "add", "-A")
    checkout("git", "commit", "-q", "-m", "first results")
    return checkout


@pytest.fixture
def edit(project):
    """Edit params.yaml for one test; afterwards everything is as it was, and the run cache gives the outs back."""
    file = project.folder / "params.yaml"
    before = file.read_text()
    yield project.edit
    file.write_text(before)
    again = project.repro()
    assert not [stage for stage in again if stage.startswith(("train", "tune", "evaluate", "base_model"))]


def test_everything_runs_once_and_is_reported(project):
    names = {stage.split("@")[0] for stage in project.first}
    assert len(project.first) == len(set(project.first))
    assert names == {
        *("check", "demo_model", "base_model", "fetch_data", "preprocess", "reference", "collect_activations"),
        *("train_scales", "select_heads", "tune_bias", "fit_baseline", "evaluate", "evaluate_baseline", "report"),
    }
    summary = (project.folder / "reports/tiny/summary.md").read_text()
    first = summary.split("# Other metrics")[0]
    assert first.index("## truthfulqa: mc1_clean") < first.index("## clutrr: exact_match_clean")
    assert [line[0] for line in table(project)[2:4]] == ["base", "lofit"]
    assert (project.folder / "reports/tiny/scores.png").read_bytes().startswith(b"\x89PNG")
    wrong = (project.folder / "reports/tiny/wrong_answers.md").read_text()
    assert "](wrong_answers.md)" in summary and "## clutrr\n\n### base\n" in wrong and "## truthfulqa" not in wrong
    before_after = (project.folder / "reports/tiny/answers.md").read_text()
    assert "](answers.md)" in summary and before_after.count("| base ") == before_after.count("| lofit ") == 2
    shown = project("python", "-m", "stages.show")
    assert "exact_match_clean" in shown
    assert "workflowType=machine_learning" in shown


def test_a_second_repro_runs_nothing(project):
    assert project.repro() == []


def test_a_learning_rate_of_step_2_reruns_step_2_of_its_task(project, edit):
    edit("tasks.clutrr.tune_bias.lr", 0.02)
    assert set(project.repro()) == {
        "check",
        "tune_bias@clutrr-1-lofit",
        "evaluate@clutrr-1-lofit",
        "report",
    }


def test_the_reference_is_that_of_the_untouched_base_and_training_reads_it(project):
    file = project.folder / "artifacts/reference/truthfulqa.csv"
    tokenizer = AutoTokenizer.from_pretrained(project.folder / "data/tiny_model")
    model = AutoModelForCausalLM.from_pretrained(project.folder / "data/tiny_model")
    with file.open(newline="") as opened:
        rows = list(csv.DictReader(opened))
    splits = [
        (split, json.loads(line))
        for split in ("train", "val")
        for line in (project.folder / f"artifacts/data/truthfulqa/{split}.jsonl").read_text().splitlines()
    ]
    assert len(rows) == len(splits) == 12 + 4
    for row, (split, record) in zip(rows, splits, strict=True):
        assert row["split"] == split
        for column, name in (("chosen", "completion"), ("rejected", "rejected")):
            start = len(tokenizer(record["prompt"])["input_ids"])
            text = record["prompt"] + record[name] + tokenizer.eos_token
            ids = tokenizer(text, return_tensors="pt")["input_ids"]
            with torch.no_grad():
                logprobs = model(ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])
            assert float(row[column]) == pytest.approx(logprobs[start - 1 :].sum().item(), abs=1e-3)
    assert (project.folder / "artifacts/reference/clutrr.csv").read_text() == "split,chosen,rejected\n"

    before = file.read_bytes()
    try:
        file.chmod(0o644)
        file.write_bytes(b"\n".join(before.splitlines()[:-1]) + b"\n")
        command = ("python", "-m", "stages.train_scales", "--task", "truthfulqa", "--seed", "1", "--run-name", "tiny")
        output = project(*command, ok=False)
    finally:
        file.write_bytes(before)
    fault = "artifacts/reference/truthfulqa.csv: got 3 rows of val; expected 4, one for each record"
    assert output.splitlines()[-1] == f"error: {fault}"
    assert project.repro() == []


@pytest.mark.parametrize(
    ("key", "value", "first"),
    [
        ("tasks.truthfulqa.train_scales.lr", 0.02, "train_scales@truthfulqa-1"),
        ("tasks.truthfulqa.select_heads.k", 4, "select_heads@truthfulqa-1-lofit"),
        ("run.seeds", [1, 2], "train_scales@truthfulqa-2"),
    ],
)
def test_no_key_of_training_reruns_the_reference(project, edit, key, value, first):
    edit(key, value)
    # A new seed would leave files behind that no later test expects.
    stages = project.changed()
    assert first in stages
    assert not [stage for stage in stages if stage.startswith("reference")]


def test_k_reruns_selection_onward_and_never_step_1(project, edit):
    edit("tasks.clutrr.select_heads.k", 4)
    stages = {stage.split("@")[0] for stage in project.repro()}
    assert stages == {"check", "select_heads", "tune_bias", "evaluate", "report"}
    heads = (project.folder / "artifacts/heads/clutrr/1/lofit.csv").read_text().splitlines()
    assert len(heads) == 1 + 4


def test_a_change_that_selects_the_same_heads_stops_there(project, edit):
    heads = [
        line.split(",")[2:] for line in (project.folder / "artifacts/heads/clutrr/1/lofit.csv").read_text().split()[1:]
    ]
    file = project.folder / "data/heads/same.csv"
    file.write_text("layer,head\n" + "".join(f"{layer},{head}\n" for layer, head in reversed(heads)))
    edit("tasks.clutrr.select_heads", {"k": 3, "ranking": "listed", "file": "data/heads/same.csv"})
    assert {stage.split("@")[0] for stage in project.repro()} == {"check", "select_heads"}


EDITS = {
    "a comment": ("lofit/training/loop.py", lambda text: text + "\n# A comment.\n", set()),
    "a docstring": ("lofit/methods/lofit.py", lambda text: text.replace('"""LoFiT: ', '"""LoFiT, ', 1), set()),
    "a new method": ("lofit/methods/mine.py", lambda _: OWN_METHOD, set()),
    "a page of a method": (
        "lofit/methods/lofit.py",
        lambda text: text.replace("    return adapter\n", "    return adapter.cpu()\n"),
        {f"{stage}@{task}-1{row}" for stage, row in FITS[1:] for task in ("truthfulqa", "clutrr")},
    ),
    "a ranking": (
        "lofit/rankings/random.py",
        lambda text: text.replace("    return scores_of(", "    return 1 * scores_of("),
        {"rank_heads@truthfulqa-1-random_heads", "rank_heads@clutrr-1-random_heads"},
    ),
    "a default that no task sets": (
        "lofit/training/settings.py",
        lambda text: text.replace("max_length: Count = 512", "max_length: Count = 256"),
        {f"{stage}@{task}-1{row}" for stage, row in FITS for task in ("truthfulqa", "clutrr")},
    ),
    "a default that one task leaves open": (
        "lofit/training/settings.py",
        lambda text: text.replace("beta: Positive = 0.5", "beta: Positive = 0.3"),
        {f"{stage}@clutrr-1{row}" for stage, row in FITS},
    ),
    "how to run": ("runtime.yaml", lambda text: text.replace("micro_batch_size: null", "micro_batch_size: 2"), set()),
    "the readme": ("README.md", lambda text: text + "More.\n", set()),
}


@pytest.fixture
def with_control(project, edit):
    edit("run.controls", ["random_heads"])
    project.repro()
    return project


def test_an_edit_of_code_reruns_what_it_reaches_and_nothing_else(with_control):
    """One walk over all edits: each is undone before the next."""
    seen = {}
    for name, (file, change, _) in EDITS.items():
        path = with_control.folder / file
        before = path.read_text() if path.exists() else None
        path.write_text(change(before))
        assert path.read_text() != before, name
        try:
            seen[name] = with_control.changed()
        finally:
            path.write_text(before) if before is not None else path.unlink()
    with_control("dvc", "repro", "check")
    assert seen == {name: wanted for name, (_, _, wanted) in EDITS.items()}


def test_selection_onward_reruns_only_where_heads_change(with_control):
    path = with_control.folder / "lofit/rankings/random.py"
    before = path.read_text()
    try:
        path.write_text(before.replace("    return scores_of(", "    return 1 * scores_of("))
        stages = {stage.split("@")[0] for stage in with_control.repro()}
    finally:
        path.write_text(before)
    # The walk above has run this check already, so that it may come from the run cache.
    assert stages - {"check"} == {"rank_heads"}


@pytest.mark.parametrize(
    ("key", "value", "stages"),
    [
        ("methods.lofit.evaluate", {"batch_size": 5}, {"evaluate@truthfulqa-1-lofit", "evaluate@clutrr-1-lofit"}),
        (
            "methods.base.evaluate",
            {"batch_size": 5},
            {f"evaluate_baseline@{t}-1-base" for t in TASKS},
        ),
        ("tasks.clutrr.tune_bias.lr", 0.02, {"tune_bias@clutrr-1-lofit"}),
        ("methods.lofit.tune_bias", {"lr": 0.02}, {"tune_bias@truthfulqa-1-lofit", "tune_bias@clutrr-1-lofit"}),
        ("tasks.clutrr.train_scales.l1", 0.02, {"train_scales@clutrr-1"}),
    ],
)
def test_dvc_status_tells_what_a_key_reaches_before_anything_has_run(project, edit, key, value, stages):
    edit(key, value)
    lines = project("dvc", "status").splitlines()
    changed = {line.rstrip(":") for line in lines if line[:1].isalpha() and line.endswith(":")}
    # The list of rows in the report's own key does not change.
    assert changed - {"check"} == stages


def test_base_waits_for_data_and_model_only(make_checkout):
    checkout = make_checkout("base")
    checkout.edit("run.controls", ["random_heads"])
    for target in ("evaluate_baseline@clutrr-1-base", "evaluate_control@clutrr-1-random_heads"):
        ran_now = ran(checkout("dvc", "repro", target))
        assert target in ran_now
        assert not [stage for stage in ran_now if stage.startswith(("train_scales", "select_heads"))]


def test_draws_are_a_number_and_one_more_trains_itself_alone(project, edit):
    edit("run.controls", ["random_heads"])
    # Nothing of this is in the run cache yet.
    edit("methods.random_heads.tune_bias", {"lr": 0.04})
    folder = project.folder / "artifacts/adapters/clutrr/1/random_heads"
    made = {}
    for draws, names in ((1, ["fold_0"]), (2, ["draw_1_fold_0", "draw_2_fold_0"]), (3, None)):
        edit("methods.random_heads.select_heads", {"ranking": "random", "draws": draws})
        project.repro()
        assert names is None or sorted(path.name for path in folder.iterdir()) == names
        (trained,) = project.output.split("tune_control@clutrr-1-random_heads':")[1:]
        trained = trained.split("Running stage")[0]
        assert trained.count("finished before") == draws - 1
        vectors = [file.read_bytes() for file in sorted(folder.glob("*/model.safetensors"))]
        assert len(set(vectors)) == draws and vectors[:-1] == made.get(draws - 1, [])
        made[draws] = vectors
    scores = json.loads((project.folder / "metrics/tiny/clutrr/1/random_heads/evaluate.json").read_text())["test"]
    draws = [scores[f"exact_match_clean_draw_{draw}"] for draw in (1, 2, 3)]
    assert scores["exact_match_clean"] == pytest.approx(sum(draws) / 3, abs=1e-6)
    summary = (project.folder / "reports/tiny/summary.md").read_text()
    assert "(3 draws)" in summary and "range over draws" in summary


def test_the_other_rankings_run(project, edit):
    edit("run.methods", ["lofit", "same_layers"])
    edit("run.transfers", ["theirs"])
    rest = {"tune_bias": {}, "tune": {}, "evaluate": {}}
    edit("methods.same_layers", {"kind": "lofit", "select_heads": {"ranking": "random_same_layers"}, **rest})
    edit("methods.theirs", {"kind": "lofit", "select_heads": {"ranking": "from_task", "task": "clutrr"}, **rest})
    edit("run.studies", ["other_task_heads"])
    edit("studies", {"other_task_heads": {}})
    project.repro()
    read = lambda task, row: (project.folder / f"artifacts/heads/{task}/1/{row}.csv").read_text().split()[1:]  # noqa: E731
    layers = [[line.split(",")[2] for line in read("truthfulqa", row)] for row in ("lofit", "same_layers")]
    assert layers[0] == layers[1]
    assert read("truthfulqa", "theirs") == read("clutrr", "lofit")
    with (project.folder / "reports/tiny/studies/other_task_heads.csv").open(newline="") as opened:
        assert [(row["heads of"], row["tuned on"]) for row in csv.DictReader(opened)] == [("clutrr", "truthfulqa")]


def test_a_method_of_ones_own_is_one_file_and_one_row(project, edit):
    page = project.folder / "lofit/methods/mine.py"
    page.write_text(OWN_METHOD)
    try:
        edit("run.baselines", ["base", "mine"])
        edit("methods.mine", {"kind": "mine", "fit": {"k": 2, "strength": 0.5}, "tune": {}, "evaluate": {}})
        stages = project.repro()
        assert {stage.split("@")[0] for stage in stages} == {"check", "fit_baseline", "evaluate_baseline", "report"}
        assert {stage.rpartition("-")[2] for stage in stages if "@" in stage} == {"mine"}
        assert [line[0] for line in table(project)[2:5]] == ["base", "mine", "lofit"]
        page.write_text(OWN_METHOD.replace("torch.ones", "2 * torch.ones"))
        assert project.changed() == {f"fit_baseline@{task}-1-mine" for task in TASKS}
    finally:
        page.unlink()


def test_faulty_params_are_refused_before_anything_runs(project, edit):
    made = project.bytes_of("artifacts/**/*", "metrics/**/*", "reports/**/*")
    edit("tasks.clutrr.tune_bias.lr", "fast")
    edit("run.methods", ["lofit", "lofti"])
    edit("tasks.truthfulqa.evaluate.batch_size", 0)
    assert project.repro(ok=False) == ["check"]
    for fault in (
        "tasks.clutrr.tune_bias.lr: got 'fast'; expected a number",
        "tasks.truthfulqa.evaluate.batch_size: got 0; expected greater than or equal to 1",
        "run.methods: got 'lofti'; expected base, lofit",
    ):
        assert fault in project.output
    assert "Traceback" not in project.output
    left = project.bytes_of("artifacts/**/*", "metrics/**/*", "reports/**/*")
    assert {name: left[name] for name in left} == {name: made[name] for name in made if name in left}
    assert {name for name in made if name not in left} <= {name for name in made if "artifacts/plan/" in name}


def test_more_heads_than_the_model_has_are_refused_before_a_model_is_loaded(project, edit):
    edit("tasks.clutrr.select_heads.k", 9)
    project.repro(ok=False)
    fault = "error: params.yaml: tasks.clutrr.select_heads.k: got 9; expected 1 to 8, the heads of data/tiny_model"
    assert project.output.count(fault) == 1
    assert "Traceback" not in project.output


def test_a_broken_data_file_is_one_line(project, edit):
    folder = project.folder / "data" / "broken"
    folder.mkdir()
    (folder / "train.json").write_text('[{"id": "1", "clean_story": "x"')
    edit("tasks.clutrr.fetch_data.source", "data/broken")
    project.repro(ok=False)
    assert "error: data/broken/train.json" in project.output
    assert "cut short" in project.output
    assert "Traceback" not in project.output
    (folder / "train.json").unlink()
    folder.rmdir()


def test_another_model_under_the_same_path_is_refused_and_then_resolved_anew(project):
    """Its shape is the same, so nothing but its content tells."""
    weights = project.folder / "data" / "tiny_model" / "model.safetensors"
    before = weights.read_bytes()
    # Another value of the last weight.
    weights.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    try:
        stages = {
            "evaluate": ("--method", "base", "--seed", "1", "--run-name", "tiny"),
            "tune_bias": ("--method", "lofit", "--seed", "1", "--run-name", "tiny"),
        }
        for stage, options in stages.items():
            said = project("python", "-m", f"stages.{stage}", "--task", "truthfulqa", *options, ok=False)
            (line,) = [line for line in said.splitlines() if line.startswith("error:")]
            assert "model 'data/tiny_model': its files have changed, got revision" in line
            assert "`dvc repro --force --single-item base_model`" in line and "Traceback" not in said
        assert "base_model" in project.changed()
    finally:
        weights.write_bytes(before)
        project.repro()
    # Only the times of the file are other ones now.
    assert project.repro() == []


def test_public_data_without_a_network_is_one_line_that_says_what_to_do(project, edit):
    edit("tasks.clutrr.fetch_data.source", "public")
    project.repro(ok=False, HTTPS_PROXY="http://127.0.0.1:9")
    (line,) = [line for line in project.output.splitlines() if line.startswith("error:")]
    assert "clutrr/train.json: got ProxyError; expected a network that reaches it, or a folder with these files" in line
    assert "Traceback" not in project.output


def test_a_tracking_server_that_does_not_answer_costs_a_warning(project, edit):
    edit("tasks.clutrr.evaluate.batch_size", 3)
    begun = time.monotonic()
    stages = project.repro(MLFLOW_TRACKING_URI="http://127.0.0.1:9", LOFIT_TRACKING="on")
    assert "evaluate@clutrr-1-lofit" in stages
    assert project.output.count("warning: MLflow is not available; the work goes on without tracking") == 2
    assert time.monotonic() - begun < 120


def test_every_cell_has_one_complete_row(project):
    client, cells, training = experiments(project)
    rows = {run.info.run_name: run for run in client.search_runs([cells])}
    assert set(rows) >= {f"{task}/{method}/1" for task in ("truthfulqa", "clutrr") for method in ("base", "lofit")}
    row = rows["clutrr/lofit/1"]
    assert row.info.status == "FINISHED"
    assert row.data.params["tune_bias.lr"] == "0.05"
    assert row.data.params["model.name"] == "data/tiny_model"
    for metric in ("test/exact_match_clean", "train_scales/loss", "tune_bias/val_loss", "trained_parameters"):
        assert metric in row.data.metrics
    kept = project.folder / "mlartifacts" / row.info.artifact_uri.removeprefix("mlflow-artifacts:/")
    names = {file.name for file in kept.iterdir()}
    assert {"adapter", "heads", "heads.png", "predictions"} <= names
    curve = client.get_metric_history(row.info.run_id, "tune_bias/loss")
    assert len(curve) == row.data.metrics["tune_bias/steps"]
    made_by = client.search_runs([training], f"tags.md5 = '{row.data.tags['md5.scales']}'")
    assert [run.info.run_name for run in made_by] == ["train_scales/clutrr/1"]


def test_a_row_is_complete_although_step_1_came_from_the_cache(project, edit):
    edit("tasks.truthfulqa.tune_bias.lr", 0.03)
    assert "train_scales@truthfulqa-1" not in project.repro(LOFIT_TRACKING="on")
    client, cells, _ = experiments(project)
    row = client.search_runs([cells], "params.`tune_bias.lr` = '0.03'")[0]
    assert {"train_scales/loss", "train_scales/val_loss", "tune_bias/loss", "test/mc1_clean"} <= set(row.data.metrics)


def test_a_killed_stage_resumes_and_ends_with_the_same_bytes(project, edit):
    edit("tasks.truthfulqa.tune_bias.epochs", 400)
    outs = "artifacts/adapters/truthfulqa/1/lofit/**/*"
    with subprocess.Popen(
        ["dvc", "repro"], cwd=project.folder, env=project.env | {"LOFIT_TRACKING": "on"}, start_new_session=True
    ) as process:
        home = project.folder / "checkpoints" / "workspace" / "tune_bias-truthfulqa-1-lofit"
        wait_for(lambda: list(home.rglob("state.safetensors")), process)
        os.killpg(process.pid, signal.SIGKILL)
    assert not (project.folder / "artifacts/adapters/truthfulqa/1/lofit").exists()
    stages = project.repro(LOFIT_TRACKING="on")
    assert "tune_bias@truthfulqa-1-lofit" in stages
    assert "resuming" in project.output
    resumed = project.bytes_of(outs)
    assert not list(home.iterdir())
    client, _, training = experiments(project)
    assert not client.search_runs([training], "attributes.status = 'RUNNING'")

    project("dvc", "repro", "-f", "-s", "tune_bias@truthfulqa-1-lofit")
    assert "resuming" not in project.output.split("evaluate")[-1]
    assert project.bytes_of(outs) == resumed


def test_both_folds_are_tuned_apart_and_averaged(project, edit):
    edit("tasks.truthfulqa.preprocess.folds", [0, 1])
    edit("tasks.truthfulqa.preprocess.protocol", "lofit")
    project.repro()
    cell = project.folder / "artifacts/adapters/truthfulqa/1/lofit"
    adapters = [json.loads((cell / folder / "config.json").read_text()) for folder in ("fold_0", "fold_1")]
    assert [adapter["training"]["fold"] for adapter in adapters] == [0, 1]
    # The published code's reference has the seed's fresh vectors in it, so there is none to share.
    assert (project.folder / "artifacts/reference/truthfulqa.csv").read_text() == "split,chosen,rejected\n"
    assert (cell / "fold_0/model.safetensors").read_bytes() != (cell / "fold_1/model.safetensors").read_bytes()
    scores = json.loads((project.folder / CELL).read_text())["test"]
    folds = [scores["mc2_lofit_fold_0"], scores["mc2_lofit_fold_1"]]
    assert folds[0] != folds[1] and scores["mc2_lofit"] == pytest.approx(sum(folds) / 2, abs=1e-6)
    ids = [
        json.loads(line)["id"]
        for line in (project.folder / "artifacts/predictions/truthfulqa/1/lofit.jsonl").read_text().splitlines()
    ]
    assert len(ids) == len(set(ids)) == 6 + 5
    (row,) = [line for line in table(project) if line[:2] == ["mc2_lofit", "lofit"]]
    assert float(row[2]) == pytest.approx(scores["mc2_lofit"], abs=5e-4)
    assert "a mean over questions and folds, with" in (project.folder / "reports/tiny/summary.md").read_text()


def test_several_processes_share_the_work_and_train_the_same_vectors(project, edit):
    # Shares of unequal size; and a last batch of a single example, of which the second process gets nothing.
    for task in ("truthfulqa", "clutrr"):
        edit(f"tasks.{task}.train_scales.batch_size", 11)
        edit(f"tasks.{task}.tune_bias.batch_size", 11)
    # They have to leave off after the same epoch.
    edit("tasks.clutrr.tune_bias.stop_after", 1)
    project.repro()
    alone = vectors(project)
    stages = [stage for stage in project.repro() if "train" in stage]
    assert stages == []
    for task in ("truthfulqa", "clutrr"):
        for stage in (f"train_scales@{task}-1", f"tune_bias@{task}-1-lofit"):
            output = project("dvc", "repro", "-f", "-s", stage, LOFIT_PROCESSES="2")
            assert "2 processes" in output
    together = vectors(project)
    assert together.keys() == alone.keys() and len(together) == 4
    for name, vector in together.items():
        assert abs(vector).max() > 0.005
        np.testing.assert_allclose(vector, alone[name], rtol=1e-3, atol=1e-5, err_msg=name)


def test_heads_of_a_file_take_the_place_of_the_ranking(project, edit):
    folder = project.folder / "data" / "heads"
    np.save(folder / "theirs.npy", np.array([(1, 3), (0, 0), (1, 1), (0, 2)]))
    edit("tasks.clutrr.select_heads", {"k": 2, "ranking": "listed", "file": "data/heads/theirs.npy"})
    project.repro()
    heads = (project.folder / "artifacts/heads/clutrr/1/lofit.csv").read_text()
    assert heads == "draw,fold,layer,head\n1,0,0,0\n1,0,1,3\n"
    for key, value, fault in (
        ("k", 5, "tasks.clutrr.select_heads.k: got 5; expected 1 to 4, the heads that data/heads/theirs.npy lists"),
        (
            "file",
            "data/theirs.npy",
            "tasks.clutrr.select_heads.file: got 'data/theirs.npy'; expected a file in data/heads/",
        ),
    ):
        edit(f"tasks.clutrr.select_heads.{key}", value)
        assert project.repro(ok=False) == ["check"]
        assert project.output.count(fault) == 1
    (folder / "theirs.npy").unlink()


def test_two_checkouts_give_the_same_bytes(project, make_checkout):
    other = make_checkout("other")
    other.repro()
    patterns = ("artifacts/**/*", "metrics/**/*", "reports/**/*")
    made, known = other.bytes_of(*patterns), project.bytes_of(*patterns)
    # Durations are no results. Rows that earlier tests have added leave their files behind.
    results = {name: text for name, text in made.items() if "/costs" not in name}
    assert len(results) > 100 and results == {name: known[name] for name in results}
    locks = [yaml.safe_load((place.folder / "dvc.lock").read_text()) for place in (project, other)]
    outs = [{name: stage.get("outs") for name, stage in lock["stages"].items()} for lock in locks]
    assert outs[1] == {name: outs[0][name] for name in outs[1]}


def test_experiments_run_from_the_command_line_and_from_the_queue(project):
    project("dvc", "exp", "run", "-n", "higher", "-S", "tasks.clutrr.tune_bias.lr=0.1")
    assert "higher" in project("dvc", "exp", "show", "--only-changed", "--drop", ".*artifacts.*")
    assert "0.1" in project("dvc", "params", "diff")
    project("git", "checkout", "-q", ".")
    project("dvc", "checkout", "-q")
    project("dvc", "exp", "run", "--queue", "-n", "queued", "-S", "tasks.clutrr.tune_bias.lr=0.2")
    project("dvc", "exp", "run", "--run-all")
    assert "queued" in project("dvc", "exp", "show", "--only-changed", "--drop", ".*artifacts.*")
    assert project.repro() == []


def vectors(project):
    """Every trained tensor of the checkout, by file and name."""
    files = [*project.folder.glob("artifacts/scales/1/*/scales.safetensors")]
    files += project.folder.glob("artifacts/adapters/*/1/lofit/fold_0/model.safetensors")
    return {
        f"{file.relative_to(project.folder)} {name}": tensor
        for file in files
        for name, tensor in load_file(file).items()
    }


def ran(output):
    return [line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage '")]


def table(project):
    """The cells of each line of the summary's table."""
    lines = (project.folder / "reports/tiny/summary.md").read_text().splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]


def experiments(project):
    """MLflow client of a checkout, and the ids of its two experiments."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{project.folder / 'mlflow.db'}")
    ids = [client.get_experiment_by_name(name).experiment_id for name in ("lofit", "lofit-training")]
    return client, *ids


def wait_for(condition, process, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "dvc ended before the stage could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
