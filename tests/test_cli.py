"""The command `lofit`: what it prints, writes and refuses."""

import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, Qwen2Config, Qwen3Config, Qwen3ForCausalLM
from transformers.utils.logging import disable_progress_bar

from lofit import HeadAdapter, LofitError, cli, head_layout
from lofit.adapters.answer_heads import AnswerHeadAdapter
from lofit.adapters.peft import PeftAdapter
from lofit.adapters.provenance import Provenance
from lofit.adapters.stream import StreamAdapter
from lofit.adapters.subspace import SubspaceAdapter
from lofit.adapters.weights import WeightsAdapter
from lofit.cli.export import export
from lofit.cli.generate import generate, show_texts
from lofit.cli.inspect import pattern
from lofit.export.merge import home_for
from lofit.models import generation
from lofit.models.chat import chat_prompt
from lofit.models.identity import folder_hash

ROOT = Path(__file__).parents[1]
OPTIONS = ((), ("--chat-options", '{"loud": false}'), ("--chat-options", '{"loud": true}'))
TEMPLATE = "{% for turn in messages %}[INST] {{ turn.content }} [/INST]{% endfor %}"


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    yield
    disable_progress_bar()


@pytest.fixture
def folder(tmp_path, model, make_tokenizer):
    """A model with a tokenizer that knows how to chat, called `tiny`."""
    tokenizer = make_tokenizer()
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(tmp_path / "tiny")
    model.save_pretrained(tmp_path / "tiny")
    return tmp_path / "tiny"


@pytest.fixture
def adapter(tmp_path):
    """Offsets that change what `tiny` writes, in a folder called `tuned`."""
    torch.manual_seed(0)
    edits = HeadAdapter([(0, 1), (1, 2)], offsets=10 * torch.randn(2, 8))
    edits.save_pretrained(tmp_path / "tuned")
    return edits


@pytest.fixture
def lofit(capsys):
    """Run the command and return what it printed; with `fails`, the faults that it printed."""

    def run(*arguments, fails=False):
        with pytest.raises(SystemExit) as ended:
            cli.main([str(argument) for argument in arguments])
        if not fails:
            assert ended.value.code in (0, None)
            return capsys.readouterr().out
        assert isinstance(ended.value.code, str), capsys.readouterr().err
        faults = ended.value.code.splitlines()
        assert faults and all(line.startswith("error: ") for line in faults)
        return ended.value.code

    return run


# ------------------------------------------------------------------------------------------------------------- start


def test_help_answers_without_torch():
    script = (
        "import sys; from lofit import cli\ntry: cli.main(sys.argv[1:])\nfinally: assert 'torch' not in sys.modules"
    )
    for arguments, printed in ((["--help"], "inspect"), (["generate", "--help"], "--adapter")):
        done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, cwd=ROOT)
        assert done.returncode == 0 and printed in done.stdout, done.stderr


def test_version_is_that_of_the_installed_package(lofit, monkeypatch):
    monkeypatch.setattr("lofit.cli.app.version", {"lofit": "1.2.3"}.__getitem__)
    assert lofit("--version") == "1.2.3\n"


