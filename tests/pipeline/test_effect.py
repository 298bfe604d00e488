"""The whole default pipeline, as `make repro` runs it: LoFiT has to work on the embedded model."""

import json
import re

import pytest
import yaml

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def demo(make_checkout):
    checkout = make_checkout("demo", tiny=False)
    checkout.first = checkout.repro()
    return checkout


def score(demo, task, method, metric):
    file = demo.folder / "metrics/demo" / task / "42" / method / "evaluate.json"
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
def test_the_exports_score_what_the_hooks_score(demo, task, tmp_path):
    code = f"""
from pathlib import Path
from lofit import HeadAdapter, score
from lofit.export.checkpoint import export_checkpoint
from lofit.export.peft_folder import export_peft
from lofit.models.base import BaseModel, load
from lofit.storage.files import read_json
from lofit.tasks.record import read_metric, read_records
from dataclasses import replace
import json

out, data = Path({str(tmp_path)!r}), Path("artifacts/data/{task}")
base = BaseModel.from_json(read_json(Path("artifacts/base_model.json")))
adapter = HeadAdapter.from_pretrained("artifacts/release/{task}/42/lofit/fold_0")
export_checkpoint(base, adapter, out / "merged")
export_peft(base, adapter, out / "peft")
merged, tokenizer = load(replace(base, source=str(out / "merged")))
stock, _ = load(base)
stock.load_adapter(str(out / "peft"))
records, metric = read_records(data, "test"), read_metric(data)
print("SCORES", json.dumps([score(m, tokenizer, records, metric=metric, batch_size=64) for m in (merged, stock)]))
"""
    (line,) = [line for line in demo("python", "-c", code).splitlines() if line.startswith("SCORES")]
    by_hooks = json.loads((demo.folder / "metrics/demo" / task / "42/lofit/evaluate.json").read_text())["test"]
    assert json.loads(line.removeprefix("SCORES ")) == [by_hooks, by_hooks]


def test_the_release_says_what_it_scored(demo):
    released = json.loads((demo.folder / "artifacts/release/mquake/42/lofit/fold_0/config.json").read_text())
    assert released["metrics"] == {"test/exact_match_clean": score(demo, "mquake", "lofit", "exact_match_clean")}
    assert released["training"]["task"] == "mquake" and released["training"]["parameters"]["lr"] == 0.05
    folders = [demo.folder / "artifacts" / kind / "mquake/42/lofit/fold_0" for kind in ("adapters", "release")]
    trained, shared = ((folder / "model.safetensors").read_bytes() for folder in folders)
    assert trained == shared
    assert [(folder / "README.md").exists() for folder in folders] == [False, True]


def test_the_first_code_block_of_the_readme_runs_and_gains(demo):
    block = re.search(r"```(\w*)\n(.*?)```", (demo.folder / "README.md").read_text(), re.DOTALL)
    assert block[1] == "python"
    printed = demo("python", "-c", block[2], LOFIT_TRACKING="off")
    before, after = (float(found) for found in re.findall(r"'exact_match': ([\d.]+)", printed))
    assert after >= before + 0.3


def test_the_example_of_the_steps_runs(demo):
    printed = demo("python", "examples/fit_lofit.py", PYTHONPATH=".")
    plain, adapted, again = (float(found) for found in re.findall(r"'exact_match': ([\d.]+)", printed))
    assert adapted >= plain + 0.3 and again == adapted
    assert (demo.folder / "adapters/kinship/README.md").exists()


def test_the_method_of_the_example_is_one_file_put_in_place(demo):
    page = demo.folder / "lofit/methods/ridge.py"
    text = (demo.folder / "examples/your_own_method.py").read_text()
    assert len(text.splitlines()) < 60
    page.write_text(text)
    try:
        code = """
import lofit
from lofit import demo
model, tokenizer = demo.load()
train, test = demo.records("clutrr"), demo.records("clutrr", "test")
fitted = lofit.fit(model, tokenizer, train, method="ridge", k=3, l2=0.0001, ranking="scale_norm", epochs=5)
print("GAIN", lofit.score(model, tokenizer, test, adapter=fitted)["exact_match"])
"""
        (line,) = [line for line in demo("python", "-c", code, PYTHONPATH=".").splitlines() if line.startswith("GAIN")]
        assert float(line.split()[1]) >= score(demo, "clutrr", "base", "exact_match_clean") + 0.2
        row = yaml.safe_load(re.search(r"    ridge:\n(?:      .*\n)+", text)[0])
        params = demo.folder / "params.yaml"
        before = params.read_text()
        demo.edit("methods.ridge", row["ridge"])
        demo.edit("run.baselines", ["base", "ridge"])
        (demo.folder / "one.txt").write_text(demo("dvc", "repro", "evaluate_baseline@clutrr-42-ridge"))
        assert set(re.findall(r"Running stage '(\w+)", (demo.folder / "one.txt").read_text())) == {
            *("check", "fit_baseline", "evaluate_baseline")
        }
        assert "exact_match_clean" in (demo.folder / "metrics/demo/clutrr/42/ridge/evaluate.json").read_text()
        params.write_text(before)
    finally:
        page.unlink()


def test_the_own_task_of_the_docs_runs_and_is_learned(demo):
    """Last of this file: it leaves another params.yaml behind."""
    page = (demo.folder / "docs/tasks.md").read_text()
    (lines,) = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    examples = demo.folder / "data" / "examples"
    written = [line for file in examples.glob("*.jsonl") for line in file.read_text().splitlines()]
    assert all(line in written for line in lines.splitlines())

    blocks = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    (block,) = [yaml.safe_load(block) for block in blocks if "kind: jsonl" in block]
    params = demo.folder / "params.yaml"
    wanted = yaml.safe_load(params.read_text())
    wanted["tasks"].update(block)
    wanted["run"]["tasks"] = list(block)
    params.write_text(yaml.safe_dump(wanted, sort_keys=False))
    assert {stage.partition("@")[0] for stage in demo.repro()} >= {"fetch_data", "preprocess", "tune_bias", "evaluate"}
    counts = json.loads((demo.folder / "metrics/demo/antonyms/preprocess.json").read_text())
    assert counts.pop("repeated") == 0 and sum(counts.values()) == len(
        (examples / "antonyms.jsonl").read_text().splitlines()
    )
    figures = json.loads((demo.folder / "metrics/demo/antonyms/42/lofit/tune_bias.json").read_text())
    base_loss = float(
        (demo.folder / "artifacts/curves/antonyms/42/lofit.csv").read_text().splitlines()[1].split(",")[4]
    )
    assert figures["train_loss"] < 0.8 * base_loss
    assert "antonyms" in (demo.folder / "reports/demo/summary.md").read_text()
