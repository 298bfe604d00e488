"""SubspaceAdapter: the formula, the places, orthonormal rows, and the same in every way of reading."""

import pytest
import torch
from torch import nn

import lofit
from lofit import LofitError, Record, head_layout
from lofit.adapters.subspace import SubspaceAdapter, orthonormal
from lofit.models.generation import generate
from lofit.models.logprobs import score_completions
from lofit.models.tokens import Encoded, encode
from lofit.training.settings import Runtime, TrainingSettings
from lofit.training.subject import Subject

HIDDEN = 32


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def tied(request):
    return request.param


def make(*, tied=True, layers=(0, 1), rank=3, first=2, last=3, seed=0, strength=1.0):
    generator = torch.Generator().manual_seed(seed)
    shape = (len(layers), 1 if tied else 2, rank, HIDDEN)
    basis = orthonormal(torch.randn(shape, generator=generator))
    weight = strength * torch.randn(shape, generator=generator)
    bias = strength * torch.randn(shape[:3], generator=generator)
    return SubspaceAdapter(layers, basis, weight, bias, first=first, last=last, tied=tied)


def naive_edit(h, basis, weight, bias):
    """One state of the formula, number by number of the subspace."""
    new = h.clone()
    for r, w, b in zip(basis, weight, bias, strict=True):
        new = new + r * (w @ h + b - r @ h)
    return new


def test_the_edit_is_the_formula_values_and_gradients():
    adapter = make(layers=(3, 1), tied=False).double()
    adapter.requires_grad_()
    h = torch.randn(5, HIDDEN, dtype=torch.float64)
    for row in range(2):
        for side in range(2):
            parts = [value.detach().clone().requires_grad_() for value in adapter.parameters()]
            naive = torch.stack([naive_edit(state, *(part[row, side] for part in parts)) for state in h])
            # The edit is made in float32.
            mine = adapter_in_double(adapter, h, row, side)
            torch.testing.assert_close(mine, naive)
            weights = torch.randn(5, HIDDEN, dtype=torch.float64)
            gradients = torch.autograd.grad((mine * weights).sum(), list(adapter.parameters()))
            for one, other in zip(gradients, torch.autograd.grad((naive * weights).sum(), parts), strict=True):
                assert one.any()
                torch.testing.assert_close(one, other)


