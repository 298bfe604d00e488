"""Variants of the same work, timed in turns, compared with each other, and what they cost."""

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from io import StringIO
from statistics import median

import torch
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedModel

from benchmarks.cost import Limits, counted, peak_memory, synchronise
from benchmarks.shapes import Shape
from benchmarks.texts import Texts
from lofit.models.layout import HeadLayout

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.1, torch.float16: 0.02}
"""Largest difference allowed between results that must agree, as a share of the largest number among them."""

Result = dict[str, Tensor | list[str]]


@dataclass(frozen=True)
class Setting:
    """What every group of measurements gets."""

    model: PreTrainedModel

    layout: HeadLayout

    shape: Shape

    device: torch.device

    dtype: torch.dtype

    texts: Texts

    questions: int

    repeats: int

    batches: int = 1
    """Batches of each task that a whole run of training goes through in each epoch."""


@dataclass(frozen=True)
class Variant:
    """One way to do the work."""

    name: str

    run: Callable[[], Result]
    """What is timed. Results of the same name have to agree among the variants of one size."""

    around: Callable[[], AbstractContextManager] = nullcontext
    """Entered before the clock starts, left when it has stopped."""

    size: int | None = None
    """Where the work grows."""

    steps: int = 1
    """Equal parts of the run; time and work are given for one of them."""

    sample: Callable[[], object] | None = None
    """A shorter run that needs as much memory at a time, where the whole one would take too long to follow."""


@dataclass(frozen=True)
class Series:
    """Variants that are timed in turns and make a table; `lofit` as it is comes first."""

    group: str

    title: str

    variants: Sequence[Variant]

    note: str = ""

    reference: str | None = None
    """The variant that the others' results are compared with; the first one of each size if there is no such name."""

    grows: str | None = None
    """What `Variant.size` counts."""

    shows: str = "time"
    """What the plot shows of a series that grows: time or memory."""

    found: Callable[[], str] = str
    """What there is to say only after the runs."""


@dataclass(frozen=True)
class Row:
    """A line of a table."""

    group: str

    series: str

    name: str

    size: int | None

    median_ms: float

    low_ms: float

    high_ms: float

    ratio: float
    """Median over that of the first row; where several variants share a size, of the first row of that size."""

    gflop: float

    gigabytes: float

    peak_mb: float

    limit_percent: float
    """The least time that the machine's limits allow, as a share of the median."""

    difference: float | None
    """Largest difference of a result from the reference's, as a share of the largest number; None: not compared."""

    absolute: float | None = None
    """Largest difference itself, in the unit of the result; None: not compared."""


@dataclass
class Cost:
    """What was measured of a variant."""

    flops: int
    moved: int
    result: Result
    peak: int = 0
    seconds: list[float] = field(default_factory=list)


def measure(series: Series, setting: Setting, limits: Limits) -> tuple[list[Row], list[str]]:
    """Count, compare, then time the variants in turns: a, b, c, a, b, c.

    Returns the rows, and a line for each result that does not agree as it must.
    """
    repeats = growth_repeats(setting.repeats) if series.grows else setting.repeats
    costs: list[Cost] = []
    # What was imported would take longer to search for garbage than a step takes.
    gc.freeze()
    bar = tqdm(total=len(series.variants) * (repeats + 2), desc=f"{series.group}: {series.title}", unit="run")
    with bar:
        for variant in series.variants:
            # The run that counts is the warm-up too.
            with variant.around():
                costs.append(Cost(*counted(variant.run)))
            bar.update()
        results = [cost.result for cost in costs]
        differences, faults = compared(series, results, TOLERANCE[setting.dtype])
        distances = absolute(series, results)
        del results
        for variant, cost in zip(series.variants, costs, strict=True):
            cost.result = {}
            with variant.around():
                cost.peak = peak_memory(variant.sample or variant.run, setting.device)
            bar.update()
        for _ in range(repeats):
            gc.collect()
            for variant, cost in zip(series.variants, costs, strict=True):
                cost.seconds.append(timed(variant, setting.device))
                bar.update()
    gc.unfreeze()
    # From here on, of one step.
    for variant, cost in zip(series.variants, costs, strict=True):
        cost.seconds = [seconds / variant.steps for seconds in cost.seconds]
    medians = [1000 * median(cost.seconds) for cost in costs]
    rows = [
        Row(
            group=series.group,
            series=series.title,
            name=variant.name,
            size=variant.size,
            median_ms=own,
            low_ms=1000 * min(cost.seconds),
            high_ms=1000 * max(cost.seconds),
            ratio=own / medians[baseline(series.variants, variant)],
            gflop=cost.flops / variant.steps / 1e9,
            gigabytes=cost.moved / variant.steps / 1e9,
            peak_mb=cost.peak / 1e6,
            limit_percent=100 * 1000 * limits.seconds(cost.flops, cost.moved) / variant.steps / own,
            difference=difference,
            absolute=distance,
        )
        for variant, cost, own, difference, distance in zip(
            series.variants, costs, medians, differences, distances, strict=True
        )
    ]
    return rows, faults