def test_a_fault_is_a_line_on_stderr_and_exit_status_1():
    command = [sys.executable, "-m", "lofit.cli", "import", "heads.npy", "out"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: heads.npy") and done.stderr.count("\n") == 1


# ----------------------------------------------------------------------------------------------------------- inspect


def test_inspect_counts_heads_and_parameters_from_the_config_alone(lofit):
    LlamaConfig(num_hidden_layers=32, num_attention_heads=32, hidden_size=4096).save_pretrained("llama")
    words = table(lofit("inspect", "llama"))
    assert words["architecture"] == ["LlamaForCausalLM"]
    assert words["layers with heads"] == ["32"]
    assert words["heads"] == ["1,024, 32 in each layer"]
    assert words["head_dim"] == ["128"]
    assert words["output projections"] == ["model.layers.{0..31}.self_attn.o_proj"]
    assert words["step 1, scales"] == ["1,024", "131,072"]
    shares = {"1": ["10", "1,280"], "3": ["31", "3,968"], "5": ["51", "6,528"], "10": ["102", "13,056"]}
    shares["20"] = ["205", "26,240"]
    assert {share: words[f"step 2, offsets of {share} %"] for share in shares} == shares
    # r x (in + out) at two projections of each of 32 layers.
    assert words["LoRA r=8 on q and v"] == [f"{8 * (4096 + 4096) * 2 * 32:,}"]


def test_lora_counts_the_narrower_projections_of_grouped_queries(lofit):
    shape = {"num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2}
    LlamaConfig(**shape, hidden_size=32, head_dim=16).save_pretrained("llama")
    words = table(lofit("inspect", "llama"))
    assert words["LoRA r=8 on q and v"] == [f"{8 * ((32 + 64) + (32 + 32)) * 3:,}"]
    assert words["step 2, offsets of 1 %"] == ["1", "16"]


def test_inspect_leaves_lora_out_where_q_and_v_are_one_module(lofit):
    GPT2Config().save_pretrained("gpt2")
    printed = lofit("inspect", "gpt2")
    assert table(printed)["output projections"] == ["transformer.h.{0..11}.attn.c_proj"]
    assert "LoRA r=" not in printed


def test_inspect_takes_the_name_of_the_projection(lofit):
    LlamaConfig(num_hidden_layers=2).save_pretrained("llama")
    assert table(lofit("inspect", "llama", "--projection", "o_proj")) == table(lofit("inspect", "llama"))
    assert "error: " in lofit("inspect", "llama", "--projection", "nonesuch", fails=True)


def test_inspect_is_plain_in_a_file_and_folds_what_is_too_long(lofit, monkeypatch):
    GPT2Config().save_pretrained("gpt2")
    monkeypatch.setenv("COLUMNS", "40")
    printed = lofit("inspect", "gpt2")
    assert printed.isascii() and "\x1b" not in printed
    assert "transformer.h.{0..11}.attn.c_proj" in "".join(printed.split())


@pytest.mark.parametrize(
    ("names", "short"),
    [
        (("a.0.o", "a.1.o", "a.2.o"), "a.{0..2}.o"),
        (("a.3.o", "a.7.o"), "a.{3,7}.o"),
        (("a.9.o", "a.10.o"), "a.{9..10}.o"),
        (("a.0.x.o", "a.1.y.o"), "a.{0..1}.{x,y}.o"),
        (("a.0.o",), "a.0.o"),
    ],
)
def test_module_names_in_one(names, short):
    assert pattern(names) == short


def test_inspect_refuses_what_is_no_model(lofit, tmp_path):
    assert "; expected a folder with a model, or a model id" in lofit("inspect", "no model/at all", fails=True)
    assert "cannot be loaded" in lofit("inspect", tmp_path, fails=True)
    assert "expected once `dvc repro base_model`" in lofit("inspect", "demo", fails=True)
    assert "revision: got 'v1'" in lofit("inspect", tmp_path, "--revision", "v1", fails=True)


def test_demo_is_the_model_that_the_pipeline_has_trained(lofit):
    LlamaConfig(num_hidden_layers=5).save_pretrained("artifacts/demo/model")
    assert table(lofit("inspect", "demo"))["layers with heads"] == ["5"]


def test_inspect_says_what_becomes_of_an_offset_elsewhere(lofit, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    shape = {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 64}
    Qwen3Config(**shape, head_dim=16, num_hidden_layers=2).save_pretrained("qwen3")
    Qwen2Config(**shape, num_hidden_layers=2).save_pretrained("qwen2")
    refused = " refuses, see below$"
    for name, wanted in (
        ("qwen3", {"transformers": "keeps: .* --to hf$", "vllm": f"drops: .*{refused}", "llama.cpp": refused}),
        (
            "qwen2",
            {"transformers": r" --to hf \(relabelled as a Llama\)$", "vllm": "--engine vllm", "peft": " --to peft$"},
        ),
    ):
        lines = [line.rstrip() for line in lofit("inspect", name).splitlines() if line.strip()]
        rows = {line.split()[0]: line for line in reversed(lines)}
        for engine, end in wanted.items():
            assert re.search(end, rows[engine]), rows[engine]


# ---------------------------------------------------------------------------------------------------------- generate


def test_generate_continues_without_and_with_the_adapter(lofit, folder, adapter, model, tokenizer):
    prompts = ["Q: Can pigs fly?", "the cat"]
    printed = lofit("generate", *prompts, "--model", folder, "--adapter", "tuned", "--max-new-tokens", 5)
    without = generation.generate(model, tokenizer, prompts, batch_size=1, max_new_tokens=5)
    with adapter.attach(model):
        tuned = generation.generate(model, tokenizer, prompts, batch_size=1, max_new_tokens=5)
    assert without != tuned
    blocks = (
        f"prompt: {prompt}\n{folder}: {base}\n{folder} with tuned: {edited}\n\n"
        for prompt, base, edited in zip(prompts, without, tuned, strict=True)
    )
    assert printed == "".join(blocks)


def test_generate_needs_no_adapter(lofit, folder, model, tokenizer):
    (text,) = generation.generate(model, tokenizer, ["the cat"], batch_size=1, max_new_tokens=32)
    assert lofit("generate", "the cat", "--model", folder) == f"prompt: the cat\n{folder}: {text}\n\n"


def test_generate_asks_in_the_chat_template(lofit, folder, model, make_tokenizer):
    tokenizer = make_tokenizer()
    tokenizer.chat_template = TEMPLATE
    asked = chat_prompt(tokenizer, [{"role": "user", "content": "the cat"}])
    assert asked == "[INST] the cat [/INST]"
    chat, plain = (
        generation.generate(model, tokenizer, [text], batch_size=1, max_new_tokens=8)[0] for text in (asked, "the cat")
    )
    assert chat != plain
    printed = lofit("generate", "the cat", "--model", folder, "--chat", "--max-new-tokens", 8)
    assert printed == f"prompt: the cat\n{folder}: {chat}\n\n"


def test_generate_loads_the_weights_in_the_dtype_asked_for(lofit, folder, monkeypatch):
    seen = []
    monkeypatch.setattr(generation, "generate", lambda model, *_, **__: [seen.append(model.dtype) or "text"])
    lofit("generate", "a", "--model", folder)
    lofit("generate", "a", "--model", folder, "--dtype", "bfloat16")
    assert seen == [torch.float32, torch.bfloat16]


def test_options_of_a_chat_reach_its_template(lofit, folder):
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}{% if loud %}!{% endif %}")
    words = {options: lofit("generate", "Q", "--model", folder, "--chat", *options) for options in OPTIONS}
    assert len(set(words.values())) == 2 and words[()] == words["--chat-options", '{"loud": false}']
    for text in ("loud", "[1]"):
        said = lofit("generate", "Q", "--model", folder, "--chat", "--chat-options", text, fails=True)
        assert said.startswith(f"error: --chat-options: got {text!r}") and "expected a JSON object" in said


def test_generate_refuses_to_chat_without_a_template(lofit, folder):
    (folder / "chat_template.jinja").unlink()
    assert "no chat template" in lofit("generate", "a", "--model", folder, "--chat", fails=True)


def test_in_a_terminal_the_continuations_stand_side_by_side(capsys, monkeypatch):
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "40")
    show_texts(["[b]fly?"], {"base": [" [red]no[/red]"], "tuned": ["\nyes " + "and yes " * 5]})
    lines = [line.rstrip() for line in plain(capsys.readouterr().out).splitlines()]
    assert lines[0] == "[b]fly?"
    assert lines[1].split() == ["base", "tuned"]
    assert lines[2].startswith(" [red]no[/red]") and "yes and yes" in lines[2]
    assert "and yes" in lines[3] and max(map(len, lines)) <= 40


def test_generate_refuses_an_adapter_of_another_model(lofit, folder):
    HeadAdapter([(7, 1)], offsets=torch.ones(1, 8)).save_pretrained("high")
    HeadAdapter([(0, 1)], offsets=torch.ones(1, 9)).save_pretrained("wide")
    options = ("generate", "a", "--model", folder, "--adapter")
    assert "adapter head (7, 1) is not in the model" in lofit(*options, "high", fails=True)
    assert "adapter vectors have 9 numbers; expected the model's 8" in lofit(*options, "wide", fails=True)
    assert "not an adapter (no format_version)" in lofit(*options, folder, fails=True)


def of_kind(kind, model):
    """An adapter of this kind that changes what `tiny` writes."""
    torch.manual_seed(0)
    match kind:
        case "heads":
            return HeadAdapter([(0, 1), (1, 2)], offsets=10 * torch.randn(2, 8))
        case "answer_heads":
            return AnswerHeadAdapter([(0, 1), (0, 2)], 2 * torch.randn(2, 8))
        case "stream":
            return StreamAdapter([1], 10 * torch.randn(1, 32))
        case "subspace":
            basis = torch.linalg.qr(torch.randn(32, 4)).Q.T[None, None]
            return SubspaceAdapter([0], basis, torch.randn(1, 1, 4, 32), torch.randn(1, 1, 4), first=1, last=2)
        case "peft":
            config = {"peft_type": "LORA", "target_modules": ["q_proj", "v_proj"]}
            adapter = PeftAdapter.fresh(model, config, seed=0)
        case "weights":
            adapter = WeightsAdapter.fresh(model)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(torch.randn_like(parameter))
    return adapter


@pytest.mark.parametrize("kind", ["answer_heads", "stream", "subspace", "peft", "weights"])
def test_generate_takes_an_adapter_of_any_kind(lofit, folder, model, tokenizer, kind):
    edits = of_kind(kind, model)
    edits.save_pretrained("tuned")
    # Of two lengths, so that one is padded.
    prompts = ["Q: Can pigs fly?", "the cat"]
    printed = lofit("generate", *prompts, "--model", folder, "--adapter", "tuned", "--max-new-tokens", 5)
    without = generation.generate(model, tokenizer, prompts, batch_size=1, max_new_tokens=5)
    with edits.attach(model):
        tuned = [
            generation.generate(model, tokenizer, [prompt], batch_size=1, max_new_tokens=5, reading=edits.reader)[0]
            for prompt in prompts
        ]
    if kind == "answer_heads":
        # Else a command that does not say where the prompts are would pass, too.
        with edits.attach(model):
            assert tuned != generation.generate(model, tokenizer, prompts, batch_size=1, max_new_tokens=5)
    assert without != tuned
    shown = re.findall("with tuned: (.*?)\n\n", printed, re.DOTALL)
    assert shown == tuned


# ------------------------------------------------------------------------------------------------------------ export


@pytest.fixture
def release(folder, model):
    """An adapter that names its base model, in a folder called `release`."""
    provenance = Provenance.made_now("tiny", folder_hash(folder), head_layout(model), training={"task": "cats"})
    edits = HeadAdapter([(0, 1), (1, 2)], offsets=torch.ones(2, 8), provenance=provenance)
    edits.save_pretrained("release")
    return edits


@pytest.mark.parametrize("kind", ["hf", "peft"])
def test_export_writes_what_loads_without_us_and_says_how_far_it_is_off(lofit, release, model, kind):
    ids = torch.tensor([[5, 17, 40]])
    with release.attach(model):
        wanted = model(ids).logits
    printed = lofit("export", "release", "out", "--to", kind)
    assert re.fullmatch(
        r"out: read back by transformers \S+ in a process without lofit: largest difference of a logit \S+, beside an "
        r"effect of \S+ \(float32\)\n",
        printed,
    )
    torch.testing.assert_close(AutoModelForCausalLM.from_pretrained("out")(ids).logits, wanted, rtol=1e-4, atol=1e-5)
    card = ModelCard.load("out/README.md")
    assert (
        "| base model | tiny |" in card.text and card.data.library_name == {"hf": "transformers", "peft": "peft"}[kind]
    )
    assert "largest effect of the adapter on a logit" in card.text
    assert sorted(path.name for path in Path().iterdir()) == ["out", "release", "tiny"]


def named(kind, model, folder):
    """An adapter of this kind that names its base model, in a folder called `release`."""
    edits = of_kind(kind, model)
    edits.provenance = Provenance.made_now("tiny", folder_hash(folder), head_layout(model), training={"task": "cats"})
    edits.save_pretrained("release")
    return edits


def test_all_weights_are_exported_as_a_checkpoint(lofit, folder, model):
    edits = named("weights", model, folder)
    ids = torch.tensor([[5, 17, 40]])
    with edits.attach(model):
        wanted = model(ids).logits
    assert "in a process without lofit" in lofit("export", "release", "out", "--to", "hf")
    assert torch.equal(AutoModelForCausalLM.from_pretrained("out")(ids).logits, wanted)
    assert not torch.equal(model(ids).logits, wanted)
    card = ModelCard.load("out/README.md").text
    assert "A model adapted by fine-tuning of all its weights.\n" in card and "LoFiT" not in card
    said = lofit("export", "release", "half", "--to", "hf", "--dtype", "bfloat16", fails=True)
    assert "got torch.bfloat16; expected a float32 model" in said and not Path("half").exists()


REFUSED = {
    "peft": "got one of kind peft, whose folder is a PEFT adapter as it is; expected peft.PeftModel.from_pretrained",
    "answer_heads": "got one of kind answer_heads, which runs in lofit alone",
    "subspace": "got one of kind subspace, which runs in lofit alone",
}


@pytest.mark.parametrize("to", ["hf", "peft", "peft-lora"])
@pytest.mark.parametrize("kind", REFUSED)
def test_kinds_without_an_export_are_refused_in_a_line(lofit, folder, model, kind, to):
    named(kind, model, folder)
    said = lofit("export", "release", "out", "--to", to, fails=True)
    assert said.startswith(f"error: adapter: {REFUSED[kind]}") and "\n" not in said
    assert not Path("out").exists()


def test_the_folder_of_a_peft_row_is_read_by_peft(folder, model):
    edits = named("peft", model, folder)
    ids = torch.tensor([[5, 17, 40]])
    with edits.attach(model):
        wanted = model(ids).logits
    read = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("tiny"), "release")
    torch.testing.assert_close(read(ids).logits, wanted)
    torch.testing.assert_close(read.merge_and_unload()(ids).logits, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["heads", "answer_heads", "stream", "subspace", "peft", "weights"])