def test_in_a_step_the_gradient_goes_through_the_decomposition():
    """R of any basis, by Gram and Schmidt: the same values, the same gradient, which keeps to rotations."""
    basis = torch.randn(3, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    rows = []
    for row in basis:
        rest = row - sum((row @ done) * done for done in rows)
        rows.append(rest / rest.norm())
    naive, mine = torch.stack(rows), orthonormal(basis)
    torch.testing.assert_close(mine, naive)
    weights = torch.randn(3, 7, dtype=torch.float64)
    (one,) = torch.autograd.grad((mine * weights).sum(), basis)
    (other,) = torch.autograd.grad((naive * weights).sum(), basis)
    torch.testing.assert_close(one, other)
    # A longer basis is the same R.
    assert (one * basis).sum().abs() < 1e-10 and one.norm() > 0.1


def test_an_orthonormal_basis_is_kept():
    basis = orthonormal(torch.randn(2, 3, 7, dtype=torch.float64))
    torch.testing.assert_close(orthonormal(basis), basis)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_equals_its_projection_stays_to_the_bit(dtype):
    adapter = make()
    adapter = SubspaceAdapter([0, 1], adapter.basis, adapter.basis, torch.zeros(2, 1, 3), first=1, last=1)
    h = torch.randn(4, HIDDEN).to(dtype)
    assert torch.equal(adapter.edit(h, 1), h)
    assert adapter.is_idle and not make().is_idle


@pytest.mark.parametrize(
    ("length", "first", "last", "expected"),
    [
        (0, 2, 3, []),
        (1, 2, 3, []),
        (2, 2, 3, [0, 1]),
        (3, 2, 3, [0, 2]),
        (5, 2, 3, [0, 1, 3, 4]),
        (9, 2, 3, [0, 1, 6, 7, 8]),
        (9, 0, 3, [6, 7, 8]),
        (9, 3, 0, [0, 1, 2]),
        (14, 7, 7, list(range(14))),
    ],
)
def test_places_are_at_most_half_of_the_prompt_on_either_side(length, first, last, expected):
    adapter = make(first=first, last=last)
    row = Encoded(tuple(range(length + 4)), length)
    assert list(adapter.positions(row)) == expected


def test_block_outputs_are_edited_at_their_places_and_nowhere_else(model, tied):
    """The output of each edited layer, row by row, against what goes into the edit there."""
    adapter = make(tied=tied, layers=(1,))
    rows = [Encoded(tuple(range(1, 1 + length)), start) for length, start in ((9, 7), (6, 3), (4, 1), (5, 2), (9, 9))]
    before = outputs(model, None, rows)
    after = outputs(model, adapter, rows)
    for row, old, new in zip(rows, before, after, strict=True):
        half = row.start // 2
        firsts, lasts = range(min(half, 2)), range(row.start - min(half, 3), row.start)
        for place in range(len(row.ids)):
            if place not in firsts and place not in lasts:
                assert torch.equal(new[place], old[place])
                continue
            side = 0 if tied or place in firsts else 1
            parts = (value.detach()[0, side] for value in adapter.parameters())
            torch.testing.assert_close(new[place], naive_edit(old[place], *parts), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("in_tuple", [True, False])
def test_layers_may_return_a_tuple(model, in_tuple):
    adapter = make(layers=(0,))
    h = torch.randn(1, 6, HIDDEN)
    hook = adapter._hook(0)
    with adapter.reading([Encoded((1,) * 6, 6)], 6):
        edited = hook(None, (), (h, "cache") if in_tuple else h)
    if in_tuple:
        assert edited[1] == "cache"
        edited = edited[0]
    assert edited is not h and not torch.equal(edited, h)


def test_rows_do_not_depend_on_their_batch_or_padding(model, tokenizer, tied):
    adapter = make(tied=tied)
    rows = [
        encode(tokenizer, prompt, completion)
        for prompt, completion in (
            ("Q", ": who"),
            ("Q: Can pigs fly? A:", " No"),
            ("Q: Who?", " Roy is Anna's brother"),
        )
    ]
    with adapter.attach(model):
        together = score_completions(model, rows, pad_id=0, batch_size=3, reading=adapter.reader)
        alone = [score_completions(model, [row], pad_id=0, batch_size=1, reading=adapter.reader)[0] for row in rows]
    assert together == pytest.approx(alone, abs=1e-4)
    # Left padding: the logits of the last token.
    width = max(len(row.ids) for row in rows) + 2
    ids = torch.tensor([[0] * (width - len(row.ids)) + list(row.ids) for row in rows])
    mask = torch.tensor([[0] * (width - len(row.ids)) + [1] * len(row.ids) for row in rows])
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    with adapter.attach(model):
        with adapter.reading(rows, width, left=True):
            left = model(input_ids=ids, attention_mask=mask, position_ids=positions).logits[:, -1]
        for row, expected in zip(rows, left, strict=True):
            with adapter.reading([row], len(row.ids)):
                alone = model(torch.tensor([row.ids])).logits[0, -1]
            torch.testing.assert_close(alone, expected, rtol=1e-3, atol=1e-3)


def test_generation_with_a_cache_is_generation_without(model, tokenizer, tied):
    """And each row as if it were alone; what is written is not edited."""
    adapter = make(tied=tied)
    prompts = ["Q", "Q: Can pigs fly? A:", "Who? A:", "Q: Imagine that the cat sat on the mat. Where did it sit? A:"]
    with adapter.attach(model):
        texts = generate(
            model,
            tokenizer,
            prompts,
            batch_size=3,
            max_new_tokens=6,
            ended=lambda text: False,
            reading=adapter.reader,
        )
    plain = generate(model, tokenizer, prompts, batch_size=3, max_new_tokens=6, ended=lambda text: False)
    assert texts[1:] != plain[1:]
    for prompt, text in zip(prompts, texts, strict=True):
        ids = tokenizer(prompt)["input_ids"]
        start = len(ids)
        with adapter.attach(model):
            for _ in range(6):
                with adapter.reading([Encoded(tuple(ids), start)], len(ids)):
                    ids = [*ids, int(model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax())]
        written = ids[start:]
        written = written[: written.index(0)] if 0 in written else written
        assert tokenizer.decode(ids[:start] + written, skip_special_tokens=True).removeprefix(prompt) == text


def test_a_pass_whose_prompts_are_not_known_is_refused(model):
    ids = torch.tensor([[1, 2, 3]])
    before = model(ids).logits
    with make().attach(model), pytest.raises(LofitError, match=r"^subspace: got a pass whose prompts are not known"):
        model(ids)
    assert torch.equal(model(ids).logits, before)


def test_a_folder_gives_the_same_edit_to_the_bit(model, tied, tmp_path):
    adapter = make(tied=tied, layers=(1, 0))
    # As after training, where a basis is orthonormal up to rounding alone.
    adapter.begin_step(0)
    adapter.end_step(0.1)
    adapter.save_pretrained(tmp_path / "one")
    again = lofit.load_adapter(tmp_path / "one")
    assert type(again) is SubspaceAdapter and again.where == "first 2 and last 3 of the prompt"
    again.save_pretrained(tmp_path / "two")
    for file in ("config.json", "model.safetensors", "README.md"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    rows = [Encoded(tuple(range(1, 10)), 7), Encoded((5, 6, 7), 3)]
    for one, other in zip(outputs(model, adapter, rows), outputs(model, again, rows), strict=True):
        assert torch.equal(one, other)
    assert again.served_as is None and "2 layers" in again.summary()


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"layers": [1, 1]}, r"^layers: got \[1, 1\]; expected different layers"),
        ({"layers": [0, -1]}, r"^layers: got \[0, -1\]"),
        ({"first": 0, "last": 0}, r"^first and last: got 0 and 0; expected one of them above 0$"),
        ({"first": 0, "tied": False}, r"^first and last: got 0 and 3; expected both above 0"),
        ({"basis": torch.zeros(2, 1, 3, 2)}, r"^basis, weight and bias: got shapes \(2, 1, 3, 2\)"),
        ({"bias": torch.zeros(2, 1, 4)}, r"^basis, weight and bias: got shapes"),
        ({"weight": torch.full((2, 1, 3, 8), torch.nan)}, r"^weight: got NaN or infinity"),
    ],
)
def test_what_does_not_fit_together_is_refused(changes, fault):
    parts = {"layers": [0, 1], "basis": torch.eye(8)[:3].expand(2, 1, 3, 8), "weight": torch.zeros(2, 1, 3, 8)}
    parts |= {"bias": torch.zeros(2, 1, 3), "first": 2, "last": 3, "tied": True}
    SubspaceAdapter(**parts)
    with pytest.raises(LofitError, match=fault):
        SubspaceAdapter(**{**parts, **changes})


