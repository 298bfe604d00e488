"""How long a run will take: what is counted, and that it says what it needs."""

import json
import shutil
from pathlib import Path

import pytest

from lofit.errors import LofitError
from stages import estimate
from stages.params import presets
from stages.params.load import load

ROOT = Path(__file__).parents[2]


@pytest.fixture
def params(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "params.yaml", "params.yaml")
    presets.apply(Path("params.yaml"), ROOT / "presets" / "smollm2-135m.yaml")
    for task, counts in {"mquake": (134, 34, 864), "truthfulqa": (326, 82, 409), "clutrr": (300, 450, 450)}.items():
        folder = Path("metrics/smollm2-135m", task)
        folder.mkdir(parents=True)
        sizes = dict(zip(("train", "val", "test"), counts, strict=True))
        (folder / "preprocess.json").write_text(json.dumps({**sizes, "repeated": 0}))
    return load(Path("params.yaml"))


def test_every_step_and_every_record_of_a_task_is_counted(params):
    work = list(estimate.work_of_task(params, "mquake"))
    epoch = 17  # 134 records in batches of 8
    trained = {"residual": 3, "red": 3, "jola": 3, "loreft": 3, "lora": 3, "ia3": 3, "lofit": 2 * 3, "random": 10 * 3}
    epochs = {name: 5 if name != "jola" else params.methods["jola"].fit["epochs"] for name in trained}
    step_1 = 5 * epoch
    assert sum(part.steps for part in work) == step_1 + epoch * sum(trained[name] * epochs[name] for name in trained)
    searches = sum(trained.values()) + 2 * 3  # ITI and RepE search, too, and train nothing
    adapters = 1 + 6 + 2 + 2 + 10
    assert sum(part.scored for part in work) == adapters * 864 + searches * 34


def test_without_data_it_says_what_to_run(params):
    with pytest.raises(LofitError, match=r"base_model\.json: no such file; run `dvc repro base_model"):
        estimate.estimate()
