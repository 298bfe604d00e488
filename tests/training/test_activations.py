"""What is collected of answers, against one text at a time with hooks of its own."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from lofit import LofitError, Record, head_layout
from lofit.training.activations import Activations, collect

TRAIN = [
    Record("1", "Q: Can pigs fly? A:", " No", " Yes", correct=(" No", " Never, pigs cannot"), incorrect=(" Yes",)),
    Record("2", "Q: Where did the cat sit? A:", " on the mat", " in the cat, on the dog"),
    Record("3", "Q: Who? A:", " Roy", contrast=(" Anna and the dog",)),
]
VAL = [Record("4", "Q: And the dog? A:", " the mat", " the cat"), replace(TRAIN[0], id="5")]
TEXTS = [
    # prompt + answer, true, question, in val
    ("Q: Can pigs fly? A: No", True, 0, False),
    ("Q: Can pigs fly? A: Never, pigs cannot", True, 0, False),
    ("Q: Can pigs fly? A: Yes", False, 0, False),
    ("Q: Where did the cat sit? A: on the mat", True, 1, False),
    ("Q: Where did the cat sit? A: in the cat, on the dog", False, 1, False),
    ("Q: Who? A: Roy", True, 2, False),
    ("Q: Who? A: Anna and the dog", False, 2, False),
    ("Q: And the dog? A: the mat", True, 3, True),
    ("Q: And the dog? A: the cat", False, 3, True),
    ("Q: Can pigs fly? A: No", True, 4, True),
    ("Q: Can pigs fly? A: Never, pigs cannot", True, 4, True),
    ("Q: Can pigs fly? A: Yes", False, 4, True),
]
NAMES = [entry.name for entry in fields(Activations)]


def read_by_hand(model, tokenizer, text):
    """Heads and layer outputs at the last token of one text, in float32."""
    layers, z, hidden = model.model.layers, [], []
    handles = [
        layer.self_attn.o_proj.register_forward_pre_hook(lambda _, args: z.append(args[0][0, -1])) for layer in layers
    ]
    handles += [
        layer.register_forward_hook(
            lambda *given: hidden.append((given[2] if torch.is_tensor(given[2]) else given[2][0])[0, -1])
        )
        for layer in layers
    ]
    try:
        with torch.no_grad():
            model(torch.tensor([tokenizer(text)["input_ids"]]), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return torch.stack(z).reshape(len(layers), 4, -1).numpy(), torch.stack(hidden).numpy()


def arrays(found):
    return {name: np.array(getattr(found, name)) for name in NAMES}


@pytest.mark.parametrize("batch_size", [1, 3, 100])
@pytest.mark.parametrize("kind", ["words", "closes"])
def test_every_answer_is_read_at_its_last_token(model, make_tokenizer, batch_size, kind):
    # A tokenizer that ends texts by itself must not move the last token.
    plain, tokenizer = make_tokenizer(), make_tokenizer(closes=kind == "closes")
    found = collect(model, tokenizer, head_layout(model), TRAIN, VAL, seed=1, batch_size=batch_size)
    assert found.labels.tolist() == [row[1] for row in TEXTS]
    assert found.questions.tolist() == [row[2] for row in TEXTS]
    assert found.in_val.tolist() == [row[3] for row in TEXTS]
    assert found.heads.dtype == found.blocks.dtype == found.question_ends.dtype == np.float16
    assert found.heads.shape == (len(TEXTS), 2, 4, 8) and found.blocks.shape == (len(TEXTS), 2, 32)
    for row, (text, *_) in enumerate(TEXTS):
        heads, blocks = read_by_hand(model, plain, text)
        np.testing.assert_allclose(found.heads[row], heads, rtol=2e-3, atol=1e-4)
        np.testing.assert_allclose(found.blocks[row], blocks, rtol=2e-3, atol=1e-3)
    assert not np.allclose(found.heads[0], found.heads[2], atol=1e-2)


def test_a_question_end_is_that_of_another_question_after_a_true_answer(model, tokenizer):
    found = collect(model, tokenizer, head_layout(model), TRAIN, VAL, seed=1)
    begun = [f"{record.prompt}{record.completion} " for record in (*TRAIN, *VAL)]
    prompts = [record.prompt for record in (*TRAIN, *VAL)]
    assert len(found.question_ends) == len(begun)
    followers = []
    for row, start in enumerate(begun):
        near = {
            prompt
            for prompt in prompts
            if np.allclose(read_by_hand(model, tokenizer, start + prompt)[0], found.question_ends[row], atol=2e-3)
        }
        assert len(near) == 1 and near != {prompts[row]}
        followers += near
    assert len(set(followers)) > 1
    again, other = (collect(model, tokenizer, head_layout(model), TRAIN, VAL, seed=seed) for seed in (1, 2))
    assert np.array_equal(again.question_ends, found.question_ends)
    assert np.array_equal(other.heads, found.heads) and not np.array_equal(other.question_ends, found.question_ends)


def test_pairs_of_one_question_do_not_count_its_answers_twice(model, tokenizer):
    several = [
        replace(TRAIN[0], id=f"1 #{number}", rejected=wrong) for number, wrong in enumerate((" Yes", " Yes, pigs"))
    ]
    wide = [Record("9", "Q: Who? A:", " Roy", wrong) for wrong in (" Anna", " the dog", " Anna")]
    found = collect(model, tokenizer, head_layout(model), [*several, *wide], [], seed=1)
    once = collect(model, tokenizer, head_layout(model), TRAIN[:1], [], seed=1)
    assert found.questions.tolist() == [0, 0, 0, 2, 2, 2]
    assert found.labels.tolist() == [True, True, False, True, False, False]
    np.testing.assert_allclose(found.heads[:3].astype(float), once.heads.astype(float), atol=1e-3)
    assert len(found.question_ends) == 2 and len(once.question_ends) == 1
    assert not found.in_val.any()


def test_a_folder_holds_what_memory_does(model, tokenizer, tmp_path):
    layout = head_layout(model)
    held = collect(model, tokenizer, layout, TRAIN, VAL, seed=1)
    made = collect(model, tokenizer, layout, TRAIN, VAL, seed=1, folder=tmp_path / "made")
    held.save(tmp_path / "saved")
    assert isinstance(made.heads, np.memmap)
    for name, array in arrays(held).items():
        assert np.array_equal(getattr(made, name), array)
        file = tmp_path / "made" / f"{name}.npy"
        assert file.read_bytes() == (tmp_path / "saved" / f"{name}.npy").read_bytes()
        assert np.array_equal(np.load(file, allow_pickle=False), array)
    loaded = Activations.load(tmp_path / "saved")
    assert isinstance(loaded.heads, np.memmap) and not loaded.heads.flags.writeable
    # Also onto the files that it is mapped from.
    loaded.save(tmp_path / "saved")
    for name, array in arrays(Activations.load(tmp_path / "saved")).items():
        assert np.array_equal(getattr(held, name), array)
    assert sorted(file.stem for file in (tmp_path / "saved").iterdir()) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_that_is_not_whole_is_refused(tmp_path, name):
    made_up(3).save(tmp_path)
    file = tmp_path / f"{name}.npy"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] if name != "question_ends" else b"no array")
    with pytest.raises(LofitError, match=rf"{name}\.npy: not a whole array of numbers"):
        Activations.load(tmp_path)
    np.save(file, np.zeros((2, 2, 5, 2, 7), np.float16))
    with pytest.raises(LofitError, match=r": got heads .*; expected arrays of one set of answers$"):
        Activations.load(tmp_path)
    file.unlink()
    with pytest.raises(LofitError, match=rf"{name}\.npy: no such file; expected a folder of activations"):
        Activations.load(tmp_path)


def test_arrays_of_objects_are_not_read(tmp_path):
    made_up(3).save(tmp_path)
    np.save(tmp_path / "labels.npy", np.array([print, 1], dtype=object), allow_pickle=True)
    with pytest.raises(LofitError, match=r"labels\.npy: not a whole array"):
        Activations.load(tmp_path)


def test_half_a_collection_is_none(make_model, tokenizer, tmp_path):
    model = make_model()
    collect(model, tokenizer, head_layout(model), TRAIN, VAL, seed=1, folder=tmp_path)
    model.model.layers[1].self_attn.v_proj.weight.fill_(torch.nan)
    with pytest.raises(LofitError, match=r"^model: got nan in the heads of layer 1; expected numbers up to 65504"):
        collect(model, tokenizer, head_layout(model), TRAIN, VAL, seed=1, folder=tmp_path)
    with pytest.raises(LofitError, match="no such file"):
        Activations.load(tmp_path)


def test_numbers_beyond_float16_are_refused(make_model, tokenizer):
    model = make_model()
    model.model.layers[0].mlp.down_proj.weight.mul_(1e6)
    with pytest.raises(
        LofitError, match=r"^model: got [\d.e+]+ in the output of layer 0; expected numbers up to 65504"
    ):
        collect(model, tokenizer, head_layout(model), TRAIN, VAL, seed=1)


@pytest.mark.parametrize(
    ("records", "words"),
    [
        ([Record("7", "hot", " cold")], r"^record 7: got a completion and no wrong answer"),
        ([Record("7", "hot " * 300, " cold", " warm")], r"tokens; expected at most 256"),
        ([], r"^records: got none"),
    ],
)
def test_records_that_cannot_be_read_are_refused(model, tokenizer, records, words):
    with pytest.raises(LofitError, match=words):
        collect(model, tokenizer, head_layout(model), records, [], seed=1)


def test_the_model_is_left_as_it_was(make_model, tokenizer):
    model = make_model().train()
    collect(model, tokenizer, head_layout(model), TRAIN, VAL, seed=1)
    assert model.training
    assert not [module for module in model.modules() if module._forward_pre_hooks or module._forward_hooks]


def made_up(count):
    half = np.zeros((count, 2, 4, 8), np.float16)
    return Activations(half, half[:, :, 0], np.arange(count) < 1, np.arange(count), np.arange(count) > 1, half[:2])
