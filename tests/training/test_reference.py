"""DPO's reference: against scoring one row at a time, and through its file."""

import math
from dataclasses import replace

import pytest
import torch

from lofit import HeadAdapter, LofitError
from lofit.models.tokens import encode
from lofit.tasks.record import Objective, Record
from lofit.training.reference import pair_logprobs, read_references, write_references

DPO = Objective("dpo")
RECORDS = [
    Record(str(number), prompt, completion, rejected, fold=number % 2)
    for number, (prompt, completion, rejected) in enumerate(
        [
            ("Q: Can pigs fly? A:", " No, pigs cannot fly", " Yes"),
            ("Q: Where did the cat sit? A:", " on the mat", " in the cat, on the dog and on the mat"),
            ("Q: Who? A:", " Roy", " Roy"),
            ("Answer", ": her brother", " mat"),
            ("Q: Can pigs fly? A:", " No", " No, no"),
        ]
        * 3
    )
]


def by_hand(model, tokenizer, prompt, completion):
    """One row by itself, without cache or padding, in float64 from the logits on."""
    row = encode(tokenizer, prompt, completion, end=tokenizer.eos_token_id)
    assert row.ids[-1] == tokenizer.eos_token_id
    with torch.no_grad():
        logprobs = model(torch.tensor([row.ids])).logits[0].double().log_softmax(-1)
    return sum(logprobs[at - 1, row.ids[at]].item() for at in range(row.start, len(row.ids)))


def flat(pairs):
    return [value for pair in pairs for value in pair]


def test_the_reference_is_the_untouched_base_one_row_at_a_time(model, tokenizer):
    expected = [
        by_hand(model, tokenizer, record.prompt, text)
        for record in RECORDS
        for text in (record.completion, record.rejected)
    ]
    # More rows than go through the model at once, of which no two pairs are the same for the wrong reason.
    assert len({round(value, 2) for value in expected}) >= 8
    assert flat(pair_logprobs(model, tokenizer, RECORDS, DPO)) == pytest.approx(expected, abs=1e-4)


def test_a_reference_with_something_attached_is_another_one(model, tokenizer):
    untouched = flat(pair_logprobs(model, tokenizer, RECORDS, DPO))
    adapter = HeadAdapter([(0, 1), (1, 3)], 0.3 * torch.ones(2, 8))
    with adapter.attach(model):
        edited = flat(pair_logprobs(model, tokenizer, RECORDS, DPO))
        expected = by_hand(model, tokenizer, RECORDS[0].prompt, RECORDS[0].completion)
    assert edited[0] == pytest.approx(expected, abs=1e-4)
    assert min(abs(a - b) for a, b in zip(edited, untouched, strict=True)) > 1e-3
    assert flat(pair_logprobs(model, tokenizer, RECORDS, DPO)) == untouched


def test_a_file_gives_back_every_bit_by_split_and_fold(tmp_path):
    records = {"train": RECORDS, "val": RECORDS[:3]}
    pairs = {
        split: [(-math.pi * 10.0**-number, -number / 3) for number in range(len(rows))]
        for split, rows in records.items()
    }
    file = tmp_path / "made" / "reference.csv"
    write_references(file, pairs)
    assert read_references(file, records) == {
        split: {fold: pairs[split][fold::2] for fold in (0, 1)} for split in records
    }
    first = file.read_bytes()
    write_references(file, pairs)
    assert file.read_bytes() == first


def test_a_file_of_other_records_is_refused(tmp_path):
    file = tmp_path / "reference.csv"
    write_references(file, {"train": [(-1.0, -2.0)] * 15, "val": [(-1.0, -2.0)] * 4})
    with pytest.raises(LofitError) as caught:
        read_references(file, {"train": RECORDS, "val": RECORDS[:3]})
    assert str(caught.value) == f"{file}: got 4 rows of val; expected 3, one for each record"
    write_references(file, {})
    assert file.read_text() == "split,chosen,rejected\n"
    with pytest.raises(LofitError, match="got 0 rows of train; expected 15"):
        read_references(file, {"train": RECORDS})


@pytest.mark.parametrize(
    ("objective", "shared"),
    [
        (DPO, True),
        (replace(DPO, reference="initial"), False),
        (replace(DPO, kind="cross_entropy"), False),
    ],
)
def test_only_a_reference_without_a_seed_is_shared(objective, shared):
    assert objective.shares_reference is shared
