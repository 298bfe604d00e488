"""What every kind of adapter promises, on decoders of different structure: one battery over kinds and families."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import cache, partial

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast
from transformers.pytorch_utils import Conv1D

from lofit import HeadAdapter, head_layout, load_adapter
from lofit.adapters.answer_heads import AnswerHeadAdapter
from lofit.adapters.base import Adapter
from lofit.adapters.gates import GatedHeads
from lofit.adapters.kinds import PACKAGE
from lofit.adapters.peft import PeftAdapter
from lofit.adapters.stream import StreamAdapter
from lofit.adapters.subspace import SubspaceAdapter, orthonormal
from lofit.adapters.weights import WeightsAdapter
from lofit.models.generation import generate
from lofit.models.logprobs import score_groups
from lofit.models.prefix import keep_prefix
from lofit.models.runtime import activation_checkpointing
from lofit.models.tokens import Encoded
from lofit.pages import find_page, page_names
from lofit.training.examples import Example, rows_of
from lofit.training.loss import task_loss
from tests.families import FAMILIES, HIDDEN, VOCABULARY, Family, build, positions

NAMES = (
    # Grouped keys; a sliding window; norms after the layer's parts; fused projections; absolute positions; transposed
    # weights; parallel parts; ALiBi; experts; latent attention; recurrent layers beside and within those with heads.
    *("llama, 2 kv heads", "mistral", "gemma3", "phi3", "opt", "gpt2", "gpt_neox", "falcon, new decoder", "bloom"),
    *("mixtral", "deepseek_v3", "bamba", "falcon_h1", "recurrent_gemma"),
)
LAYERS = (1, 0)
NEAR = {"rtol": 2e-4, "atol": 2e-4}
"""For float32 logits of a few units."""
FELT = 0.02
"""How far an edit has to move logits: hundreds of times what is near."""
PADDING, END = 0, 2


def rows() -> list[Encoded]:
    """Prompts of 6, 3 and 9 tokens, none a prefix of another, and their completions."""
    generator = torch.Generator().manual_seed(1)
    drawn = [torch.randint(3, VOCABULARY, (length,), generator=generator).tolist() for length in (8, 5, 12)]
    return [Encoded(tuple(ids), start) for ids, start in zip(drawn, (6, 3, 9), strict=True)]


# ------------------------------------------------------------------------------------------------------ the kinds


def random(*shape: int, seed: int = 3) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def heads_of(layers: Sequence[int]) -> list[tuple[int, int]]:
    """Two heads of each layer, not in order."""
    return [(layer, (layer + head) % 4) for layer in layers for head in (1, 3)]


def both(model: nn.Module, family: Family, strength: float, layers: Sequence[int] = LAYERS) -> Adapter:
    heads = heads_of(layers)
    shape = (len(heads), family.head_dim)
    return HeadAdapter(heads, strength * random(*shape), strength * random(*shape, seed=4))


def scales(model: nn.Module, family: Family, strength: float, layers: Sequence[int] = LAYERS) -> Adapter:
    heads = heads_of(layers)
    return HeadAdapter(heads, scales=strength * random(len(heads), family.head_dim))


def answer_heads(model: nn.Module, family: Family, strength: float, layers: Sequence[int] = LAYERS) -> Adapter:
    heads = heads_of(layers)
    return AnswerHeadAdapter(heads, strength * random(len(heads), family.head_dim))


def gates(model: nn.Module, family: Family, strength: float, layers: Sequence[int] = LAYERS) -> Adapter:
    heads = heads_of(layers)
    shape = (len(heads), family.head_dim)
    # Shut without strength, whatever the noise.
    log_gates = torch.full((2, len(heads)), 1.0 if strength else -100.0)
    adapter = GatedHeads(heads, random(*shape), random(*shape, seed=4), log_gates, seed=5)
    adapter.begin_step(3)
    return adapter


def stream(model: nn.Module, family: Family, strength: float, layers: Sequence[int] = LAYERS) -> Adapter:
    return StreamAdapter(layers, strength * random(len(layers), HIDDEN))


def subspace(
    model: nn.Module, family: Family, strength: float, layers: Sequence[int] = LAYERS, *, tied: bool = True
) -> Adapter:
    shape = (len(layers), 1 if tied else 2, 3, HIDDEN)
    basis = orthonormal(random(*shape))
    weight, bias = basis + strength * 0.3 * random(*shape, seed=4), strength * random(*shape[:3], seed=5)
    return SubspaceAdapter(layers, basis, weight, bias, first=2, last=1, tied=tied)


def peft(model: nn.Module, config: dict, strength: float) -> Adapter:
    """As PEFT begins, which changes nothing, and random numbers on top of it."""
    attention = model.get_submodule(head_layout(model).projections[0].rpartition(".")[0])
    targets = sorted(name for name, module in attention.named_children() if isinstance(module, nn.Linear | Conv1D))
    adapter = PeftAdapter.fresh(model, {**config, "target_modules": targets}, seed=3)
    with torch.no_grad():
        for seed, parameter in enumerate(adapter.parameters()):
            parameter += strength * 0.3 * random(*parameter.shape, seed=seed)
    return adapter


def weights(model: nn.Module, family: Family, strength: float) -> Adapter:
    adapter = WeightsAdapter.fresh(model)
    with torch.no_grad():
        for seed, weight in enumerate(adapter.parameters()):
            weight += strength * 0.05 * random(*weight.shape, seed=seed)
    return adapter


IN_LAYERS: dict[str, Callable[..., Adapter]] = {
    "heads": both,
    "heads, scales": scales,
    "answer_heads": answer_heads,
    "gates": gates,
    "stream": stream,
    "subspace, tied": subspace,
    "subspace, untied": partial(subspace, tied=False),
}
"""What edits some layers alone, and says which is the lowest."""
KINDS: dict[str, Callable[..., Adapter]] = {
    **IN_LAYERS,
    "lora": lambda model, family, strength: peft(model, {"peft_type": "LORA", "r": 4}, strength),
    "ia3": lambda model, family, strength: peft(model, {"peft_type": "IA3", "feedforward_modules": []}, strength),
    "weights": weights,
}


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


@pytest.fixture
def model(name):
    return build(name, torch.float32)


@pytest.fixture(params=KINDS)
def make(request, model, name):
    """Makes an adapter of the kind for the model, at a strength from 0 to 1."""
    return lambda strength=1.0: KINDS[request.param](model, FAMILIES[name], strength)


# ------------------------------------------------------------------------------------------------------ the battery


def test_no_kind_is_missing():
    model = build(NAMES[0], torch.float32)
    tried = {type(make(model, FAMILIES[NAMES[0]], 1.0)) for make in KINDS.values()}
    pages = [find_page(PACKAGE, page, what="kind") for page in page_names(PACKAGE)]
    assert {page.ADAPTER for page in pages if hasattr(page, "ADAPTER")} <= tried


def test_a_model_is_edited_while_an_adapter_is_attached_and_to_the_bit_what_it_was_afterwards(model, make):
    adapter, before, plain = make(), condition(model), logits(model)
    adapter.attach(model).__enter__().__exit__(None, None, None)
    assert condition(model) == before
    edited = []
    for _ in range(2):
        with adapter.attach(model) as attachment:
            edited.append(logits(model, adapter))
        assert condition(model) == before
        attachment.detach()
        with pytest.raises(ZeroDivisionError), adapter.attach(model):
            raise ZeroDivisionError
        assert condition(model) == before
        assert all(torch.equal(*pair) for pair in zip(logits(model), plain, strict=True))
    for first, second, bare in zip(*edited, plain, strict=True):
        assert torch.equal(first, second)
        assert (first - bare).abs().max() > FELT


def test_what_is_read_back_edits_to_the_bit_alike_and_is_written_in_the_same_bytes(model, make, tmp_path):
    adapter, plain = make(), logits(model)
    if isinstance(adapter, GatedHeads):
        # They exist in training alone. What is kept of them acts as they do between two steps.
        adapter.end_step(0.1)
        kept = adapter.folded()
    else:
        kept = adapter
    kept.save_pretrained(tmp_path / "once")
    again = load_adapter(tmp_path / "once")
    again.save_pretrained(tmp_path / "twice")
    once, twice = ({file.name: file.read_bytes() for file in (tmp_path / at).iterdir()} for at in ("once", "twice"))
    assert once == twice and len(once) >= 3
    edited = []
    for one in (adapter, again):
        with one.attach(model):
            edited.append(logits(model, one))
    for saved, loaded, bare in zip(*edited, plain, strict=True):
        assert torch.equal(loaded, saved)
        assert (saved - bare).abs().max() > FELT


def test_generation_with_a_cache_sees_at_every_token_what_a_whole_pass_sees(model, name, make):
    """What is generated is read once more with its prompt, without a cache."""
    adapter, new = make(), 5
    # The longest first, as `generate` takes them; no padding where the bare model minds it.
    given = sorted(rows(), key=lambda row: -len(row.ids))
    batches = [[row] for row in given] if FAMILIES[name].left else [given]
    for batch in batches:
        with adapter.attach(model):
            texts, steps = written(model, adapter.reader, batch, new)
            whole = [
                Encoded(row.ids[: row.start] + tokens_of(text), row.start)
                for row, text in zip(batch, texts, strict=True)
            ]
            edited = [logits(model, adapter, [row])[0] for row in whole]
        for i, (row, seen) in enumerate(zip(whole, edited, strict=True)):
            made, here = row.ids[row.start :], seen[row.start - 1 :]
            best = tuple(here.argmax(-1).tolist())
            assert made == best[: len(made)]
            assert len(made) == new or best[len(made)] == END
            torch.testing.assert_close(steps[i, : len(made)], here[: len(made)], **NEAR)
            bare = logits(model, None, [row])[0][row.start - 1 :]
            # Within a window of 4, later tokens see none of an edit of the prompt alone.
            assert ((here - bare).abs().amax(-1)[:3] > FELT).all()


def test_the_score_of_a_row_is_not_that_of_its_batch(model, make):
    adapter = make()

    def scores(groups):
        found = score_groups(model, groups, pad_id=PADDING, batch_size=8, reading=adapter.reader)
        return torch.tensor([score for group in found for score in group])

    plain = scores([[row] for row in rows()])
    with adapter.attach(model):
        together = scores([[row] for row in rows()])
        alone = torch.cat([scores([[row]]) for row in rows()])
    torch.testing.assert_close(together, alone, **NEAR)
    assert (alone - plain).abs().median() > FELT


@pytest.mark.parametrize("left", [False, True], ids=["right", "left"])
def test_padding_does_not_change_an_edited_row(model, name, make, left):
    adapter = make()

    def padded_and_alone(edit=None):
        return logits(model, edit, rows(), left=left), [logits(model, edit, [row])[0] for row in rows()]

    together, plain = padded_and_alone()
    if left and (why := FAMILIES[name].left) and max(map(distance, together, plain)) > 0.1:
        pytest.skip(f"unedited too: {why}")
    with adapter.attach(model):
        together, alone = padded_and_alone(adapter)
    for one, other, bare in zip(together, alone, plain, strict=True):
        torch.testing.assert_close(one, other, **NEAR)
        assert distance(other, bare) > FELT


def test_gradients_reach_all_that_is_trained_and_nothing_else(model, name, make):
    adapter, examples = make(), [Example(row) for row in rows()]
    adapter.begin_step(0)
    with adapter.attach(model), adapter.reading(rows_of(examples), max(len(row.ids) for row in rows())):
        loss = task_loss(model, examples, pad_id=PADDING, beta=0.5, adapter=adapter)
        loss.backward()
    assert not [path for path, weight in model.named_parameters() if weight.grad is not None or weight.requires_grad]
    if isinstance(adapter, WeightsAdapter):
        # There may be weights that no logit depends on.
        copy = adapter.written_into(build.__wrapped__(name, torch.float32)).requires_grad_()
        task_loss(copy, examples, pad_id=PADDING, beta=0.5).backward()
        expected = {path: weight.grad for path, weight in copy.named_parameters()}
        for path, weight in adapter.weights.named_parameters():
            assert (weight.grad is None) == (expected[path] is None), path
            if weight.grad is not None:
                assert torch.equal(weight.grad, expected[path]), path
        assert sum(gradient is not None and bool(gradient.any()) for gradient in expected.values()) > 10
        return
    trained = {path: parameter for path, parameter in adapter.named_parameters() if parameter.requires_grad}
    assert trained
    for path, parameter in trained.items():
        assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.any(), path


def test_layers_that_make_their_activations_anew_give_the_same_gradients(model, make):
    adapter, examples = make(), [Example(row) for row in rows()]
    adapter.begin_step(0)
    found = []
    for checkpointing in (nullcontext(), activation_checkpointing(model)):
        adapter.zero_grad()
        with checkpointing, adapter.attach(model), adapter.reading(rows_of(examples), max(len(r.ids) for r in rows())):
            # As training does, the way back is within the reading, too.
            task_loss(model, examples, pad_id=PADDING, beta=0.5, adapter=adapter).backward()
        found.append([parameter.grad for parameter in adapter.parameters() if parameter.grad is not None])
    assert found[0]
    for plain, anew in zip(*found, strict=True):
        torch.testing.assert_close(anew, plain, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("kind", IN_LAYERS)
def test_losses_from_kept_states_of_the_layers_below_are_those_of_all_layers(model, name, kind):
    adapter, examples = IN_LAYERS[kind](model, FAMILIES[name], 1.0, [1]), [Example(row) for row in rows()]
    adapter.begin_step(0)
    assert adapter.lowest_layer == 1
    kept = keep_prefix(model, head_layout(model), 1, rows_of(examples), pad_id=PADDING, batch_size=2, name="run")
    assert kept is not None
    losses = []
    with adapter.attach(model):
        for start in (kept, None):
            loss = task_loss(model, examples, pad_id=PADDING, beta=0.5, kept=start, adapter=adapter)
            losses.append((loss, *torch.autograd.grad(loss, list(adapter.parameters()))))
    for ours, theirs in zip(*losses, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)
    assert abs(losses[0][0] - task_loss(model, examples, pad_id=PADDING, beta=0.5)) > 1e-3


@pytest.mark.parametrize("name", ["llama, 2 kv heads", "gpt2"])
@pytest.mark.parametrize("kind", IN_LAYERS)
def test_modules_of_peft_read_what_another_edits_whichever_came_first_and_they_leave_in_any_order(model, name, kind):
    one, other = (KINDS[which](model, FAMILIES[name], 1.0) for which in (kind, "lora"))
    before, plain = condition(model), logits(model)
    with one.attach(model):
        alone = logits(model, one)
    together = []
    for first, second in ((one, other), (other, one)):
        for leaves in (0, 1):
            attached = {id(first): first.attach(model), id(second): second.attach(model)}
            together.append(logits(model, one))
            list(attached.values())[leaves].detach()
            left = second if leaves == 0 else first
            # What is left is at work as if it had been alone.
            if left is one:
                assert all(torch.equal(*pair) for pair in zip(logits(model, one), alone, strict=True))
            attached[id(left)].detach()
            assert condition(model) == before
            assert all(torch.equal(*pair) for pair in zip(logits(model), plain, strict=True))
    for way in together[1:]:
        assert all(torch.equal(*pair) for pair in zip(way, together[0], strict=True))
    assert min(map(distance, together[0], alone)) > FELT


def test_without_strength_the_model_is_to_the_bit_the_base(model, make):
    adapter, plain = make(0.0), logits(model)
    with adapter.attach(model):
        edited = logits(model, adapter)
    assert all(torch.equal(*pair) for pair in zip(edited, plain, strict=True))


# ---------------------------------------------------------------------------------------------------------- helpers


@torch.no_grad()
def logits(
    model: nn.Module, adapter: Adapter | None = None, given: Sequence[Encoded] | None = None, *, left: bool = False
) -> list[Tensor]:
    """Logits of each row, tokens x vocabulary, read in one padded batch under an adapter that is attached."""
    batch = rows() if given is None else given
    width = max(len(row.ids) for row in batch)
    ids, mask = torch.full((len(batch), width), PADDING), torch.zeros(len(batch), width, dtype=torch.long)
    for i, row in enumerate(batch):
        place = slice(width - len(row.ids), width) if left else slice(len(row.ids))
        ids[i, place], mask[i, place] = torch.tensor(row.ids), 1
    with adapter.reading(batch, width, left=left) if adapter else nullcontext():
        out = model(ids, attention_mask=mask, **positions(model, mask)).logits
    return [row[here.bool()] for row, here in zip(out, mask, strict=True)]


def distance(one: Tensor, other: Tensor) -> float:
    return (one - other).abs().max().item()


def condition(model: nn.Module) -> list:
    """All that attaching could leave behind: modules, their classes, attributes and hooks, and weights to the bit."""
    modules = [
        (
            path,
            id(module),
            type(module),
            module.training,
            sorted(vars(module)),
            [(key, list(value)) for key, value in sorted(vars(module).items()) if key.endswith("hooks") and value],
        )
        for path, module in model.named_modules()
    ]
    weights = [
        (name, id(weight), weight.data_ptr(), weight.requires_grad, weight.grad is None, weight._version)
        for name, weight in model.named_parameters(remove_duplicate=False)
    ]
    return [modules, weights, list(model.state_dict()), sorted(vars(model.config))]


@cache
def words() -> PreTrainedTokenizerFast:
    """A word for each token of the tiny models, so that texts are tokens."""
    # No special token but the end: others would be left out of what is generated.
    names = {f"w{i}": i for i in range(VOCABULARY) if i != END} | {"</s>": END}
    tokenizer = Tokenizer(models.WordLevel(names, unk_token="w1"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>")


def tokens_of(text: str) -> tuple[int, ...]:
    return tuple(words().convert_tokens_to_ids(text.split()))


def written(model: nn.Module, reading, batch: Sequence[Encoded], new: int) -> tuple[list[str], Tensor]:
    """What follows prompts in one batch of `generate`, and the logits that each token was chosen by: B x new x V."""
    prompts = [words().decode(row.ids[: row.start]) for row in batch]
    steps = []
    with model.register_forward_hook(lambda _, __, output: steps.append(output.logits[:, -1])):
        texts = generate(model, words(), prompts, batch_size=len(batch), max_new_tokens=new, reading=reading)
    return texts, torch.stack(steps, dim=1)
