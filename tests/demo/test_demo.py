"""The demo base model on a world of a few facts: file formats, splits, tokenizer, and the build itself."""

import ast
import csv
import dataclasses
import hashlib
import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from lofit.demo import corpus, tokenizer
from lofit.demo.kinship import TARGETS, combinations
from lofit.demo.pretrain import UnlearnedError, accuracies, build, encode
from lofit.demo.recipe import Recipe
from lofit.demo.world import SPLITS, World, create, write_data
from lofit.tasks import clutrr, mquake, truthfulqa
from lofit.tasks.record import Options
from lofit.training.checkpoint import Checkpoint

TINY = Recipe(
    entities=(8, 4, 8),
    countries=5,
    imagined=3,
    persons=(2, 1, 2),
    edits=(12, 6, 12),
    stories=(12, 6, 12),
    fact_cued=3,
    fact_bare=4,
    citizenship=2,
    two_hop=1,
    country_fact=2,
    premise_bare=30,
    premise_cued=(30, 10),
    story_bare=30,
    story_cued=(30, 10),
    layers=2,
    hidden=32,
    heads=4,
    intermediate=48,
    gate=0.0,
)


class KilledError(Exception):
    """Stands for a kill of the process."""


class KilledAt(Checkpoint):
    """A checkpoint folder whose process dies after the save of one step."""

    def __init__(self, folder: Path, *, step: int, every: int = 1) -> None:
        super().__init__(folder)
        self.every = every
        self.step = step
        self.steps = 0

    def due(self) -> bool:
        self.steps += 1
        return self.steps % self.every == 0

    def save(self, step: int, tensors: dict[str, torch.Tensor], history: list[dict]) -> None:
        super().save(step, tensors, history)
        if step == self.step:
            raise KilledError


@pytest.fixture(scope="module")
def world() -> World:
    return create(0, TINY)


