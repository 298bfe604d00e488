"""Model cards: what the README.md of a written folder says."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from huggingface_hub import EvalResult, ModelCardData

from lofit.adapters.provenance import Provenance
from lofit.models.layout import Head

if TYPE_CHECKING:
    from torch import Tensor

PAPER = "https://arxiv.org/abs/2406.01563"

LOADING = """\
Before the output projections, on the model as it is, and taken off again at the end of the block:

```python
import lofit
from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained("{base}"{revision})
adapter = lofit.HeadAdapter.from_pretrained("THIS_FOLDER")
with adapter.attach(model):
    ...
```

Folded into a plain checkpoint, which costs nothing to serve and needs no lofit:

```bash
lofit export THIS_FOLDER MERGED --to hf
```

As a stock PEFT adapter, which transformers loads by itself:

```bash
lofit export THIS_FOLDER PEFT --to peft
```
"""

LIMITS = """\
- The edit acts at every token position, those of the prompt included.
- The vectors live in the space of the heads' outputs and are tried on the base model and revision named above only.
- Layers are counted among those that have attention heads, from 0.
"""


def adapter_card(heads: Sequence[Head], vectors: "Mapping[str, Tensor]", provenance: Provenance) -> str:
    """The card of an adapter folder; `vectors` are K x head_dim, in the order of `heads`."""
    numbers = sum(vector.numel() for vector in vectors.values())
    kinds = " and ".join(vectors) or "no vectors"
    base = provenance.base_model or "BASE_MODEL"
    parts = [
        f"# {title(provenance)}",
        f"A [LoFiT]({PAPER}) adapter: {kinds} of {len(heads)} attention heads, {numbers:,} numbers in all. "
        "An edited head's output z becomes (1 + scale) z + offset.",
        "## Where it comes from",
        table(("", ""), origin(provenance)),
        "## Scores" if provenance.metrics else "",
        table(("metric", "value"), [(name, f"{value:g}") for name, value in provenance.metrics.items()]),
        "## How to use it",
        LOADING.format(base=base, revision=revision_argument(provenance)),
        "## What it does not do",
        LIMITS,
        "## Heads",
        head_table(heads, vectors),
    ]
    return (
        front_matter(provenance, library="lofit", relation="adapter")
        + "\n\n".join(part.strip() for part in parts if part)
        + "\n"
    )


def title(provenance: Provenance) -> str:
    task = provenance.training.get("task")
    return f"{task}: a few heads of {provenance.base_model or 'a language model'}" if task else "A few edited heads"


def revision_argument(provenance: Provenance) -> str:
    """The argument that pins the base model's commit, where there is one."""
    return f', revision="{provenance.commit}"' if provenance.commit else ""


def origin(provenance: Provenance) -> list[tuple[str, str]]:
    """What is known of the making, by name."""
    known = {
        "base model": provenance.base_model,
        "revision": provenance.base_revision,
        "edited before": provenance.target_module,
        **{key.replace("_", " "): value for key, value in provenance.training.items() if key != "parameters"},
        **provenance.training.get("parameters", {}),
        "made with": ", ".join(f"{name} {version}" for name, version in provenance.libraries.items()),
    }
    return [(name, str(value)) for name, value in known.items() if value not in (None, "")]


def head_table(heads: Sequence[Head], vectors: "Mapping[str, Tensor]") -> str:
    """One row for each head, with the Euclidean norms of its vectors."""
    norms = [vector.norm(dim=1).tolist() for vector in vectors.values()]
    rows = [(str(layer), str(head), *(f"{norm[row]:.4g}" for norm in norms)) for row, (layer, head) in enumerate(heads)]
    return table(("layer", "head", *(f"norm of the {name.removesuffix('s')}" for name in vectors)), rows)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows as Markdown; nothing where there are none."""
    if not rows:
        return ""
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows))


def front_matter(provenance: Provenance, *, library: str, relation: str) -> str:
    """The metadata that the Hugging Face hub reads; `relation` is the one to the base model."""
    task = provenance.training.get("task")
    name = f"lofit-{task}" if task else "lofit"
    # A local folder's path says nothing to the hub, or names somebody else's model.
    base = provenance.base_model if provenance.commit else None
    data = ModelCardData(
        base_model=base,
        base_model_relation=relation if base else None,
        library_name=library,
        datasets=[task] if task else None,
        metrics=sorted({metric.rpartition("/")[2] for metric in provenance.metrics}) or None,
        tags=["lofit"],
        model_name=name if provenance.metrics and task else None,
        eval_results=[
            EvalResult(
                task_type="text-generation",
                dataset_type=task,
                dataset_name=task,
                dataset_split=split or None,
                metric_type=metric,
                metric_value=value,
            )
            for name, value in provenance.metrics.items()
            for split, _, metric in (name.rpartition("/"),)
            if task
        ]
        or None,
    )
    return f"---\n{data.to_yaml()}\n---\n\n"
