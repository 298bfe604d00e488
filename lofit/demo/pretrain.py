"""Train the demo base model from scratch and write it, with the data sets of its world."""

import math
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, log_softmax
from tqdm import tqdm
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from lofit.demo import corpus, tokenizer
from lofit.demo.recipe import Recipe
from lofit.demo.world import create, write_data
from lofit.errors import LofitError
from lofit.training.checkpoint import Checkpoint, load_optimizer_tensors, optimizer_tensors

Document = tuple[list[int], int]
"""Token ids with `<s>` and `</s>`, and how many of them are the prompt."""

# Where a processor has no instructions for it, bfloat16 takes three times as long as float32.
HAS_BFLOAT16 = any(has for name, has in torch.cpu.get_capabilities().items() if "bf16" in name)

Item = tuple[str, tuple[str, ...]]
"""A prompt and its answers, the right one first."""


class UnlearnedError(LofitError):
    """The base model missed the gate of its recipe."""


def build(folder: Path, *, world: int, checkpoint: Checkpoint, recipe: Recipe = Recipe()) -> dict[str, float]:  # noqa: B008
    """Write `folder/model` and `folder/data` of a world; return the scores, overlaps and sizes of the build.

    Raises `UnlearnedError`, and writes no model, where a task's cued score stays below the gate.
    """
    facts = create(world, recipe)
    write_data(facts, folder / "data")
    texts = corpus.documents(facts, recipe)
    encoder = tokenizer.train(prompt + answer for prompt, answer in texts)
    documents = encode(encoder, texts)
    torch.manual_seed(world)
    model = _model(encoder, recipe)
    with _one_thread():
        steps, scores = _pretrain(
            model,
            documents,
            recipe,
            checkpoint,
            world,
            lambda: accuracies(model, encoder, corpus.items(facts, "train", 1)),
        )
    for task, score in scores.items():
        if score < recipe.gate:
            raise UnlearnedError(
                f"world {world}: after {steps} steps the demo model answers {score:.3f} of {task}'s cued "
                f"questions and {recipe.gate} are needed; choose another world"
            )
    model.save_pretrained(folder / "model")
    encoder.save_pretrained(folder / "model")
    bare = accuracies(model, encoder, corpus.items(facts, "train", 0))
    return {
        **{f"cued_{task}": score for task, score in scores.items()},
        **{f"bare_{task}": score for task, score in bare.items()},
        **corpus.overlap(facts, texts),
        "documents": len(documents),
        "tokens": sum(len(ids) for ids, _ in documents),
        "steps": steps,
        "parameters": sum(value.numel() for value in model.parameters()),
    }


def encode(encoder: PreTrainedTokenizerFast, texts: list[tuple[str, str]]) -> list[Document]:
    """Token ids of every document."""
    prompts = encoder([prompt for prompt, _ in texts])["input_ids"]
    answers = encoder([answer for _, answer in texts], add_special_tokens=False)["input_ids"]
    return [([*p, *a, encoder.eos_token_id], len(p)) for p, a in zip(prompts, answers, strict=True)]


def _model(encoder: PreTrainedTokenizerFast, recipe: Recipe) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=64 * math.ceil(len(encoder) / 64),
        hidden_size=recipe.hidden,
        intermediate_size=recipe.intermediate,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        max_position_embeddings=recipe.positions,
        tie_word_embeddings=True,
        pad_token_id=encoder.pad_token_id,
        bos_token_id=encoder.bos_token_id,
        eos_token_id=encoder.eos_token_id,
        dtype=torch.float32,
    )
    model = LlamaForCausalLM(config)
    # The fused attention's bfloat16 backward pass takes twice the time on a CPU, at this length.
    model.set_attn_implementation("eager")
    model.generation_config = GenerationConfig(
        do_sample=False,
        pad_token_id=encoder.pad_token_id,
        bos_token_id=encoder.bos_token_id,
        eos_token_id=encoder.eos_token_id,
    )
    return model