@pytest.fixture(scope="module")
def data(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_data(world, folder)
    return folder


def test_combinations_are_the_public_ones():
    """Counted in the public files: 62 compositions, 18 targets, every one of them reached."""
    assert len({(c.first, c.second) for c in combinations()}) == 62
    assert {c.target for c in combinations()} == set(TARGETS)


def test_truthfulqa_files(data: Path):
    for split, size in zip(SPLITS, TINY.entities, strict=True):
        rows = list(csv.DictReader((data / "truthfulqa" / f"fold_0_{split}_seed_42.csv").open(encoding="utf-8")))
        assert len(rows) == size
        for row in rows:
            assert ",".join(row) == "Type,Category,Question,Best Answer,Correct Answers,Incorrect Answers,Source"
            assert row["Best Answer"] in row["Correct Answers"].split("; ")
            assert row["Best Answer"] not in row["Incorrect Answers"].split("; ")


def test_mquake_files(data: Path, world: World):
    for split, size in zip(SPLITS, TINY.edits, strict=True):
        cases = [json.loads(line) for line in (data / "mquake" / f"{split}.jsonl").read_text().splitlines()]
        assert len(cases) == size
        for case, edit in zip(cases, world.edits[split], strict=True):
            (rewrite,) = case["requested_rewrite"]
            premise = f"{rewrite['prompt'].format(rewrite['subject'])} {rewrite['target_new']['str']}"
            # A sentence in the file, the end of one in the prompt.
            assert premise[1:] == world.premise(edit)[1:] and premise[0] in (world.premise(edit)[0], "T")
            assert len(case["questions"]) == 3
            assert case["new_answer"] == case["new_single_hops"][-1]["answer"] != case["answer"]


def test_clutrr_files(data: Path):
    for split, size in zip(SPLITS, TINY.stories, strict=True):
        stories = json.loads((data / "clutrr" / f"{split}.json").read_text())
        assert len(stories) == size
        for story in stories:
            a, b = ast.literal_eval(story["query"])
            assert f"[{a}]" in story["clean_story"]
            assert f"[{b}]" in story["clean_story"]
            assert TARGETS[story["target"]] == story["target_text"]


@pytest.mark.parametrize("split", SPLITS)
def test_tasks_load_the_prompts_that_the_documents_have(data: Path, world: World, split: str):
    """The prompts of the documents are, word for word, those that the tasks make of the files."""
    bare = corpus.items(world, split, 0)
    for task in (truthfulqa, mquake, clutrr):
        name = task.__name__.rpartition(".")[2]
        records = task.load(data / name, split, Options())
        assert [(r.prompt, r.completion) for r in records] == [(p, answers[0]) for p, answers in bare[name]]


def test_splits_share_nothing(world: World):
    names = [{entity.name for entity in world.entities[split]} for split in SPLITS]
    persons = [{edit.person for edit in world.edits[split]} for split in SPLITS] + [set(world.persons["imagine"])]
    stories = [{story.text for story in world.stories[split]} for split in SPLITS]
    for groups in (names, persons, stories):
        assert len(set.union(*groups)) == sum(len(group) for group in groups)


def test_no_document_gives_a_held_out_answer_away(world: World):
    shares = corpus.overlap(world, corpus.documents(world, TINY))
    assert all(share == 0 for name, share in shares.items() if "truthfulqa" not in name)
    # Facts cannot be held out of the model that is to know them.
    assert shares["overlap_truthfulqa_prompt"] == 1


def test_tokenizer_is_whole_words_and_round_trips(world: World):
    texts = corpus.documents(world, TINY)
    encoder = tokenizer.train(prompt + answer for prompt, answer in texts)
    for prompt, answer in [*texts[::7], ("Wholly unseen: naïve", " ☃ 42")]:
        ids = encoder(prompt + answer)["input_ids"]
        assert encoder.decode(ids, skip_special_tokens=True) == prompt + answer
        assert [*ids, encoder.eos_token_id] == encode(encoder, [(prompt, answer)])[0][0]
        offsets = encoder(prompt + answer, return_offsets_mapping=True)["offset_mapping"]
        assert offsets[-1][1] == len(prompt + answer)
    assert len(encoder(f" {world.entities['test'][0].name}", add_special_tokens=False)["input_ids"]) == 1


def _digest(folder: Path) -> str:
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return hashlib.sha256(b"".join(file.name.encode() + file.read_bytes() for file in files)).hexdigest()


def test_build_resumes_to_the_same_bytes(tmp_path: Path):
    whole = build(tmp_path / "whole", world=1, checkpoint=Checkpoint(None), recipe=TINY)
    with pytest.raises(KilledError):
        build(tmp_path / "part", world=1, checkpoint=KilledAt(tmp_path / "saved", every=4, step=8), recipe=TINY)
    torch.manual_seed(99)  # a new process has another generator state
    resumed = build(tmp_path / "part", world=1, checkpoint=Checkpoint(tmp_path / "saved"), recipe=TINY)
    assert whole["steps"] > 8
    assert resumed == whole
    assert _digest(tmp_path / "part") == _digest(tmp_path / "whole")


def test_built_model_loads_and_scores_as_reported(tmp_path: Path):
    figures = build(tmp_path, world=1, checkpoint=Checkpoint(None), recipe=TINY)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    encoder = AutoTokenizer.from_pretrained(tmp_path / "model")
    assert model.dtype == torch.float32
    again = accuracies(model, encoder, corpus.items(create(1, TINY), "train", 1))
    assert {f"cued_{task}": score for task, score in again.items()}.items() <= figures.items()


def test_missed_gate_extends_then_raises(tmp_path: Path):
    recipe = dataclasses.replace(TINY, gate=1.1, extensions=1)
    with pytest.raises(UnlearnedError, match="are needed"):
        build(tmp_path, world=1, checkpoint=KilledAt(tmp_path / "saved", every=1, step=-1), recipe=recipe)
    saved = Checkpoint(tmp_path / "saved").load()
    plain = build(tmp_path / "plain", world=1, checkpoint=Checkpoint(None), recipe=TINY)
    assert saved is not None
    assert saved[0] == plain["steps"] + round(recipe.extension * plain["steps"])
    assert not (tmp_path / "model").exists()