def test_what_serves_a_kind_is_what_export_does_with_it(model, kind):
    edits = of_kind(kind, model)
    if edits.served_as in (None, "PEFT"):
        with pytest.raises(LofitError, match="adapter: got one of kind"):
            home_for(model, edits, head_layout(model))
        return
    home = home_for(model, edits, head_layout(model))
    assert edits.served_as == ("checkpoint" if kind == "weights" else f"{home.place} bias")


@pytest.fixture
def exported(monkeypatch):
    """The base models and adapters that exports are made of, which nothing is written of."""
    bases = []
    monkeypatch.setattr(
        "lofit.export.checkpoint.export_checkpoint", lambda base, *_, **__: bases.append(base) or "done"
    )
    return bases


def test_a_base_that_is_not_the_one_trained_on_is_refused_unless_it_is_named(
    lofit, release, folder, exported, monkeypatch
):
    (folder / "notes.txt").write_text("changed")
    fault = lofit("export", "release", "out", "--to", "hf", fails=True)
    assert re.search(
        r"release: made from tiny at \w{12}, got \w{12}; expected that one, or --model tiny to use it all the same$",
        fault,
    )
    assert not exported


WARNING = r"warning: tiny is at \w{12}, and the adapter was trained at \w{12}; its scores are those of the latter\n"


