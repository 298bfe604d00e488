"""The folder of an adapter: what it says, that it is stable to the byte, and what is refused."""

import json

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file

from lofit import HeadAdapter, LofitError, head_layout
from lofit.adapters.provenance import Provenance, common_end

HEADS = [(1, 2), (0, 3), (0, 1)]
FILES = ("README.md", "config.json", "model.safetensors")
PROVENANCE = Provenance(
    base_model="someone/llama",
    base_revision="c" * 40,
    target_module="self_attn.o_proj",
    num_layers=2,
    num_heads=4,
    training={"task": "mquake", "seed": 42, "parameters": {"lr": 0.05}},
    metrics={"test/exact_match_clean": 0.75, "test/loss": 1},
    libraries={"lofit": "0.1.0"},
)


def adapter(**changes):
    vectors = {"offsets": torch.arange(24.0).view(3, 8), **changes}
    return HeadAdapter(HEADS, **vectors, provenance=PROVENANCE)


@pytest.mark.parametrize("names", [("scales",), ("offsets",), ("scales", "offsets"), ()])
@pytest.mark.parametrize("provenance", [PROVENANCE, None])
def test_saving_loading_and_saving_again_gives_the_same_bytes(model, tmp_path, names, provenance):
    heads = HEADS if names else []
    first = HeadAdapter(heads, **{name: torch.randn(3, 8) for name in names}, provenance=provenance)
    first.save_pretrained(tmp_path / "first")
    loaded = HeadAdapter.from_pretrained(tmp_path / "first")
    loaded.save_pretrained(tmp_path / "second")
    assert sorted(file.name for file in (tmp_path / "first").iterdir()) == sorted(FILES)
    for file in FILES:
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "second" / file).read_bytes()
    assert loaded.heads == sorted(heads)
    assert loaded.provenance == first.provenance
    assert torch.equal(logits(model, loaded), logits(model, first))


def test_the_config_says_what_is_in_the_folder(tmp_path):
    adapter().save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text()) == {
        "format_version": 3,
        "kind": "heads",
        "base_model": "someone/llama",
        "base_revision": "c" * 40,
        "target_module": "self_attn.o_proj",
        "num_layers": 2,
        "num_heads": 4,
        "training": {"task": "mquake", "seed": 42, "parameters": {"lr": 0.05}},
        "metrics": {"test/exact_match_clean": 0.75, "test/loss": 1.0},
        "libraries": {"lofit": "0.1.0"},
        "head_dim": 8,
        "vectors": ["offsets"],
        "heads": [{"layer": 0, "head": 1}, {"layer": 0, "head": 3}, {"layer": 1, "head": 2}],
    }
    saved = load_file(tmp_path / "model.safetensors")
    assert list(saved) == ["offsets"]
    assert torch.equal(saved["offsets"], torch.arange(24.0).view(3, 8).flip(0))


def test_the_card_is_one_that_the_hub_reads(tmp_path):
    adapter(scales=torch.ones(3, 8)).save_pretrained(tmp_path)
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.base_model == "someone/llama" and card.data.base_model_relation == "adapter"
    assert card.data.library_name == "lofit" and card.data.datasets == ["mquake"]
    assert card.data.metrics == ["exact_match_clean", "loss"]
    assert [(result.metric_type, result.metric_value) for result in card.data.eval_results] == [
        ("exact_match_clean", 0.75),
        ("loss", 1.0),
    ]
    assert 'from_pretrained("someone/llama", revision="' + "c" * 40 in card.text
    assert all(way in card.text for way in ("adapter.attach(model)", "--to hf", "--to peft"))
    local = PROVENANCE.model_copy(update={"base_model": "demo", "base_revision": "c" * 64})
    HeadAdapter(HEADS, torch.ones(3, 8), provenance=local).save_pretrained(tmp_path / "local")
    assert ModelCard.load(tmp_path / "local" / "README.md").data.base_model is None
    norm = torch.arange(16.0, 24.0).norm().item()
    assert f"| 0 | 1 | {8**0.5:.4g} | {norm:.4g} |" in card.text


def test_an_adapter_of_unknown_origin_has_a_card_too(tmp_path):
    HeadAdapter(HEADS, torch.ones(3, 8)).save_pretrained(tmp_path)
    front = (tmp_path / "README.md").read_text().split("---\n")[1]
    assert yaml.safe_load(front) == {"library_name": "lofit", "tags": ["lofit"]}


