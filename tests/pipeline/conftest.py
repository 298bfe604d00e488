"""A copy of the project in a temporary folder, with a tiny random model and a handful of examples per task."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
TASKS = ("truthfulqa", "clutrr")


@pytest.fixture(scope="session")
def run_python():
    def run(code: str) -> str:
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
        return done.stdout

    return run


class Checkout:
    """A working copy of the project and the commands a user types in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.env = {
            **{key: value for key, value in os.environ.items() if not key.startswith(("DVC_", "MLFLOW_", "LOFIT_"))},
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": "",
            "HF_HUB_OFFLINE": "1",
            # MLflow's process costs as much as a stage: only tests that look at it have it.
            "LOFIT_TRACKING": "off",
            "GIT_AUTHOR_NAME": "t",
            "GIT_AUTHOR_EMAIL": "t@example.org",
            "GIT_COMMITTER_NAME": "t",
            "GIT_COMMITTER_EMAIL": "t@example.org",
        }

    def __call__(self, *command: str, ok: bool = True, **env: str) -> str:
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.env | env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert (done.returncode == 0) == ok, done.stdout
        return done.stdout

    def repro(self, *, ok: bool = True, **env: str) -> list[str]:
        """`dvc repro`; the names of the stages that ran."""
        output = self("dvc", "repro", ok=ok, **env)
        self.output = output
        return ran(output)

    def changed(self) -> set[str]:
        """The names of the stages that have changed themselves, once `check` knows the edit; none of them is run."""
        self("dvc", "repro", "check")
        lines = self("dvc", "status").splitlines()
        return {line.rstrip(":") for line in lines if line[:1].isalpha() and line.endswith(":")}

    def edit(self, path: str, value: object) -> None:
        """Set a dotted key of params.yaml."""
        file = self.folder / "params.yaml"
        params = yaml.safe_load(file.read_text())
        *parents, last = path.split(".")
        block = params
        for key in parents:
            block = block[key]
        block[last] = value
        file.write_text(yaml.safe_dump(params, sort_keys=False))

    def bytes_of(self, *patterns: str) -> dict[str, bytes]:
        files = [file for pattern in patterns for file in self.folder.glob(pattern) if file.is_file()]
        assert files
        return {str(file.relative_to(self.folder)): file.read_bytes() for file in sorted(files)}


def ran(output: str) -> list[str]:
    return [line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage '")]


@pytest.fixture(scope="session")
def make_checkout(tmp_path_factory):
    """Makes checkouts of the project as it stands, uncommitted changes included."""

    def make(name: str, *, tiny: bool = True) -> Checkout:
        folder = tmp_path_factory.mktemp(name)
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        for path in filter(None, listed.stdout.split("\0")):
            if path.startswith(("tests/", "reports/", "metrics/", "dvc.lock")) or not (ROOT / path).is_file():
                continue
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((ROOT / path).read_bytes())
        checkout = Checkout(folder)
        if tiny:
            write_tiny_model(folder / "data" / "tiny_model")
            write_tiny_data(folder / "data")
            write_tiny_params(folder / "params.yaml")
        checkout("git", "init", "-q", ".")
        checkout("git", "add", "-A")
        checkout("git", "commit", "-q", "-m", "start")
        return checkout

    return make


def write_tiny_model(folder: Path) -> None:
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<pad>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=special, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(["Q: Imagine that A: how is related to"], trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>")
    config = LlamaConfig(
        vocab_size=len(fast),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    fast.save_pretrained(folder)


def write_tiny_data(data: Path) -> None:
    sizes = {"train": 12, "val": 4, "test": 6}
    for split, size in sizes.items():
        for fold in (0, 1):
            rows = [
                [
                    f"What is {split} {fold}{i}?",
                    f"true {fold}{i}",
                    f"true {fold}{i}; right {i}",
                    f"false {i}; wrong {i}",
                ]
                for i in range(size - fold)
            ]
            file = data / "truthfulqa" / f"fold_{fold}_{split}_seed_42.csv"
            file.parent.mkdir(exist_ok=True)
            with file.open("w", newline="") as opened:
                writer = csv.writer(opened)
                writer.writerows([["Question", "Best Answer", "Correct Answers", "Incorrect Answers"], *rows])
        items = [
            {"id": f"{split}-{i}", "clean_story": "[A] is [B]'s son.", "query": "('A', 'B')", "target_text": "father"}
            for i in range(size)
        ]
        file = data / "clutrr" / f"{split}.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(items))


def write_tiny_params(file: Path) -> None:
    params = yaml.safe_load(file.read_text())
    others = {key: [] for key in ("readers", "measured", "probed", "controls", "transfers", "out_of_domain", "studies")}
    rows = {"baselines": ["base"], "methods": ["lofit"], **others}
    params["run"] = {"name": "tiny", "tasks": list(TASKS), "seeds": [1], **rows}
    params["model"]["name"] = "data/tiny_model"
    for task in TASKS:
        block = params["tasks"][task]
        block["fetch_data"]["source"] = f"data/{task}"
        block["train_scales"]["epochs"] = block["tune_bias"]["epochs"] = 2
        block["tune_bias"]["lr"] = 0.05
    file.write_text(yaml.safe_dump(params, sort_keys=False))
