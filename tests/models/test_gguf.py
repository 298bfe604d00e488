"""GGUF files as folders: the same model, the same tokens, the same bytes; and what is refused."""

import shutil

import pytest

pytest.importorskip("gguf", reason="no package gguf: pip install -e '.[models]'")

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from lofit.errors import LofitError
from lofit.models.gguf import convert
from lofit.models.identity import folder_hash
from tests.gguf_files import ARCHITECTURES, write_gguf

IDS = torch.tensor([[1, 40, 50, 60, 70, 80, 90, 100, 110, 120, 130, 140]])


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_converted_model_is_the_one_that_the_file_was_made_from(name, tmp_path):
    made_from = write_gguf(tmp_path / "tiny.gguf", name)
    convert(tmp_path / "tiny.gguf", tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert type(model) is type(made_from) and model.dtype == torch.float32
    weights = dict(made_from.named_parameters())
    for path, weight in model.named_parameters():
        # llama.cpp keeps Gemma's norms with one added, which rounds them once.
        exact = 2e-7 if name == "gemma3" and "norm" in path else 0.0
        assert (weight - weights.pop(path)).abs().max() <= exact, path
    assert not weights
    with torch.no_grad():
        assert torch.allclose(model(IDS).logits, made_from(IDS).logits, atol=1e-5)
    assert (model.generation_config.eos_token_id, model.generation_config.pad_token_id) == (2, 0)


@pytest.mark.parametrize("tied", [False, True])
def test_quantised_weights_get_the_values_that_they_stand_for(tied, tmp_path):
    made_from = write_gguf(tmp_path / "tiny.gguf", quantised=True, tied=tied)
    convert(tmp_path / "tiny.gguf", tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.config.tie_word_embeddings == tied
    weights = dict(made_from.named_parameters())
    assert all(torch.equal(weight, weights[path]) for path, weight in model.named_parameters())


def test_the_folder_has_the_same_bytes_whatever_the_file_is_called_and_lies_next_to(tmp_path):
    write_gguf(tmp_path / "tiny.gguf")
    convert(tmp_path / "tiny.gguf", tmp_path / "out")
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(tmp_path / "tiny.gguf", other / "renamed.gguf")
    # Of another model.
    for name in ("config.json", "tokenizer_config.json", "generation_config.json"):
        (other / name).write_text('{"model_type": "gpt2", "eos_token_id": 7}')
    convert(other / "renamed.gguf", other / "out")
    assert folder_hash(tmp_path / "out") == folder_hash(other / "out")
    for file in (tmp_path / "out").glob("*.json"):
        assert str(tmp_path) not in file.read_text() and "transformers_version" not in file.read_text(), file.name


def tokens_of(folder, text):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"])


def test_special_tokens_stay_whole_and_texts_begin_as_the_file_says(tmp_path):
    for name in ("llama", "gemma3"):
        write_gguf(tmp_path / f"{name}.gguf", name)
        convert(tmp_path / f"{name}.gguf", tmp_path / name)
    assert tokens_of(tmp_path / "llama", "a the</s>") == ["a", "Ġthe", "</s>"]
    assert tokens_of(tmp_path / "gemma3", "a the</s>") == ["<s>", "a", "\u2581the", "</s>"]
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "llama")
    assert tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False) == "hi"
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == ("<s>", "</s>", "<pad>")


@pytest.mark.parametrize(("split", "tokens"), [("gpt-2", ["Ġ", "Ġ", "12"]), ("smollm", ["ĠĠ", "1", "2"])])
def test_texts_are_split_before_merging_as_the_file_says(split, tokens, tmp_path):
    write_gguf(tmp_path / "tiny.gguf", split=split)
    convert(tmp_path / "tiny.gguf", tmp_path / "out")
    assert tokens_of(tmp_path / "out", "a  12") == ["a", *tokens]


def refused(file, out):
    with pytest.raises(LofitError) as caught:
        convert(file, out)
    assert not out.exists() and not list(out.parent.glob(".*"))
    (line,) = str(caught.value).splitlines()
    assert line.startswith(f"{file}: ") and "expected" in line
    return line


def test_what_would_be_lost_is_refused(tmp_path):
    file = tmp_path / "tiny.gguf"
    cases = (
        ({"extra": ["rope_freqs.weight"]}, "holds 131,"),
        (
            {"more": [lambda writer: writer.add_rope_scaling_factor(8.0)]},
            "llama.rope.scaling.factor: got 8.0; expected a file without it",
        ),
        ({"more": [lambda writer: writer.add_expert_count(4)]}, "llama.expert_count: got 4"),
        ({"more": [lambda writer: writer.add_key_length(32)]}, "llama.attention.key_length: got 32; expected 16"),
        ({"split": "mpt"}, "tokenizer.ggml.pre: got 'mpt'; expected gpt-2"),
        ({"more": [lambda writer: writer.add_add_eos_token(True)]}, "tokenizer.ggml.add_eos_token: got true"),
    )
    for options, fault in cases:
        write_gguf(file, **options)
        assert fault.removesuffix("131,") in refused(file, tmp_path / "out")


def test_an_unknown_architecture_is_refused(tmp_path):
    import gguf

    file = tmp_path / "tiny.gguf"
    writer = gguf.GGUFWriter(file, "mamba")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    assert "got architecture 'mamba'; expected llama, qwen2, qwen3, gemma3" in refused(file, tmp_path / "out")


def test_a_file_that_is_cut_off_or_none_is_refused(tmp_path):
    file = tmp_path / "tiny.gguf"
    assert "no such file" in refused(file, tmp_path / "out")
    write_gguf(file)
    content = file.read_bytes()
    for length in (30, 2000, len(content) // 2, len(content) - 4):
        file.write_bytes(content[:length])
        assert "cut off or damaged" in refused(file, tmp_path / "out")
    for text in (b"", b"PK\x03\x04"):
        file.write_bytes(text)
        assert "expected a GGUF file" in refused(file, tmp_path / "out")


def test_without_the_package_the_extra_is_named(tmp_path, monkeypatch):
    write_gguf(tmp_path / "tiny.gguf")
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    with pytest.raises(LofitError, match=r"GGUF files need more packages; run pip install 'lofit\[models\]'"):
        convert(tmp_path / "tiny.gguf", tmp_path / "out")