def test_a_base_that_is_named_is_used_with_a_warning(release, folder, exported, capsys):
    export("release", Path("out"), to="hf", model="tiny")
    assert capsys.readouterr().err == ""
    (folder / "notes.txt").write_text("changed")
    export("release", Path("out"), to="hf", model="tiny")
    assert re.fullmatch(WARNING, capsys.readouterr().err) and len(exported) == 2


def test_a_revision_that_is_named_is_used_with_a_warning(release, exported, capsys, monkeypatch):
    release.provenance = release.provenance.model_copy(update={"base_model": "me/tiny", "base_revision": "c" * 40})
    release.save_pretrained("release")
    base = SimpleNamespace(name="me/tiny", source="me/tiny", revision="d" * 40)
    monkeypatch.setattr("lofit.models.base.resolve", lambda *_, **__: base)
    export("release", Path("out"), to="hf", revision="main")
    assert "warning: me/tiny is at dddddddddddd, and" in capsys.readouterr().err and exported == [base]


def test_generate_warns_of_a_base_that_is_not_the_one_trained_on(release, folder, capsys, monkeypatch):
    monkeypatch.setattr(generation, "generate", lambda *_, **__: ["text"])
    generate(["a"], model="tiny", adapter="release")
    assert capsys.readouterr().err == ""
    (folder / "notes.txt").write_text("changed")
    generate(["a"], model="tiny", adapter="release")
    assert re.fullmatch(WARNING, capsys.readouterr().err)


