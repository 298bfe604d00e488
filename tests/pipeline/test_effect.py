"""The whole default pipeline, as `make repro` runs it: LoFiT has to work on the embedded model."""

import json
import re
import subprocess
import sys

import pytest
import yaml

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def demo(make_checkout):
    checkout = make_checkout("demo", tiny=False)
    checkout.first = checkout.repro()
    return checkout


def score(demo, task, method, metric):
    file = demo.folder / "metrics" / task / "42" / method / "evaluate.json"
    return json.loads(file.read_text())["test"][metric]


@pytest.mark.parametrize(
    ("task", "metric", "gain"),
    [("truthfulqa", "mc1_clean", 0.5), ("clutrr", "exact_match_clean", 0.5), ("mquake", "exact_match_clean", 0.2)],
)
def test_lofit_improves_on_the_base_model(demo, task, metric, gain):
    assert score(demo, task, "lofit", metric) >= score(demo, task, "base", metric) + gain


def test_nothing_is_left_to_do(demo):
    assert demo.repro() == []


def test_metrics_and_plots_say_something_at_once(demo):
    shown = demo("dvc", "metrics", "show")
    assert "test.mc1_clean" in shown
    assert "trained_parameters" in shown
    demo("dvc", "plots", "show", "-o", "plots_page")
    page = (demo.folder / "plots_page" / "index.html").read_text()
    assert "Scores on held-out questions" in page
    assert "Step 2, loss of the offsets" in page


@pytest.mark.parametrize("task", ["truthfulqa", "mquake", "clutrr"])
def test_the_exports_score_what_the_hooks_score(demo, task):
    params, metrics = demo.folder / "params.yaml", demo.folder / "metrics" / task / "42/lofit/evaluate.json"
    before, by_hooks = params.read_text(), metrics.read_text()
    command = ("python", "-m", "stages.evaluate", "--task", task, "--seed", "42", "--method", "lofit")
    try:
        for way in ("merged", "peft"):
            metrics.unlink()
            demo.edit(f"tasks.{task}.evaluate.through", way)
            demo(*command, LOFIT_TRACKING="off")
            assert metrics.read_text() == by_hooks, way
    finally:
        params.write_text(before)
        metrics.write_text(by_hooks)
        demo("dvc", "checkout", "--force")
    assert not list(demo.folder.glob("artifacts/**/.export-*"))


def test_the_release_says_what_it_scored(demo):
    released = json.loads((demo.folder / "artifacts/mquake/42/lofit/release/config.json").read_text())
    assert released["metrics"] == {"test/exact_match_clean": score(demo, "mquake", "lofit", "exact_match_clean")}
    assert released["training"]["task"] == "mquake" and released["training"]["parameters"]["lr"] == 0.05
    trained = demo.folder / "artifacts/mquake/42/lofit/adapter/model.safetensors"
    assert trained.read_bytes() == (trained.parents[1] / "release/model.safetensors").read_bytes()


def test_the_python_example_of_the_readme_runs(demo):
    (example,) = re.findall(r"```python\n(.*?)```", (demo.folder / "README.md").read_text(), re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", example], cwd=demo.folder, env=demo.env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_own_task_of_the_readme_runs_and_is_learned(demo):
    """Last of this file: it leaves another params.yaml behind."""
    readme = (demo.folder / "README.md").read_text()
    (lines,) = re.findall(r"```json\n(.*?)```", readme, re.DOTALL)
    examples = demo.folder / "data" / "examples"
    written = [line for file in examples.glob("*.jsonl") for line in file.read_text().splitlines()]
    assert all(line in written for line in lines.splitlines())

    blocks = re.findall(r"```yaml\n(.*?)```", readme, re.DOTALL)
    (block,) = [yaml.safe_load(block) for block in blocks if "kind: jsonl" in block]
    params = demo.folder / "params.yaml"
    wanted = yaml.safe_load(params.read_text())
    wanted["tasks"].update(block)
    wanted["run"]["tasks"] = list(block)
    params.write_text(yaml.safe_dump(wanted, sort_keys=False))
    assert {stage.partition("@")[0] for stage in demo.repro()} >= {"fetch_data", "preprocess", "tune_bias", "evaluate"}
    counts = json.loads((demo.folder / "metrics/antonyms/preprocess.json").read_text())
    assert sum(counts.values()) == len((examples / "antonyms.jsonl").read_text().splitlines())
    assert 0 <= score(demo, "antonyms", "lofit", "exact_match") <= 1
    figures = json.loads((demo.folder / "metrics/antonyms/42/lofit/tune_bias.json").read_text())
    base_loss = float(
        (demo.folder / "artifacts/antonyms/42/lofit/tune_bias.csv").read_text().splitlines()[1].split(",")[3]
    )
    assert figures["train_loss"] < 0.8 * base_loss
    assert "antonyms" in (demo.folder / "reports/summary.md").read_text()