def growth_repeats(repeats: int) -> int:
    """Runs of each variant of a curve, which has many points already."""
    return -(-repeats // 2)


def timed(variant: Variant, device: torch.device) -> float:
    """Seconds of one run."""
    with variant.around():
        gc.disable()
        try:
            synchronise(device)
            start = time.perf_counter()
            variant.run()
            synchronise(device)
            return time.perf_counter() - start
        finally:
            gc.enable()


@contextmanager
def quiet() -> Iterator[None]:
    """Without the progress bars and messages of what is timed."""
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        yield


def baseline(variants: Sequence[Variant], variant: Variant) -> int:
    """The place of the variant whose time the ratio is about."""
    alike = [place for place, other in enumerate(variants) if other.size == variant.size]
    return alike[0] if len(alike) > 1 else 0


def compared(series: Series, results: Sequence[Result], tolerance: float) -> tuple[list[float | None], list[str]]:
    """How far each variant's results are from those of the reference of its size; None where nothing is shared.

    And a line for each result that is further from it than `tolerance`, NaN included.
    """
    differences: list[float | None] = []
    faults = []
    for variant, result, expected, shared in beside_reference(series, results):
        for name in shared:
            met = difference(result[name], expected[name])
            if not met <= allowed(result[name], tolerance):
                at = "" if variant.size is None else f" at {variant.size}"
                faults.append(
                    f"{series.group}, {series.title}{at}: {variant.name}: {name} differs by {met:.1e}; "
                    f"expected {allowed(result[name], tolerance):.0e}"
                )
        differences.append(max((difference(result[name], expected[name]) for name in shared), default=None))
    return differences, faults


def beside_reference(series: Series, results: Sequence[Result]) -> Iterator[tuple[Variant, Result, Result, list[str]]]:
    """Each variant with its results, those of the reference of its size, and the names that both have.

    The reference itself is compared with nothing.
    """
    for place, (variant, result) in enumerate(zip(series.variants, results, strict=True)):
        alike = [i for i, other in enumerate(series.variants) if other.size == variant.size]
        named = [i for i in alike if series.variants[i].name == series.reference]
        expected = results[(named or alike)[0]]
        yield variant, result, expected, [] if place == (named or alike)[0] else [n for n in result if n in expected]


def absolute(series: Series, results: Sequence[Result]) -> list[float | None]:
    """The largest difference of a number from the reference's, by variant; None where nothing is shared."""
    return [
        max(
            (
                (result[name].double().cpu() - expected[name].double().cpu()).abs().max().item()
                for name in shared
                if isinstance(result[name], Tensor)
            ),
            default=None,
        )
        for _, result, expected, shared in beside_reference(series, results)
    ]


def difference(met: Tensor | list[str], expected: Tensor | list[str]) -> float:
    """Largest difference of a number, as a share of the largest one; of texts, the share of those that differ."""
    if isinstance(met, Tensor) and isinstance(expected, Tensor):
        met, expected = met.double().cpu(), expected.double().cpu()
        return ((met - expected).abs().max() / expected.abs().max().clamp(min=1e-30)).item()
    return sum(one != other for one, other in zip(met, expected, strict=True)) / len(expected)


def allowed(result: Tensor | list[str], tolerance: float) -> float:
    """Texts have to be equal in float32; in half precision, a random model's best tokens are often tied."""
    if isinstance(result, Tensor):
        return tolerance
    return 0.0 if tolerance <= TOLERANCE[torch.float32] else 1.0
