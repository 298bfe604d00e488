"""Less memory, the same result: micro-batches, gradient checkpointing, half precision, quantised or offloaded bases."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator, dispatch_model
from torch.nn.functional import cosine_similarity
from transformers import AutoModelForCausalLM, FalconConfig, GPT2Config, OPTConfig

from lofit import HeadAdapter, LofitError, head_layout
from lofit.models import base as models
from lofit.models.runtime import activation_checkpointing, pick_device
from lofit.models.tokens import Encoded
from lofit.models.vocabulary import vocabulary_of
from lofit.tasks.record import Objective, Record
from lofit.training.examples import Example, mean_over, prepare
from lofit.training.initial import fresh_vectors
from lofit.training.loop import parts, train
from lofit.training.loss import task_loss
from lofit.training.objectives import l1_penalty
from lofit.training.reference import pair_logprobs
from lofit.training.settings import Runtime, TrainingSettings

HEADS = [(0, 1), (1, 0), (1, 3)]
CROSS_ENTROPY = Objective("cross_entropy")
DPO = Objective("dpo")
RECORDS = [
    Record(str(number), f"Q: {question}? A:", f" {answer}", f" {wrong}")
    for number, (question, answer, wrong) in enumerate(
        [
            ("Can pigs fly", "No, pigs cannot fly, and neither can the cat", "Yes"),
            ("Where", "on the mat", "in the cat"),
            ("Who", "Roy", "Anna and the dog"),
            ("What", "her brother", "mat"),
            ("Is", "she", "it is"),
        ]
    )
]


@pytest.mark.parametrize("objective", [CROSS_ENTROPY, DPO], ids=["cross_entropy", "dpo"])
@pytest.mark.parametrize("size", [1, 2, 3, 9])
@pytest.mark.parametrize("kind", ["scales", "offsets"])
def test_micro_batches_add_up_to_the_batch(model, tokenizer, objective, size, kind):
    examples = prepared(model, tokenizer, objective)
    # Completions of different lengths: a plain mean over micro-batches would be another loss.
    assert len({mean_over([example]) for example in examples}) > 1 or objective is DPO
    whole, small = (HeadAdapter(HEADS, **{kind: 300 * fresh_vectors(3, 8, seed=5)}) for _ in range(2))
    expected = run(model, whole, examples, l1=0.01)
    history = run(model, small, examples, l1=0.01, micro_batch_size=size)
    for key in ("loss", "penalty"):
        assert [row[key] for row in history] == pytest.approx([row[key] for row in expected], rel=1e-4)
    torch.testing.assert_close(getattr(small, kind), getattr(whole, kind), rtol=1e-3, atol=1e-4)


def test_a_micro_batch_is_all_that_goes_through_the_model_at_once(model, tokenizer):
    examples, seen = prepared(model, tokenizer, CROSS_ENTROPY), []
    handle = model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    run(model, HeadAdapter(HEADS, fresh_vectors(3, 8, seed=5)), examples, epochs=1, micro_batch_size=2)
    handle.remove()
    assert seen == [2, 2, 1]


@pytest.mark.parametrize("processes", [1, 2, 3, 7])
@pytest.mark.parametrize("size", [None, 1, 2])
def test_processes_divide_a_batch_without_rest_or_overlap(processes, size):
    batch = [Example(Encoded((1, 2), 1)) for _ in range(5)]
    shares = [
        list(parts(batch, size, SimpleNamespace(process_index=index, num_processes=processes)))
        for index in range(processes)
    ]
    met = [id(example) for share in shares for part in share for example in part]
    assert sorted(met) == sorted(map(id, batch))
    counts = [sum(map(len, share)) for share in shares]
    assert max(counts) - min(counts) <= 1
    assert all(len(part) <= (size or 5) for share in shares for part in share)


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt", "falcon"])
def test_gradient_checkpointing_keeps_less_and_gives_the_same_gradients(make_model, tokenizer, family):
    model = make_model() if family == "llama" else with_dropout(family)
    examples = prepared(model, tokenizer, CROSS_ENTROPY)
    adapter = HeadAdapter(HEADS, 100 * fresh_vectors(3, 8, seed=5))
    loss, gradient, kept = backward(model, adapter, examples)
    with activation_checkpointing(model):
        again, same, less = backward(model, adapter, examples)
    assert again == pytest.approx(loss, rel=1e-6) and gradient.abs().max() > 1e-4
    torch.testing.assert_close(same, gradient, rtol=1e-4, atol=1e-6)
    assert less < 0.75 * kept


def test_a_model_that_cannot_recompute_is_refused_in_words(make_model):
    model = make_model()
    model.supports_gradient_checkpointing = False
    with pytest.raises(LofitError, match=r"^gradient_checkpointing: got true; expected for LlamaForCausalLM: false"):
        activation_checkpointing(model).__enter__()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_step_1_keeps_no_activation_that_the_bare_model_does_not(make_model, tokenizer, dtype):
    model = make_model(num_hidden_layers=4).to(dtype)
    examples = prepared(model, tokenizer, CROSS_ENTROPY)
    layout = head_layout(model)
    adapter = HeadAdapter(layout.all_heads(), scales=fresh_vectors(layout.size, 8, seed=5))
    bare, edited = (kept_bytes(model, examples, edit) for edit in (None, adapter))
    # The factors 1 + A of each layer, and nothing of the size of an activation.
    assert edited - bare <= 4 * layout.num_layers * 32 * 4


def test_nothing_is_kept_of_the_layers_below_the_lowest_head(make_model, tokenizer):
    model = make_model(num_hidden_layers=4)
    examples = prepared(model, tokenizer, CROSS_ENTROPY)
    all_layers, *fewer = (
        kept_bytes(model, examples, HeadAdapter([(layer, 1)], 100 * fresh_vectors(1, 8, seed=5))) for layer in range(4)
    )
    assert fewer == sorted(fewer, reverse=True) and fewer[0] < 0.85 * all_layers and fewer[2] < 0.4 * all_layers


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_gives_the_gradients_of_float32_to_its_own_precision(make_model, tokenizer, dtype):
    examples = prepared(make_model(), tokenizer, DPO)
    adapter = HeadAdapter(HEADS, 100 * fresh_vectors(3, 8, seed=5))
    _, exact, _ = backward(make_model(), adapter, examples)
    _, rounded, _ = backward(make_model().to(dtype), adapter, examples)
    assert adapter.offsets.dtype == rounded.dtype == torch.float32
    assert cosine_similarity(rounded.flatten(), exact.flatten(), dim=0) > 0.995


@pytest.mark.parametrize("quantization", ["bitsandbytes_4bit", "bitsandbytes_8bit", "torchao_8bit"])
def test_gradients_reach_the_offsets_of_a_quantised_base(tmp_path, make_model, tokenizer, quantization):
    pytest.importorskip(quantization.partition("_")[0], reason="the library is not installed")
    model = make_model(hidden_size=128, intermediate_size=128, num_attention_heads=4, initializer_range=0.1)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    base = models.resolve(str(tmp_path), dtype="float32", quantization=quantization)
    quantised, _ = models.load(base, device="cpu")
    assert type(quantised.model.layers[0].self_attn.o_proj) is not torch.nn.Linear or quantization == "torchao_8bit"
    assert head_layout(quantised) == base.layout

    examples = prepared(model, tokenizer, CROSS_ENTROPY)
    adapter = HeadAdapter(HEADS, 100 * fresh_vectors(3, 32, seed=5))
    loss, gradient, _ = backward(quantised, adapter, examples)
    exact_loss, exact, _ = backward(model, adapter, examples)
    assert loss != exact_loss and loss == pytest.approx(exact_loss, rel=0.1)
    assert cosine_similarity(gradient.flatten(), exact.flatten(), dim=0) > 0.9

    ids = torch.arange(3, 12)[None]
    before = quantised(ids).logits
    history = run(quantised, adapter, examples, epochs=20, lr=0.1)
    assert history[-1]["loss"] < 0.9 * history[0]["loss"]
    assert torch.equal(quantised(ids).logits, before)


def test_gradients_of_a_4_bit_base_are_those_of_its_dequantised_weights(tmp_path, make_model, tokenizer):
    functional = pytest.importorskip("bitsandbytes.functional")
    make_model(hidden_size=128, intermediate_size=128, initializer_range=0.1).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    base = models.resolve(str(tmp_path), dtype="float32", quantization="bitsandbytes_4bit")
    quantised, _ = models.load(base, device="cpu")
    dense, _ = models.load(models.resolve(str(tmp_path), dtype="float32"), device="cpu")
    for name, module in dense.named_modules():
        if "proj" in name:
            packed = quantised.get_submodule(name).weight
            module.weight.data = functional.dequantize_4bit(packed.data, packed.quant_state).float()
    examples = prepared(dense, tokenizer, CROSS_ENTROPY)
    adapter = HeadAdapter(HEADS, 100 * fresh_vectors(3, 32, seed=5))
    exact = backward(dense, adapter, examples)[1]
    # A forward pass without gradients, as DPO's reference is: the library may repack the weights in one.
    with torch.no_grad():
        quantised(torch.arange(3, 12)[None])
    torch.testing.assert_close(backward(quantised, adapter, examples)[1], exact, rtol=1e-3, atol=1e-5)


def test_a_missing_quantisation_library_is_named(tmp_path, make_model, tokenizer, monkeypatch):
    make_model().save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    base = models.resolve(str(tmp_path), dtype="float32", quantization="torchao_4bit")
    monkeypatch.setitem(__import__("sys").modules, "torchao", None)
    monkeypatch.setitem(__import__("sys").modules, "torchao.quantization", None)
    with pytest.raises(LofitError, match=r"^quantization: got 'torchao_4bit', which needs a library .*; expected"):
        models.load(base, device="cpu")


@pytest.mark.parametrize("place", ["cpu", "disk"])
def test_an_adapter_edits_a_model_that_is_spread_over_places(make_model, tmp_path, place):
    plain, spread = make_model(), make_model()
    parts = {"model.embed_tokens": "cpu", "model.layers.0": "cpu", "model.layers.1": place, "model.norm": "cpu"}
    parts |= {"model.rotary_emb": "cpu", "lm_head": "cpu"}
    spread = dispatch_model(spread, parts, main_device="cpu", offload_dir=tmp_path, force_hooks=True)
    assert (spread.model.layers[1].self_attn.o_proj.weight.device.type == "meta") == (place == "disk")
    adapter, ids = HeadAdapter(HEADS, fresh_vectors(3, 8, seed=5) * 300), torch.arange(3, 12)[None]
    with adapter.attach(plain):
        expected = plain(ids).logits
    before = spread(ids).logits
    with adapter.attach(spread):
        torch.testing.assert_close(spread(ids).logits, expected)
    assert torch.equal(spread(ids).logits, before) and (before - expected).abs().max() > 1e-2


@pytest.mark.parametrize(("keys", "place"), [({"device_map": "auto"}, "auto"), ({}, {"": torch.device("cpu")})])
def test_the_loader_puts_the_model_where_it_is_told(tmp_path, make_model, tokenizer, monkeypatch, keys, place):
    make_model().save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    asked, load = [], models.AutoModelForCausalLM.from_pretrained
    monkeypatch.setattr(
        models.AutoModelForCausalLM,
        "from_pretrained",
        lambda *args, **named: asked.append(named) or load(*args, **named),
    )
    base = models.resolve(str(tmp_path), dtype="float32")
    loaded, _ = models.load(base, device="cpu", **keys)
    assert asked[0]["device_map"] == place
    assert torch.equal(loaded.lm_head.weight.cpu(), make_model().lm_head.weight)


def test_devices_are_picked_by_name_and_refused_in_words():
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device("auto") == (torch.accelerator.current_accelerator() or torch.device("cpu"))
    missing = "cuda:99"
    with pytest.raises(LofitError, match=f"^device: got '{missing}', but this machine has .*; expected auto"):
        pick_device(missing)


# ---------------------------------------------------------------------------------------------------------- helpers


def prepared(model, tokenizer, objective):
    references = pair_logprobs(model, tokenizer, RECORDS, objective) if objective is DPO else None
    return prepare(
        tokenizer, RECORDS, objective, vocabulary_of(model, tokenizer), max_length=100, references=references
    )


def kept_bytes(model, examples, adapter):
    """How much a forward pass keeps for its backward one: with an edit, or with gradients for the embeddings alone."""
    sizes, weights = {}, {weight.untyped_storage().data_ptr() for weight in model.parameters()}

    def note(tensor):
        sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    wanted = model.get_input_embeddings().register_forward_hook(lambda *args: args[-1].requires_grad_())
    if adapter:
        wanted.remove()
    edit = adapter.attach(model) if adapter else nullcontext()
    with edit, torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = task_loss(model, examples, pad_id=0, beta=0.5)
    wanted.remove()
    del loss
    return sum(size for place, size in sizes.items() if place not in weights)


def run(model, adapter, examples, *, l1=0.0, micro_batch_size=None, **changes):
    settings = TrainingSettings(**{"lr": 0.05, "epochs": 2, "batch_size": 5, **changes})
    return train(
        model,
        adapter,
        examples,
        settings,
        seed=3,
        pad_id=0,
        penalty=lambda: l1_penalty(adapter.scales, weight=l1),
        runtime=Runtime(micro_batch_size=micro_batch_size, keep_prefix=False),
        accelerator=Accelerator(cpu=True),
    )


def backward(model, adapter, examples):
    """The loss, the offsets' gradient, and how many bytes of activations autograd kept for it."""
    kept = 0

    def count(tensor):
        nonlocal kept
        kept += tensor.nbytes
        return tensor

    adapter.zero_grad()
    with adapter.attach(model), torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        loss = task_loss(model, examples, pad_id=0, beta=0.5)
    with adapter.attach(model):
        loss.backward()
    return loss.item(), adapter.offsets.grad.clone(), kept


def with_dropout(family):
    """A decoder whose config asks for dropout, in evaluation mode."""
    if family == "gpt2":
        ids = {"bos_token_id": 0, "eos_token_id": 0}
        config = GPT2Config(vocab_size=320, n_embd=32, n_layer=2, n_head=4, n_positions=256, **ids)
    else:
        shape = {"vocab_size": 320, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
        config = {
            "falcon": FalconConfig(**shape, hidden_dropout=0.5, attention_dropout=0.5, initializer_range=0.2),
            "opt": OPTConfig(
                **shape, ffn_dim=48, word_embed_proj_dim=32, max_position_embeddings=256, dropout=0.5, init_std=0.2
            ),
        }[family]
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
