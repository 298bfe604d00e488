"""The benchmark itself: what it measures is measured right, its variants agree, and every group runs. Never a time."""

import csv
import math
import time

import pytest
import torch

import benchmarks.__main__ as command
from benchmarks.cost import Limits, counted, peak_memory
from benchmarks.generation import answer, has_ended, literate
from benchmarks.loop_over_heads import LoopOverHeads
from benchmarks.measure import Series, Variant, absolute, compared, difference, measure
from benchmarks.shapes import eager, sharing, with_output
from benchmarks.steps import fresh_adapter
from lofit.models.generation import generate

CPU = torch.device("cpu")
VARIANTS = {
    "step1": {"lofit", "bare model, logits at labels", "published form", "published form, detect_anomaly"},
    "step2": {"lofit, nothing kept", "lofit, kept prefix", "LoRA r=8 q, v, logits everywhere"},
    "labels": {"lofit, logits at labels", "logits everywhere"},
    "choices": {"lofit, shared prefix", "one forward per answer, all logits (published form)"},
    "generation": {"lofit, until the answers end", "one prompt at a time, no cache, always 6 tokens"},
}


def test_every_group_runs_and_every_figure_is_finite(tmp_path):
    command.bench(shape=command.ShapeName("tiny"), repeats=1, questions=1, out=tmp_path)
    with (tmp_path / "benchmark.csv").open(newline="") as opened:
        rows = list(csv.DictReader(opened))
    for group, names in VARIANTS.items():
        assert names <= {row["name"] for row in rows if row["group"] == group}
    numbers = [name for name in rows[0] if name not in ("group", "series", "name", "size", "difference", "absolute")]
    for row in rows:
        assert all(math.isfinite(float(row[name])) for name in numbers)
        assert min(float(row[name]) for name in ("median_ms", "ratio", "gflop", "gigabytes", "peak_mb")) > 0
        assert float(row["low_ms"]) <= float(row["median_ms"]) <= float(row["high_ms"])
        assert not row["difference"] or float(row["difference"]) < 1e-4
    assert any(float(row["difference"] or 0) > 0 for row in rows)
    report = (tmp_path / "benchmark.md").read_text()
    assert all(row["name"] in report for row in rows)
    assert "generated in TruthfulQA's format" in report
    assert (tmp_path / "benchmark.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("vectors", ["scales", "offsets"])
def test_the_published_loop_gives_the_logits_and_gradients_of_the_adapter(setting, vectors):
    heads = setting.layout.all_heads() if vectors == "scales" else [(1, 2), (1, 0), (3, 1)]
    adapter = fresh_adapter(setting, heads, vectors)
    adapter.vectors()[vectors].data.mul_(100)
    ids = torch.randint(512, (2, 9), generator=torch.Generator().manual_seed(1))
    with adapter.attach(setting.model, setting.layout):
        expected = setting.model(ids).logits
        gradient = torch.autograd.grad(expected.square().sum(), list(adapter.parameters()))[0]
    edit = LoopOverHeads(adapter, setting.layout, CPU)
    for looped, clone in ((eager(setting.model), False), (setting.model, True)):
        with edit.attached(looped, clone=clone):
            logits = looped(ids).logits
            rows = torch.stack(torch.autograd.grad(logits.square().sum(), edit.trained))
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
        assert difference(rows, gradient) < 1e-4
    assert difference(setting.model(ids).logits, expected) > 1e-3


def test_peak_memory_sees_an_allocation_that_is_gone_at_the_end():
    def work():
        first = torch.empty(1_000_000)
        second = torch.empty(2_000_000)
        del first, second
        torch.empty(500_000)

    assert peak_memory(work, CPU) == pytest.approx(12_000_000, rel=0.01)


def test_operations_and_bytes_of_a_product_and_its_gradient():
    left, right = torch.randn(20, 30, requires_grad=True), torch.randn(30, 40)
    product = 2 * 20 * 30 * 40
    sizes = 4 * (20 * 30 + 30 * 40 + 20 * 40)
    assert counted(lambda: left.detach() @ right)[:2] == (product, sizes)
    assert counted(lambda: torch.autograd.grad((left @ right).sum(), left))[:2] == (2 * product, 2 * sizes)


def test_attention_on_a_cpu_is_counted_like_its_two_products():
    q, k, v = (torch.randn(1, 2, 16, 8) for _ in range(3))
    flops, moved, _ = counted(lambda: torch.nn.functional.scaled_dot_product_attention(q, k, v))
    assert flops == 2 * (2 * 2 * 16 * 16 * 8)
    assert moved >= 4 * 4 * q.numel()


def test_figures_of_a_run_of_several_steps_are_those_of_one(setting):
    left = torch.randn(20, 30)

    def run():
        for _ in range(3):
            left @ left.T
        time.sleep(0.06)
        return {}

    sampled = []
    variant = Variant("three", run, steps=3, sample=lambda: sampled.append(torch.empty(1_000_000)))
    rows, _ = measure(Series("step1", "some", [variant]), setting, Limits(1e12, 1e12))
    assert rows[0].gflop == 2 * 20 * 30 * 20 / 1e9
    assert 20 <= rows[0].median_ms == pytest.approx(rows[0].low_ms)
    assert rows[0].limit_percent == pytest.approx(100 * 2 * 20 * 30 * 20 / 1e12 / (rows[0].median_ms / 1000))
    assert rows[0].peak_mb == pytest.approx(4, rel=0.01) and sampled


def test_results_that_disagree_are_found():
    variants = [Variant("one", dict), Variant("other", dict), Variant("another size", dict, size=1)]
    results = [{"loss": torch.tensor(1.0)}, {"loss": torch.tensor(1.00001)}, {"loss": torch.tensor(9.0)}]
    series = Series("step1", "some", variants)
    assert compared(series, results, 1e-4) == ([None, pytest.approx(1e-5, rel=0.01), None], [])
    assert absolute(series, [{"loss": torch.tensor(2.0)}, {"loss": torch.tensor(2.5)}, {}]) == [None, 0.5, None]
    results[1] = {"loss": torch.tensor(1.001)}
    assert compared(series, results, 1e-4)[1] == ["step1, some: other: loss differs by 1.0e-03; expected 1e-04"]
    results[1] = {"loss": torch.tensor(math.nan)}
    assert "loss differs by nan" in compared(series, results, 1e-4)[1][0]


def test_a_disagreement_fails_the_command_after_the_tables_are_written(tmp_path, monkeypatch):
    monkeypatch.setitem(command.TOLERANCE, torch.float32, -1.0)
    with pytest.raises(SystemExit, match="error: labels, vocabulary at 512: logits everywhere: loss differs by"):
        command.main(["--shape", "tiny", "--repeats", "1", "--only", "labels", "--out", str(tmp_path)])
    assert (tmp_path / "benchmark.csv").exists()


def test_a_model_held_to_words_answers_in_words_of_several_lengths(setting, texts):
    prompts = [record.prompt for record in texts.records[:12]]
    words = generate(literate(setting), texts.tokenizer, prompts, batch_size=12, max_new_tokens=12, ended=has_ended)
    assert all(text.replace(" ", "").isalpha() and has_ended(text) for text in words)
    assert len({len(answer(text).split()) for text in words}) > 1


def test_models_that_share_weights_have_their_own_modules(model):
    copy = sharing(model)
    assert all(one is other for one, other in zip(model.parameters(), copy.parameters(), strict=True))
    copy.model.layers[0].self_attn.register_forward_pre_hook(lambda *_: 1 / 0)
    wider = with_output(model, torch.zeros(7, 32))
    ids = torch.tensor([[1, 2, 3]])
    assert model(ids).logits.shape[-1] == 512 and wider(ids).logits.shape[-1] == 7


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "nowhere"], "nowhere/truthfulqa/fold_0_test_seed_42.csv: no such file"),
        (["--model", "nowhere"], "model 'nowhere': "),
        (["--device", "toaster"], "--device toaster: "),
        (["--device", "meta"], "--device meta: its memory cannot be measured here"),
        (["--questions", "100000"], "--questions 100000: got 200 questions; expected at most as many"),
    ],
)
def test_what_the_user_can_mend_is_one_line(arguments, message, tmp_path):
    with pytest.raises(SystemExit) as stopped:
        command.main(["--shape", "tiny", "--out", str(tmp_path), *arguments])
    assert str(stopped.value).startswith(f"error: {message}")
    assert "\n" not in str(stopped.value)
    assert not list(tmp_path.iterdir())