def test_what_does_not_fit_the_model_is_refused(model, make_model):
    with pytest.raises(LofitError, match=r"^layers: got 2; expected 0 to 1, as in the model$"):
        make(layers=(2,)).attach(model)
    with pytest.raises(LofitError, match=r"^hidden_size: got 32; expected the model's 64$"):
        make().attach(make_model(hidden_size=64))


def test_activation_checkpointing_and_smaller_passes_train_the_same(model, tokenizer, tied):
    records = [Record("0", "Q: Can pigs fly? A:", " No, pigs cannot fly"), Record("1", "Who? A:", " Roy")]
    trained = []
    for runtime in (Runtime(), Runtime(gradient_checkpointing=True, micro_batch_size=1)):
        adapter = make(tied=tied)
        subject = Subject(layout=head_layout(model), model=model, tokenizer=tokenizer, records=records, runtime=runtime)
        subject.train(adapter, TrainingSettings(lr=0.01, epochs=2, batch_size=2))
        trained.append([value.detach() for value in adapter.parameters()])
    for one, other in zip(*trained, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


# ---------------------------------------------------------------------------------------------------------- helpers


def adapter_in_double(adapter, h, row, side):
    """`edit`, less its cast to float32, so that gradients can be compared closely."""
    cast = torch.Tensor.float
    torch.Tensor.float = lambda self: self
    try:
        return adapter.edit(h, row, side)
    finally:
        torch.Tensor.float = cast


def outputs(model, adapter, rows):
    """What the last layer puts out, row by row, from one batch padded on the right."""
    width = max(len(row.ids) for row in rows)
    ids = torch.tensor([list(row.ids) + [0] * (width - len(row.ids)) for row in rows])
    mask = torch.tensor([[1] * len(row.ids) + [0] * (width - len(row.ids)) for row in rows])
    seen = []
    layer: nn.Module = model.get_submodule(head_layout(model).blocks[-1])

    def run():
        handle = layer.register_forward_hook(lambda _, args, out: seen.append(out[0] if type(out) is tuple else out))
        with torch.no_grad():
            model(input_ids=ids, attention_mask=mask)
        handle.remove()

    if adapter is None:
        run()
    else:
        with adapter.attach(model), adapter.reading(rows, width):
            run()
    return [state[: len(row.ids)] for row, state in zip(rows, seen[0], strict=True)]