@pytest.mark.parametrize("named", ["tiny", "demo", "data/models/tiny"])
def test_a_relative_base_is_found_from_another_folder(release, folder, exported, tmp_path, monkeypatch, named):
    """The adapter is deep in a project, whose model is named from the project's root."""
    place = Path("project", "artifacts/demo/model" if named == "demo" else named)
    place.parent.mkdir(parents=True)
    folder.rename(place)
    release.provenance = release.provenance.model_copy(update={"base_model": named})
    release.save_pretrained("project/artifacts/release/x")
    export("project/artifacts/release/x", Path("out"), to="hf")
    monkeypatch.chdir("project")
    export("artifacts/release/x", Path("out"), to="hf")
    away, here = exported
    assert Path(away.source) == tmp_path / place and away.name == here.name == here.source == str(
        place.relative_to("project")
    )


@pytest.mark.parametrize(
    ("named", "revision"),
    [("data/tiny", "e" * 64), ("tiny", "e" * 64), ("demo", None), ("./data/tiny", None), ("/models/tiny", None)],
)
def test_a_base_that_was_a_folder_is_not_looked_for_on_the_hub(lofit, release, monkeypatch, named, revision):
    Path("tiny").rename("elsewhere")
    monkeypatch.setattr("lofit.models.base.commit", lambda *_: pytest.fail("the hub was asked"))
    release.provenance = release.provenance.model_copy(update={"base_model": named, "base_revision": revision})
    release.save_pretrained("release")
    fault = lofit("export", "release", "out", "--to", "hf", fails=True)
    path = "artifacts/demo/model" if named == "demo" else named
    expected = f"its base model is the folder {path}, which is not here; expected --model with where it is now"
    assert fault == f"error: release: {expected}"