def test_computed_vectors_can_be_saved(tmp_path):
    HeadAdapter(HEADS, torch.ones(3, 8, requires_grad=True) * 2).save_pretrained(tmp_path)
    assert HeadAdapter.from_pretrained(tmp_path).offsets.tolist() == [[2.0] * 8] * 3


def test_a_folder_of_format_1_still_loads(tmp_path):
    save_file({"offsets": torch.arange(16.0).view(2, 8)}, tmp_path / "model.safetensors")
    old = {"format_version": 1, "head_dim": 8, "heads": [[0, 1], [1, 2]], "vectors": ["offsets"]}
    (tmp_path / "config.json").write_text(
        json.dumps({**old, "base_model": "someone/llama", "base_revision": "abc", "task": "mquake", "seed": 42})
    )
    loaded = HeadAdapter.from_pretrained(tmp_path)
    assert loaded.heads == [(0, 1), (1, 2)]
    assert torch.equal(loaded.offsets, torch.arange(16.0).view(2, 8))
    assert (loaded.provenance.base_model, loaded.provenance.base_revision) == ("someone/llama", "abc")
    assert loaded.provenance.training == {"task": "mquake", "seed": 42}


def test_a_folder_between_two_adapters_is_none(tmp_path, monkeypatch):
    adapter().save_pretrained(tmp_path)

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("lofit.adapters.folder.adapter_card", killed)
    with pytest.raises(KeyboardInterrupt):
        HeadAdapter([(0, 0), (0, 2), (1, 1)], torch.ones(3, 8)).save_pretrained(tmp_path)
    with pytest.raises(LofitError, match=r"config\.json: no such file"):
        HeadAdapter.from_pretrained(tmp_path)


def test_an_unknown_option_is_no_fact(tmp_path):
    with pytest.raises(TypeError, match="save_pretrained: got base_model"):
        adapter().save_pretrained(tmp_path, base_model="org/x")


def test_what_json_cannot_hold_leaves_the_folder_as_it_was(tmp_path):
    adapter().save_pretrained(tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    wrong = HeadAdapter(HEADS, torch.ones(3, 8), provenance=Provenance(training={"loss": float("nan")}))
    with pytest.raises(LofitError, match="JSON cannot hold"):
        wrong.save_pretrained(tmp_path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_pushing_uploads_exactly_the_three_files(monkeypatch, tmp_path):
    uploaded = {}

    class Api:
        def __init__(self, token=None):
            assert token == "secret"

        def create_repo(self, repo_id, **_):
            return type("Repo", (), {"repo_id": f"me/{repo_id}"})

        def upload_folder(self, *, repo_id, folder_path, **_):
            uploaded[repo_id] = {file.name: file.read_bytes() for file in folder_path.iterdir()}
            return "address"

    monkeypatch.setattr("huggingface_hub.hub_mixin.HfApi", Api)
    assert adapter().push_to_hub("tuned", token="secret") == "address"
    assert (
        adapter().save_pretrained(tmp_path / "tuned too", push_to_hub=True, repo_id="two", token="secret") == "address"
    )
    assert uploaded["me/tuned"] == {file: (tmp_path / "tuned too" / file).read_bytes() for file in FILES}
    assert uploaded["me/two"] == uploaded["me/tuned"]


def test_a_hub_id_is_fetched_at_the_revision_asked_for(monkeypatch, tmp_path):
    adapter().save_pretrained(tmp_path / "cached")
    asked = {}

    def snapshot_download(hub_id, **options):
        asked[hub_id] = options
        return str(tmp_path / "cached")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    monkeypatch.chdir(tmp_path)
    assert HeadAdapter.from_pretrained("me/tuned", revision="v1").heads == sorted(HEADS)
    files = ["config.json", "model.safetensors", "adapter_model.safetensors"]
    assert asked == {"me/tuned": {"allow_patterns": files, "revision": "v1"}}


# ------------------------------------------------------------------------------------------------------ corruption


def edit(**changes):
    """Damage that changes some keys of a folder's config."""

    def damage(folder):
        file = folder / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))

    return damage


def places(*heads):
    return edit(heads=[{"layer": layer, "head": head} for layer, head in heads])


def tensors(**values):
    return lambda folder: save_file(values, folder / "model.safetensors")


def text(file, content):
    return lambda folder: (folder / file).write_text(content)


