"""lofit inspect: a model's heads, and what tuning some of them would train."""

from typing import TYPE_CHECKING, Annotated, get_args

import typer
from rich.table import Table

from lofit.cli.arguments import ModelName, Revision, find_base
from lofit.cli.terminal import columns, terminal
from lofit.errors import LofitError

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

    from lofit.models.layout import HeadLayout

SHARES = (1, 3, 5, 10, 20)
LORA_RANK = 8


def inspect(
    model: ModelName,
    revision: Revision = None,
    projection: Annotated[
        str | None, typer.Option(help="Name of the attention output projection, where it is not found by itself.")
    ] = None,
) -> None:
    """Show a model's heads, and what tuning K % of them would train. No weights are loaded."""
    from lofit.models.base import skeleton
    from lofit.models.layout import head_layout

    found = find_base(model, revision)
    source, revision = found.source, found.revision
    empty = skeleton(source, revision=revision)
    layout = head_layout(empty, projection=projection)
    console, parameters = terminal(), sum(weight.numel() for weight in empty.parameters())

    facts = Table.grid(padding=(0, 3))
    facts.add_column(no_wrap=True)
    facts.add_column(overflow="fold")
    for name, value in (
        ("architecture", type(empty).__name__),
        ("parameters", f"{parameters:,}"),
        ("layers with heads", f"{layout.num_layers:,}"),
        ("heads", f"{layout.size:,}, {layout.num_heads:,} in each layer"),
        ("head_dim", f"{layout.head_dim:,}"),
        ("output projections", pattern(layout.projections)),
        *special_tokens(empty, source, revision),
    ):
        facts.add_row(name, value)
    console.print(facts, "")

    table = columns("trained", "heads", "parameters", right=(1, 2))
    trained = [("step 1, scales", layout.size)]
    trained += [(f"step 2, offsets of {share} %", max(1, round(layout.size * share / 100))) for share in SHARES]
    rows = [(name, f"{heads:,}", heads * layout.head_dim) for name, heads in trained]
    if (lora := lora_parameters(empty, layout)) is not None:
        rows.append((f"LoRA r={LORA_RANK} on q and v", "", lora))
    for name, heads, trainable in rows:
        table.add_row(name, heads, f"{trainable:,}")
    console.print(table, "")
    console.print(
        "Set K, the number of heads, in params.yaml: tasks.<task>.select_heads.k. Of the 1024 heads of Llama-2-7B, the "
        "paper's 3 % are 32 and its 10 % are 96.",
        "",
    )
    served, reasons = served_table(empty, layout)
    console.print("")
    console.print(served)
    for reason in reasons:
        console.print("")
        console.print(reason)


def special_tokens(model: "PreTrainedModel", source: str, revision: str | None) -> list[tuple[str, str]]:
    """What training, scoring and generation take for the ends of texts and lines, and how much they can read."""
    from lofit.models.base import load_tokenizer
    from lofit.models.vocabulary import vocabulary_of

    try:
        tokenizer = load_tokenizer(source, revision=revision)
    except LofitError as error:
        return [("tokenizer", str(error))]
    found = vocabulary_of(model, tokenizer)

    def named(*tokens: int | None) -> str:
        known = [token for token in tokens if token is not None]
        return ", ".join(f"{tokenizer.convert_ids_to_tokens(token)} ({token})" for token in known) or "none"

    return [
        ("vocabulary", f"{found.size:,}"),
        ("positions", f"{found.positions:,}" if found.positions else "no limit stated"),
        ("end tokens", named(*found.ends)),
        ("beginning token", named(found.begin)),
        ("padding token", named(found.padding)),
    ]


def served_table(model: "PreTrainedModel", layout: "HeadLayout") -> tuple[Table, list[str]]:
    """What becomes of offsets outside lofit: what engines do with a bias, and what can be exported for them.

    Beside it why, where nothing can.
    """
    import torch

    from lofit.adapters.heads import HeadAdapter
    from lofit.export.bias_sites import find_home
    from lofit.export.engines import Engine, table

    # One offset for each head, all different: what holds for these holds for any.
    numbers = torch.arange(layout.size * layout.head_dim, dtype=torch.float32)
    edits = HeadAdapter(layout.all_heads(), numbers.view(layout.size, layout.head_dim))
    shown = columns("engine", "a bias of the output projection", "known from", "lofit export, with offsets")
    written, reasons = {"peft": "--to peft"}, []
    for engine in get_args(Engine):
        try:
            home = find_home(model, edits, layout, engine)
            option = "" if engine == "transformers" else f" --engine {engine}"
            written[engine] = f"--to hf{option}{' (relabelled as a Llama)' if home.as_llama else ''}"
        except LofitError as error:
            written[engine] = "refuses, see below"
            reasons.append(f"{engine}: {error}")
    for found in table(model.config.get_text_config(decoder=True).model_type):
        known = found.mark if found.mark != "unknown" else ""
        shown.add_row(
            f"{found.engine} {found.version}", f"{found.verdict}: {found.detail}", known, written[found.engine]
        )
    return shown, reasons


def pattern(names: tuple[str, ...]) -> str:
    """Module names in one, such as `layers.{0..31}.o_proj`."""
    parts = [list(dict.fromkeys(part)) for part in zip(*(name.split(".") for name in names), strict=False)]
    return ".".join(part[0] if len(part) == 1 else "{" + span(part) + "}" for part in parts)


def span(parts: list[str]) -> str:
    """`0..31` for consecutive numbers, else all parts."""
    first, last = parts[0], parts[-1]
    consecutive = first.isdecimal() and parts == [str(number) for number in range(int(first), int(first) + len(parts))]
    return f"{first}..{last}" if consecutive else ",".join(parts)


def lora_parameters(model: "nn.Module", layout: "HeadLayout") -> int | None:
    """What LoRA would train at q_proj and v_proj, its usual places; None where the model has no such modules."""
    total = 0
    for name in layout.projections:
        attention = dict(model.get_submodule(name.rpartition(".")[0]).named_children())
        for projection in (attention.get("q_proj"), attention.get("v_proj")):
            weight = getattr(projection, "weight", None)
            if weight is None:
                return None
            total += LORA_RANK * sum(weight.shape)
    return total