@contextmanager
def _one_thread() -> Iterator[None]:
    """The same model however many cores there are: their number decides how sums are rounded.

    So small a model is trained hardly faster by two.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _batches(documents: list[Document], tokens: int, seed: str) -> list[list[Document]]:
    """One epoch of batches of at most `tokens` padded tokens."""
    rng = random.Random(seed)
    order = rng.sample(documents, len(documents))
    batches: list[list[Document]] = []
    # Sorting by length inside large chunks saves padding and still mixes the kinds of documents over the epoch.
    for start in range(0, len(order), 6000):
        chunk = sorted(order[start : start + 6000], key=lambda document: len(document[0]))
        filled: list[list[Document]] = [[]]
        for document in chunk:
            if len(document[0]) * (len(filled[-1]) + 1) > tokens and filled[-1]:
                filled.append([])
            filled[-1].append(document)
        batches += rng.sample(filled, len(filled))
    return batches


def _padded(batch: list[Document], prompt_weight: float) -> tuple[Tensor, Tensor]:
    """Token ids [B, T] and the loss weight of each as a target [B, T]; padding, on the right, weighs 0."""
    width = max(len(ids) for ids, _ in batch)
    ids = torch.tensor([ids + [0] * (width - len(ids)) for ids, _ in batch])
    weights = torch.tensor(
        [[prompt_weight] * n + [1.0] * (len(ids) - n) + [0.0] * (width - len(ids)) for ids, n in batch]
    )
    return ids, weights


def _loss(model: LlamaForCausalLM, batch: list[Document], prompt_weight: float) -> Tensor:
    """Weighted mean cross-entropy; no attention mask is needed, since padding is on the right of a causal model."""
    ids, weights = _padded(batch, prompt_weight)
    targets, weights = ids[:, 1:].flatten(), weights[:, 1:].flatten()
    # Padding needs no logits, which are the dearest part of so small a model.
    kept = weights.nonzero().squeeze(1)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=HAS_BFLOAT16):
        hidden = model.model(input_ids=ids[:, :-1], use_cache=False).last_hidden_state  # [B, T-1, hidden]
        logits = model.lm_head(hidden.flatten(0, 1)[kept])  # [kept, vocabulary]
    losses = cross_entropy(logits.float(), targets[kept], reduction="none")
    return (losses * weights[kept]).sum() / weights.sum()


def _optimizers(model: LlamaForCausalLM, recipe: Recipe) -> dict[str, torch.optim.Optimizer]:
    matrices = [value for name, value in model.named_parameters() if value.ndim == 2 and ".layers." in name]
    others = [value for name, value in model.named_parameters() if value.ndim != 2 or ".layers." not in name]
    return {
        "muon": torch.optim.Muon(matrices, lr=recipe.muon_lr, weight_decay=recipe.muon_decay),
        "adam": torch.optim.AdamW(others, lr=recipe.adam_lr, betas=(0.9, 0.98), weight_decay=0.0),
    }


def _rate(step: int, epoch: int, recipe: Recipe) -> float:
    """Learning rate of a step as a share of its peak; an extension decays again, from half the peak."""
    if step >= epoch:
        length = max(1, round(recipe.extension * epoch))
        return max(recipe.floor, 0.5 * (1 - (step - epoch) % length / length))
    warm = max(1, round(recipe.warmup * epoch))
    if step < warm:
        return (step + 1) / warm
    return recipe.floor + (1 - recipe.floor) * (epoch - 1 - step) / max(1, epoch - 1 - warm)


def _pretrain(
    model: LlamaForCausalLM,
    documents: list[Document],
    recipe: Recipe,
    checkpoint: Checkpoint,
    seed: int,
    score: Callable[[], dict[str, float]],
) -> tuple[int, dict[str, float]]:
    """Train in place for one epoch and, while the gate is missed, its extensions; return the steps and the scores."""
    optimizers = _optimizers(model, recipe)
    peaks = {"muon": recipe.muon_lr, "adam": recipe.adam_lr}
    order = _batches(documents, recipe.batch_tokens, f"order {seed}")
    epoch, extension = len(order), round(recipe.extension * len(order))
    step = 0
    if saved := checkpoint.load():
        step, tensors, _ = saved
        model.load_state_dict({name.removeprefix("model."): v for name, v in tensors.items() if name[:6] == "model."})
        for name, optimizer in optimizers.items():
            load_optimizer_tensors(optimizer, tensors, name)
    ends = [epoch + index * extension for index in range(recipe.extensions + 1)]
    progress = tqdm(total=epoch, initial=step, desc="base model", unit="step")
    scores: dict[str, float] = {}
    for end in (end for end in ends if end >= step):
        progress.total = end
        while step < end:
            loss = _loss(model, order[step % epoch], recipe.prompt_weight)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
            for name, optimizer in optimizers.items():
                for group in optimizer.param_groups:
                    group["lr"] = peaks[name] * _rate(step, epoch, recipe)
                optimizer.step()
                optimizer.zero_grad()
            step += 1
            progress.update()
            progress.set_postfix(loss=f"{loss.item():.2f}", refresh=False)
            if checkpoint.due():
                state = {f"model.{name}": value for name, value in model.state_dict().items()}
                for name, optimizer in optimizers.items():
                    state |= optimizer_tensors(optimizer, name)
                checkpoint.save(step, state, [])
        scores = score()
        if min(scores.values()) >= recipe.gate:
            break
    progress.close()
    return step, scores


@torch.no_grad()
def accuracies(
    model: LlamaForCausalLM, encoder: PreTrainedTokenizerFast, items: dict[str, list[Item]]
) -> dict[str, float]:
    """Share of the items answered rightly, by task.

    With wrong answers given: the right one has the highest summed log-probability (MC1). Without: greedy decoding
    gives the right answer and `</s>`, which is so when each of its tokens is the most probable after the others.
    """
    return {task: sum(_answered(model, encoder, rows)) / len(rows) for task, rows in items.items()}


def _answered(model: LlamaForCausalLM, encoder: PreTrainedTokenizerFast, rows: list[Item]) -> Iterator[bool]:
    for start in range(0, len(rows), 50):
        chunk = rows[start : start + 50]
        documents = encode(encoder, [(prompt, answer) for prompt, answers in chunk for answer in answers])
        ids, _ = _padded(documents, 0.0)
        logprobs = log_softmax(model(input_ids=ids[:, :-1], use_cache=False).logits.float(), -1)  # [B, T-1, vocabulary]
        chosen = logprobs.gather(-1, ids[:, 1:, None]).squeeze(-1)
        spans = [slice(prompt - 1, len(document) - 1) for document, prompt in documents]
        greedy = [bool((logprobs[i, s].argmax(-1) == ids[i, 1:][s]).all()) for i, s in enumerate(spans)]
        # A choice is compared without its `</s>`, as the task's own score does.
        sums = [float(chosen[i, s][:-1].sum()) for i, s in enumerate(spans)]
        position = 0
        for _, answers in chunk:
            scores = sums[position : position + len(answers)]
            yield scores[0] > max(scores[1:]) if len(answers) > 1 else greedy[position]
            position += len(answers)