def truncate(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-8])


def pickled(folder):
    torch.save({"offsets": torch.zeros(3, 8)}, folder / "model.safetensors")


def peft(folder):
    (folder / "config.json").rename(folder / "adapter_config.json")


def without(key):
    def damage(folder):
        file = folder / "config.json"
        file.write_text(
            json.dumps({name: value for name, value in json.loads(file.read_text()).items() if name != key})
        )

    return damage


DAMAGE = {
    "config missing": (lambda folder: (folder / "config.json").unlink(), "config.json: no such file"),
    "config empty": (text("config.json", ""), "config.json: not valid JSON"),
    "config cut short": (text("config.json", '{"format_version": 2, "hea'), "config.json: not valid JSON"),
    "config not text": (
        lambda folder: (folder / "config.json").write_bytes(b"\xff\xfe{"),
        "config.json: not valid JSON",
    ),
    "config a list": (text("config.json", "[]"), "config.json: not an adapter"),
    "a whole model": (text("config.json", '{"model_type": "llama"}'), "config.json: not an adapter"),
    "a PEFT adapter": (peft, "config.json: a PEFT adapter, which AutoModelForCausalLM.from_pretrained reads"),
    "newer format": (edit(format_version=4), "config.json: format_version is 4; expected up to 3, or a newer lofit"),
    "format 0": (edit(format_version=0), "config.json: not an adapter"),
    "format a text": (edit(format_version="2"), "config.json: not an adapter"),
    "format true": (edit(format_version=True), "config.json: not an adapter"),
    "format a fraction": (edit(format_version=1.0), "config.json: not an adapter"),
    "format null": (edit(format_version=None), "config.json: not an adapter"),
    "unknown key": (edit(rank=8), "config.json: rank: unknown key; expected base_model, base_revision"),
    "key missing": (without("heads"), "config.json: heads: missing"),
    "heads a block": (edit(heads={"0": 1}), "config.json: heads: got {'0': 1}; expected a list"),
    "a head a number": (edit(heads=[7]), "config.json: heads.0: got 7; expected "),
    "a head a pair": (edit(heads=[[0, 1]]), "config.json: heads.0: got [0, 1]; expected "),
    "a head without layer": (edit(heads=[{"head": 1}]), "config.json: heads.0.layer: missing"),
    "a head a fraction": (places((0, 1.5)), "config.json: heads.0.head: got 1.5; expected a whole number"),
    "a head true": (places((True, 1)), "config.json: heads.0.layer: got True; expected a whole number"),
    "a head negative": (places((0, -1), (0, 3), (1, 2)), "config.json: heads.0.head: got -1; expected greater than"),
    "head out of range": (places((0, 1), (0, 3), (1, 4)), "config.json: heads: got head 4; expected 0 to 3"),
    "layer out of range": (places((0, 1), (0, 3), (2, 2)), "config.json: heads: got layer 2; expected 0 to 1"),
    "a head twice": (places((0, 1), (0, 3), (0, 1)), ": head (0, 1) is named twice"),
    "fewer heads than vectors": (places((0, 1), (0, 3)), "offsets: got shape (3, 8) of torch.float32; expected (2, 8)"),
    "unknown vectors": (edit(vectors=["biases"]), "config.json: vectors.0: got 'biases'; expected 'scales' or 'off"),
    "vectors a text": (edit(vectors="offsets"), "config.json: vectors: got 'offsets'; expected a list"),
    "other vectors": (edit(vectors=["scales"]), "got tensors ['offsets']; expected the config's ['scales']"),
    "no vectors": (edit(vectors=[]), "got tensors ['offsets']; expected the config's []"),
    "another head_dim": (edit(head_dim=16), "offsets: got shape (3, 8) of torch.float32; expected (3, 16)"),
    "head_dim 0": (edit(head_dim=0), "config.json: head_dim: got 0; expected greater than or equal to 1"),
    "metric NaN": (edit(metrics={"mc1": float("nan")}), "config.json: metrics.mc1: got nan; expected a finite number"),
    "weights missing": (
        lambda folder: (folder / "model.safetensors").unlink(),
        "model.safetensors: no such file",
    ),
    "weights cut short": (truncate, "model.safetensors: not a whole safetensors file"),
    "weights empty": (text("model.safetensors", ""), "model.safetensors: not a whole safetensors file"),
    "weights a pointer": (text("model.safetensors", "version https://git-lfs"), "not a whole safetensors file"),
    "weights pickled": (pickled, "model.safetensors: not a whole safetensors file"),
    "NaN": (tensors(offsets=torch.full((3, 8), torch.nan)), ": offsets: got NaN or infinity"),
    "infinity": (tensors(offsets=torch.full((3, 8), torch.inf)), ": offsets: got NaN or infinity"),
    "fewer vectors than heads": (tensors(offsets=torch.zeros(2, 8)), "offsets: got shape (2, 8)"),
    "a vector too wide": (tensors(offsets=torch.zeros(3, 9)), "offsets: got shape (3, 9)"),
    "three dimensions": (tensors(offsets=torch.zeros(3, 8, 1)), "offsets: got shape (3, 8, 1)"),
    "one dimension": (tensors(offsets=torch.zeros(24)), "offsets: got shape (24,)"),
    "half precision": (
        tensors(offsets=torch.zeros(3, 8).half()),
        "of torch.float16; expected (3, 8), heads x",
    ),
    "foreign tensor": (tensors(lora_A=torch.zeros(3, 8)), "model.safetensors: got tensors ['lora_A']"),
    "one tensor more": (tensors(offsets=torch.zeros(3, 8), more=torch.zeros(1)), "got tensors ['more', 'offsets']"),
}