def test_a_base_of_unknown_revision_that_is_nowhere_is_asked_of_the_hub(release, monkeypatch):
    release.provenance = release.provenance.model_copy(update={"base_model": "me/tiny", "base_revision": None})
    release.save_pretrained("release")
    monkeypatch.setattr("lofit.models.base.commit", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export("release", Path("out"), to="hf")


def test_export_keeps_to_the_commit_that_the_adapter_was_trained_at(release, monkeypatch):
    release.provenance = release.provenance.model_copy(update={"base_model": "me/tiny", "base_revision": "c" * 40})
    release.save_pretrained("release")
    asked = []
    monkeypatch.setattr("lofit.models.base.commit", lambda source, revision: asked.append((source, revision)) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export("release", Path("out"), to="hf")
    assert asked == [("me/tiny", "c" * 40)]


def test_export_refuses_before_anything_is_loaded(lofit, adapter, monkeypatch):
    Path("taken").mkdir()
    Path("taken/file").write_text("mine")
    assert "taken: got a folder that is not empty; expected" in lofit(
        "export", "tuned", "taken", "--to", "hf", fails=True
    )
    assert "file: got a file" in lofit("export", "tuned", "taken/file", "--to", "peft", fails=True)
    assert "tuned: names no base model; expected --model" in lofit("export", "tuned", "out", "--to", "hf", fails=True)
    options = ("--to", "peft", "--engine", "vllm")
    assert "--engine: got vllm; expected with --to peft" in lofit("export", "tuned", "out", *options, fails=True)
    assert Path("taken/file").read_text() == "mine" and not Path("out").exists()


def test_export_with_force_replaces_exports_and_nothing_else(lofit, release, folder):
    fault = lofit("export", "release", "tiny", "--to", "peft", "--force", fails=True)
    assert "tiny: got a folder that no export has written" in fault
    Path("home/docs").mkdir(parents=True)
    Path("home/README.md").write_text("---\ntags:\n- lofit\n---\n")
    assert "no export has written" in lofit("export", "release", "home", "--to", "peft", "--force", fails=True)
    assert "release: got the place of release" in lofit(
        "export", "release", "release", "--to", "peft", "--force", fails=True
    )
    before = snapshot("release")
    Path("out").mkdir()
    Path("out/README.md").write_text("---\nlibrary_name: peft\ntags:\n- lofit\n---\nold")
    lofit("export", "release", "out", "--to", "peft", "--force")
    assert Path("out/adapter_config.json").exists() and snapshot("release") == before


def test_export_leaves_nothing_where_the_engine_would_lose_the_edit(lofit, tmp_path, make_tokenizer, adapter):
    shape = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    Qwen3ForCausalLM(Qwen3Config(**shape, head_dim=8, num_key_value_heads=2, vocab_size=320)).save_pretrained("qwen")
    make_tokenizer().save_pretrained("qwen")
    fault = lofit("export", "tuned", "out", "--to", "hf", "--model", "qwen", "--engine", "vllm", fails=True)
    assert "vllm" in fault and "drops" in fault and "lofit export --to peft" in fault and "\n" not in fault
    assert sorted(path.name for path in Path().iterdir()) == ["qwen", "tuned"]


def test_export_drops_what_does_not_come_back_the_same(lofit, release, monkeypatch):
    """A merge that forgets the offsets writes a checkpoint that loads without a warning: the base model's."""
    monkeypatch.setattr("lofit.export.checkpoint.fold", lambda model, *_: model)
    fault = lofit("export", "release", "out", "--to", "hf", fails=True)
    assert re.search(r"differs from the model with the adapter attached by \S+ in a logit, where .* effect is", fault)
    assert sorted(path.name for path in Path().iterdir()) == ["release", "tiny"]


# ------------------------------------------------------------------------------------------------------------ import


@pytest.fixture
def checkpoint(tmp_path, model):
    """A checkpoint of the published code: offsets at two heads, scales at none."""
    weights = {f"model.layers.{layer}.self_attn.attn_A.{head}": torch.zeros(8) for layer in (0, 1) for head in range(4)}
    weights |= {name.replace("attn_A", "attn_v"): torch.zeros(8) for name in weights}
    weights["model.layers.0.self_attn.attn_v.3"] = torch.full((8,), 0.5)
    weights["model.layers.1.self_attn.attn_v.0"] = torch.full((8,), -2.0)
    (tmp_path / "published").mkdir()
    save_file(weights, tmp_path / "published" / "model.safetensors")
    (tmp_path / "published" / "config.json").write_text(json.dumps({"_name_or_path": "someone/llama"}))
    return tmp_path / "published"


def test_import_writes_an_adapter_and_says_how_to_use_it(lofit, checkpoint):
    printed = lofit("import", checkpoint, "imported")
    assert "imported: offsets of 2 heads in 2 layers, 8 numbers each, 16 in all" in printed
    assert 'lofit generate "..." --model someone/llama --adapter imported' in printed
    adapter = HeadAdapter.from_pretrained("imported")
    assert adapter.heads == [(0, 3), (1, 0)] and adapter.offsets[:, 0].tolist() == [0.5, -2.0]
    assert json.loads(Path("imported/config.json").read_text())["base_model"] == "someone/llama"


def test_import_does_not_overwrite_unless_told_to(lofit, checkpoint):
    Path("mine").mkdir()
    lofit("import", checkpoint, "mine")
    Path("mine/notes.txt").write_text("kept")
    before = snapshot("mine")
    assert "not empty; expected a new or empty one, or --force" in lofit("import", checkpoint, "mine", fails=True)
    assert snapshot("mine") == before
    save_file({"model.layers.0.self_attn.attn_v.1": torch.ones(8)}, "other.safetensors")
    lofit("import", "other.safetensors", "mine", "--force")
    assert HeadAdapter.from_pretrained("mine").heads == [(0, 1)] and Path("mine/notes.txt").read_text() == "kept"


def test_import_finds_offsets_that_are_baked_in_once_it_knows_the_base(lofit, folder, model):
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    projection = weights["model.layers.1.self_attn.o_proj.weight"]
    weights["model.layers.1.self_attn.o_proj.bias"] = projection[:, 16:24].sum(dim=1)
    Path("baked").mkdir()
    save_file(weights, "baked/model.safetensors")
    assert "expected --base with the unedited model" in lofit("import", "baked", "out", fails=True)
    printed = lofit("import", "baked", "out", "--base", "tiny")
    assert "out: offsets of 1 heads in 1 layers, 8 numbers each, 8 in all" in printed
    assert 'lofit generate "..." --model tiny --adapter out' in printed
    adapter = HeadAdapter.from_pretrained("out")
    assert adapter.heads == [(1, 2)] and adapter.offsets[0].tolist() == pytest.approx([1] * 8, abs=1e-5)
    assert adapter.provenance.base_revision == folder_hash(folder)


@pytest.mark.parametrize("part", ["", "model.safetensors"])
def test_import_never_overwrites_the_checkpoint_itself(lofit, checkpoint, part):
    before = snapshot(checkpoint)
    fault = lofit("import", checkpoint / part, checkpoint, "--force", fails=True)
    assert "the folder of the checkpoint itself" in fault and snapshot(checkpoint) == before


def test_import_refuses_a_file_in_the_way(lofit, checkpoint):
    Path("out").write_text("")
    assert "got a file" in lofit("import", checkpoint, "out", "--force", fails=True)


def test_a_fault_of_the_checkpoint_leaves_nothing_behind(lofit, checkpoint):
    weights = load_file(checkpoint / "model.safetensors")
    weights["model.layers.1.self_attn.attn_v.0"][3] = float("nan")
    save_file(weights, checkpoint / "model.safetensors")
    assert "NaN" in lofit("import", checkpoint, "out", fails=True)
    assert not Path("out").exists()


def test_a_list_of_heads_goes_elsewhere(lofit):
    np.save("heads.npy", np.array([[0, 1]]))
    assert "below tasks.<task>.select_heads" in lofit("import", "heads.npy", "out", fails=True)


# ----------------------------------------------------------------------------------------------------------- helpers


def table(printed):
    """The columns of each printed line, parted by three blanks, by the first of them."""
    rows = ([part.strip() for part in line.split("   ") if part.strip()] for line in printed.splitlines())
    return {row[0]: row[1:] for row in rows if row}


def snapshot(folder):
    return {file.name: file.read_bytes() for file in Path(folder).iterdir()}


def plain(text):
    """`text` without the terminal's control sequences."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)
