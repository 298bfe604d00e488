"""Step 2: offsets of a few heads, with and without what the layers below them computed kept."""

from collections.abc import Iterator, Sequence
from functools import partial

from benchmarks.measure import Result, Series, Setting, Variant, quiet
from benchmarks.steps import NOTE, PAD, comparisons, fresh_adapter, ours, random_rows, spread, upper
from lofit.adapters.heads import HeadAdapter
from lofit.models.prefix import KeptPrefix, keep_prefix
from lofit.models.tokens import Encoded


def keep(setting: Setting, adapter: HeadAdapter, rows: Sequence[Encoded]) -> KeptPrefix | None:
    """What lofit keeps of the layers below the adapter's heads; None where there is nothing to keep."""
    batch = setting.shape.batch
    with quiet():
        return keep_prefix(setting.model, setting.layout, adapter.lowest_layer or 0, rows, pad_id=PAD, batch_size=batch)


def both(setting: Setting, adapter: HeadAdapter, rows: Sequence[Encoded], size: int | None = None) -> list[Variant]:
    """lofit's step without and, where there is something to keep, with the kept prefix."""
    variants = [ours(setting, adapter, rows, "lofit, nothing kept", size=size)]
    if (kept := keep(setting, adapter, rows)) is not None:
        variants.append(ours(setting, adapter, rows, "lofit, kept prefix", size=size, kept=kept))
    return variants


def step_two(setting: Setting) -> Iterator[Series]:
    """Offsets: side by side, then as heads, lowest layer and rows grow."""
    shape, layout = setting.shape, setting.layout
    middle = layout.num_layers // 2
    rows = random_rows(setting, shape.batch, shape.length, shape.labels)
    adapter = fresh_adapter(setting, spread(upper(setting, middle), shape.heads))
    variants = both(setting, adapter, rows)
    if len(variants) > 1:
        once = partial(kept_once, setting, adapter, rows)
        variants.append(Variant("keeping the prefix, once for all epochs", once, quiet))
    size = f"{shape.labels} labels in {shape.batch} x {shape.length} tokens"
    title = f"offsets of {len(adapter.heads)} heads from layer {middle} of {layout.num_layers} on, {size}"
    yield Series("step2", title, [*variants, *comparisons(setting, adapter, rows)], NOTE)

    variants = [
        ours(setting, fresh_adapter(setting, spread(layout.all_heads(), count)), rows, "lofit", size=count)
        for count in (*shape.head_counts, layout.size)
    ]
    yield Series("step2", "number of heads", variants, "The lowest head is in layer 0.", grows="heads tuned")

    variants = []
    for lowest in sorted({layout.num_layers * quarter // 4 for quarter in range(4)}):
        heads = spread(upper(setting, lowest), shape.heads)
        variants += both(setting, fresh_adapter(setting, heads), rows, lowest)
    note = f"{shape.heads} heads. Autograd goes no lower than the lowest tuned head by itself."
    yield Series("step2", "lowest tuned layer", variants, note, grows=f"lowest tuned layer of {layout.num_layers}")

    variants = []
    for length in shape.lengths:
        rows = random_rows(setting, shape.batch, length, shape.labels)
        variants += both(setting, adapter, rows, length)
    note = f"{len(adapter.heads)} heads from layer {middle} on."
    yield Series("step2", "row length", variants, note, grows="tokens in a row")


def kept_once(setting: Setting, adapter: HeadAdapter, rows: Sequence[Encoded]) -> Result:
    keep(setting, adapter, rows)
    return {}
