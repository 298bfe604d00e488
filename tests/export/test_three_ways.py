"""An adapter by hooks, merged into a checkpoint, and as a PEFT folder: the same logits and the same scores."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from lofit import HeadAdapter, Record, score
from lofit.export.checkpoint import export_checkpoint
from lofit.export.peft_folder import export_peft
from lofit.export.verify import largest_difference, logits
from lofit.models.base import load, resolve
from lofit.scoring.predict import predict
from lofit.tasks.record import Metric
from tests.families import SHAPE

ROWS = [torch.tensor([5, 17, 40, 8]), torch.tensor([9, 2, 33])]
ADAPTERS = {
    "offsets": HeadAdapter([(0, 1), (1, 2)], offsets=torch.ones(2, 8)),
    "scales": HeadAdapter([(0, 1), (1, 2)], scales=torch.linspace(-2, 2, 16).view(2, 8)),
    "both": HeadAdapter([(0, 1), (1, 2)], torch.ones(2, 8), torch.linspace(-2, 2, 16).view(2, 8)),
}
CHOICES = [
    Record(str(number), prompt, " no", correct=(" no", " No, pigs"), incorrect=(" yes", " a dog"))
    for number, prompt in enumerate(["Q: Can pigs fly? A:", "Q: Where did the cat sit? A:", "A:"])
]
TEXTS = [Record(record.id, record.prompt, " on the mat") for record in CHOICES]


@pytest.fixture
def base(tmp_path, tokenizer):
    torch.manual_seed(0)
    # The tokenizer, read back as that of a Qwen2, has tokens more.
    model = Qwen2ForCausalLM(Qwen2Config(**{**SHAPE, "vocab_size": 512}, num_key_value_heads=2, initializer_range=0.2))
    model.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    return resolve(str(tmp_path / "base"), dtype="float32")


def scored(model, tokenizer):
    choices = predict(model, tokenizer, CHOICES, Metric("multiple_choice"), batch_size=4, max_new_tokens=1)
    texts = predict(model, tokenizer, TEXTS, Metric("exact_match"), batch_size=4, max_new_tokens=6)
    numbers = [value for row in choices for name in ("correct", "incorrect") for value in row.evidence[name]]
    return numbers, [row.evidence["generated"] for row in texts]


@pytest.mark.slow
@pytest.mark.parametrize("vectors", ADAPTERS)
def test_hooks_checkpoint_and_peft_folder_give_the_same_logits_and_scores(base, tmp_path, vectors):
    adapter = ADAPTERS[vectors]
    model, tokenizer = load(base, device="cpu")
    plain = logits(model, ROWS)
    with adapter.attach(model, base.layout):
        wanted, (numbers, texts) = logits(model, ROWS), scored(model, tokenizer)
    effect = largest_difference(wanted, plain)
    assert effect > 0.1 and scored(model, tokenizer)[0] != numbers

    export_checkpoint(base, adapter, tmp_path / "merged", device="cpu")
    export_peft(base, adapter, tmp_path / "peft", device="cpu")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", device_map={"": "cpu"})
    peft = AutoModelForCausalLM.from_pretrained(tmp_path / "peft", device_map={"": "cpu"})
    assert isinstance(merged, LlamaForCausalLM) == (adapter.offsets is not None) and hasattr(peft, "peft_config")
    read = AutoTokenizer.from_pretrained(tmp_path / "merged")
    for exported, its_tokenizer in ((merged.eval(), read), (peft.eval(), tokenizer)):
        assert not any(module._forward_pre_hooks for module in exported.modules())
        assert largest_difference(logits(exported, ROWS), wanted) < 1e-4 * effect
        again, written = scored(exported, its_tokenizer)
        assert again == pytest.approx(numbers, abs=1e-4) and written == texts
        assert score(exported, its_tokenizer, CHOICES, metric=Metric("multiple_choice")) == pytest.approx(
            score(model, tokenizer, CHOICES, adapter=adapter, metric=Metric("multiple_choice")), abs=1e-4
        )
