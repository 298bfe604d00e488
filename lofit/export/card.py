"""The model card of an export: what it is, what it was checked against, and what it is bound to."""

from collections.abc import Sequence
from pathlib import Path

from lofit.adapters.base import Adapter
from lofit.adapters.card import PAPER, front_matter, origin, table, title
from lofit.export.verify import Verification
from lofit.models.base import BaseModel
from lofit.storage.files import write_whole

MAKERS = {
    "heads": f"[LoFiT]({PAPER})",
    "stream": "offsets of its residual stream",
    "weights": "fine-tuning of all its weights",
}
"""What each kind of adapter that can be exported is called."""


def write_export_card(
    folder: Path,
    *,
    base: BaseModel,
    adapter: Adapter,
    route: str,
    load: str,
    limits: Sequence[str],
    verification: Verification,
) -> None:
    """Write `README.md` into the folder of an export.

    Args:
        route: where the vectors went, in a sentence.
        load: Python that loads the folder.
        limits: what the reader must know, in sentences.
    """
    # Scores belong to what was scored: the adapter on its own base model, in the precision of that run.
    provenance = adapter.provenance.model_copy(
        update={"base_model": base.name, "base_revision": base.revision, "metrics": {}}
    )
    trained_at = adapter.provenance.base_revision
    libraries = ", ".join(f"{name} {version}" for name, version in verification.libraries.items())
    checked = [
        ("largest difference of a logit", f"{verification.difference:.3g}"),
        ("largest effect of the adapter on a logit", f"{verification.effect:.3g}"),
        ("allowed difference", f"{verification.tolerance:g} of the effect"),
        ("weights", base.quantization or verification.dtype),
        ("read back by", libraries),
    ]
    parts = [
        f"# {title(provenance)}",
        f"A model adapted by {MAKERS[adapter.kind]}. {route}",
        "## How to use it",
        f"```python\n{load.strip()}\n```",
        "## What it was checked against",
        "Read from disk in a process without lofit, and compared with the base model with the adapter attached:",
        table(("", ""), checked),
        "## Where it comes from",
        table(("", ""), origin(provenance)),
        f"The adapter was trained at another revision, {trained_at}."
        if trained_at not in (None, base.revision)
        else "",
        "## What it does not do",
        "\n".join(f"- {limit}" for limit in limits) + "\n" + adapter.limits(),
        adapter.details(),
    ]
    body = "\n\n".join(part.strip() for part in parts if part.strip())
    is_peft = (folder / "adapter_config.json").exists()
    library, relation = ("peft", "adapter") if is_peft else ("transformers", "finetune")
    write_whole(folder / "README.md", front_matter(provenance, library=library, relation=relation) + body + "\n")
