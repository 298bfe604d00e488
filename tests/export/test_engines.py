import copy
import re
from pathlib import Path

import pytest
import torch
import transformers
from torch import nn
from transformers import AutoModelForCausalLM

from lofit.errors import LofitError
from lofit.export import engines
from lofit.export.bias_sites import config_switch, value_path
from lofit.export.engines import COLUMNS, HOMES, MARKS, VERDICTS, markdown, table, verdict
from lofit.export.stream_sites import block_ends
from lofit.models.layout import head_layout
from tests.families import FAMILIES, build

DOC = Path(__file__).parents[2] / "docs" / "engines.md"
ROWS = engines._rows()
TYPES = {getattr(transformers, f"{family.config}Config").model_type: name for name, family in FAMILIES.items()}


@pytest.mark.parametrize("engine", COLUMNS)
def test_every_family_has_a_cell_in_every_column(engine):
    assert [row.model_type for row in ROWS if row.engine == engine and row.home == "o_proj"] == list(TYPES)


def test_rows_hold_only_words_that_mean_something_and_none_comes_twice():
    keys = [(row.model_type, row.engine, row.home) for row in ROWS]
    assert len(set(keys)) == len(keys)
    for row in ROWS:
        assert row.engine in COLUMNS and row.home in HOMES and row.verdict in VERDICTS and row.mark in MARKS
        assert row.version and row.detail
        assert (row.verdict == "unknown") is (row.mark == "unknown")


def test_a_column_is_about_one_version():
    assert len({(row.engine, row.version) for row in ROWS}) == len(COLUMNS)


@pytest.mark.parametrize(
    ("model_type", "engine", "home", "keeps"),
    [
        ("llama", "vllm", "o_proj", True),
        ("llama", "llama.cpp", "o_proj", True),
        ("qwen3", "transformers", "o_proj", True),
        ("qwen3", "vllm", "o_proj", False),
        ("qwen3", "vllm", "weights", True),
        ("qwen3", "llama.cpp", "o_proj", False),
        ("qwen2", "transformers", "o_proj", False),
        ("qwen2", "vllm", "o_proj", False),
        ("qwen2", "vllm", "v_proj", True),
        ("mistral", "transformers", "o_proj", False),
        ("mistral", "vllm", "o_proj", False),
        ("falcon_h1", "llama.cpp", "o_proj", False),
        ("gptj", "llama.cpp", "weights", False),
        ("bamba", "llama.cpp", "weights", False),
        ("bart", "vllm", "o_proj", None),
        ("bart", "vllm", "weights", None),
        ("llama", "vllm", "v_proj", None),
        ("brand_new", "llama.cpp", "o_proj", None),
    ],
)
def test_an_engine_is_believed_to_keep_what_it_is_known_to_keep(model_type, engine, home, keeps):
    assert verdict(model_type, engine, home).keeps is keeps


@pytest.mark.parametrize("row", [row for row in ROWS if row.engine == "transformers"], ids=lambda row: row.model_type)
def test_transformers_has_a_place_for_a_bias_where_the_table_says_so(row):
    name = TYPES[row.model_type]
    model, paths = build(name, torch.float32), FAMILIES[name].projections
    if row.home == "v_proj":
        paths = [value_path(path) for path in paths]
    if row.home == "down_proj":
        paths = list(block_ends(model, head_layout(model), [0, 1]).values())
    stock = all(model.get_submodule(path).bias is not None for path in paths)
    assert row.keeps is (stock or config_switch(model, paths) is not None)


@pytest.mark.parametrize(
    "row",
    [row for row in ROWS if row.verdict == "drops" and row.engine == "transformers"],
    ids=lambda row: row.model_type,
)
@torch.no_grad()
def test_transformers_drops_a_bias_where_the_table_says_so(row, tmp_path):
    name = TYPES[row.model_type]
    model, ids = copy.deepcopy(build(name, torch.float32)), torch.arange(3, 96, 6)[None]
    base = model(ids).logits
    for path in FAMILIES[name].projections:
        model.get_submodule(path).bias = nn.Parameter(torch.randn(model.config.hidden_size))
    biased = model(ids).logits
    model.save_pretrained(tmp_path)
    reloaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)(ids).logits

    assert (reloaded - base).abs().max() < 1e-3 < (biased - base).abs().max()


def test_an_unknown_architecture_is_unknown_to_every_engine():
    assert [(row.engine, row.keeps) for row in table("brand_new")] == [(engine, None) for engine in COLUMNS]


@pytest.mark.parametrize(("engine", "home"), [("vLLM", "o_proj"), ("vllm", "q_proj")])
def test_a_mistyped_engine_or_home_is_refused(engine, home):
    with pytest.raises(LofitError, match=r"got '(vLLM|q_proj)'; expected "):
        verdict("llama", engine, home)


def test_the_doc_holds_the_table():
    assert markdown() in DOC.read_text(encoding="utf-8")


def test_the_doc_explains_every_verdict():
    assert set(re.findall(r"^- \*\*(\w+)\*\*", DOC.read_text(encoding="utf-8"), re.M)) == set(VERDICTS)
