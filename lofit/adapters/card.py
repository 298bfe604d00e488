"""Model cards: what the README.md of a written folder says."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from huggingface_hub import EvalResult, ModelCardData

from lofit.adapters.provenance import Provenance
from lofit.models.layout import Head

if TYPE_CHECKING:
    from torch import Tensor

    from lofit.adapters.base import Adapter

PAPER = "https://arxiv.org/abs/2406.01563"

LOADING = """\
On the model as it is, and taken off again at the end of the block:

```python
import lofit
from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained("{base}"{revision})
adapter = lofit.load_adapter("THIS_FOLDER")
with adapter.attach(model):
    ...
```
"""

LIMITS = """\
- The edit acts at every token position, those of the prompt included.
- The vectors live in the space of the heads' outputs and are tried on the base model and revision named above only.
- Layers are counted among those that have attention heads, from 0.
"""


def adapter_card(adapter: "Adapter") -> str:
    """The card of an adapter's folder."""
    provenance = adapter.provenance
    base = provenance.base_model or "BASE_MODEL"
    parts = [
        f"# {title(provenance)}",
        adapter.summary(),
        "## Where it comes from",
        table(("", ""), origin(provenance)),
        "## Scores" if provenance.metrics else "",
        table(("metric", "value"), [(name, f"{value:g}") for name, value in provenance.metrics.items()]),
        "## How to use it",
        LOADING.format(base=base, revision=revision_argument(provenance)),
        adapter.usage(),
        "## What it does not do",
        adapter.limits(),
        adapter.details(),
    ]
    return (
        front_matter(provenance, library="lofit", relation="adapter")
        + "\n\n".join(part.strip() for part in parts if part.strip())
        + "\n"
    )


def title(provenance: Provenance) -> str:
    task = provenance.training.get("task")
    return f"{task}: an adapter of {provenance.base_model or 'a language model'}" if task else "An adapter"


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