@pytest.mark.parametrize(("damage", "words"), DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_folder_is_refused_in_one_line(tmp_path, damage, words):
    folder = tmp_path / "adapter"
    adapter().save_pretrained(folder)
    damage(folder)
    with pytest.raises(LofitError) as refusal:
        HeadAdapter.from_pretrained(folder)
    message = str(refusal.value)
    assert message.startswith(str(folder)) and words in message
    assert "\n" not in message


def test_all_faults_of_a_config_are_told_at_once(tmp_path):
    adapter().save_pretrained(tmp_path)
    edit(num_heads=0, head_dim=-1, heads=[{"layer": 0, "head": "1"}])(tmp_path)
    with pytest.raises(LofitError) as refusal:
        HeadAdapter.from_pretrained(tmp_path)
    assert len(str(refusal.value).splitlines()) == 3


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_layers": 3}, "adapter: made for 3 layers with heads, got 2; expected the model it was made for"),
        ({"num_heads": 5}, "adapter: made for 5 heads per layer, got 4"),
        ({"target_module": "attn.c_proj"}, "adapter: made for attn.c_proj, got model.layers.0.self_attn.o_proj"),
    ],
)
def test_an_adapter_for_another_model_is_not_attached(model, changes, words):
    made = HeadAdapter(HEADS, torch.ones(3, 8), provenance=PROVENANCE.model_copy(update=changes))
    with pytest.raises(LofitError, match=words):
        made.attach(model)
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_an_adapter_attaches_to_the_model_that_its_provenance_was_taken_from(model):
    provenance = Provenance.made_now("tiny", "abc", head_layout(model), training={})
    assert (provenance.num_layers, provenance.num_heads, provenance.target_module) == (2, 4, "self_attn.o_proj")
    assert set(provenance.libraries) == {"lofit", "torch", "transformers"}
    HeadAdapter(HEADS, torch.ones(3, 8), provenance=provenance).attach(model).detach()


@pytest.mark.parametrize(
    ("paths", "end"),
    [
        (("model.layers.0.self_attn.o_proj", "model.layers.1.self_attn.o_proj"), "self_attn.o_proj"),
        (("model.layers.0.self_attn.o_proj",), "self_attn.o_proj"),
        (("transformer.h.9.attn.c_proj", "transformer.h.19.attn.c_proj"), "attn.c_proj"),
        (("o_proj",), "o_proj"),
    ],
)
def test_the_target_module_is_what_the_paths_share_after_the_layer(paths, end):
    assert common_end(paths) == end


@pytest.mark.parametrize("name", ["no/such/folder/here", "nobody/nothing"])
def test_an_adapter_that_is_nowhere_is_one_line(monkeypatch, tmp_path, name):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(LofitError, match=f"^adapter '{name}': neither here nor on the Hugging Face hub .*$") as refusal:
        HeadAdapter.from_pretrained(name)
    assert "\n" not in str(refusal.value)


def logits(model, adapter):
    with adapter.attach(model), torch.no_grad():
        return model(torch.tensor([[5, 17, 40, 8, 99, 3]])).logits
