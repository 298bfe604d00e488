"""The command `python -m benchmarks`."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import torch
import transformers
import typer
from tqdm import tqdm
from transformers.utils.logging import disable_progress_bar

from benchmarks.cost import measured_limits
from benchmarks.generation import generated_answers
from benchmarks.measure import TOLERANCE, Row, Series, Setting, measure
from benchmarks.plot import picture
from benchmarks.prefixes import step_two
from benchmarks.scoring import multiple_choice
from benchmarks.shapes import DTYPES, SHAPES, device_called, random_model
from benchmarks.steps import label_growth, step_one
from benchmarks.table import markdown, to_csv
from benchmarks.texts import read_texts
from lofit.errors import LofitError
from lofit.models.layout import head_layout
from lofit.report.plots import save
from lofit.storage.files import write_whole

GROUPS = {
    "step1": step_one,
    "step2": step_two,
    "labels": label_growth,
    "choices": multiple_choice,
    "generation": generated_answers,
}
ShapeName = StrEnum("ShapeName", list(SHAPES))
DtypeName = StrEnum("DtypeName", list(DTYPES))
GroupName = StrEnum("GroupName", list(GROUPS))

SMALL = ShapeName("small")

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def bench(
    shape: Annotated[ShapeName, typer.Option(help="Which random model.")] = SMALL,
    dtype: Annotated[DtypeName | None, typer.Option(help="Of its weights; by default what suits the shape.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:<number>.")] = "cpu",
    repeats: Annotated[int, typer.Option(min=1, help="Timed runs of each variant; curves have half as many.")] = 3,
    questions: Annotated[int, typer.Option(min=1, help="Multiple-choice questions to score.")] = 4,
    truthfulqa: Annotated[
        Path | None, typer.Option(help="Folder with fold_{0,1}_test_seed_42.csv; without it, generated questions.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for benchmark.md, benchmark.csv and benchmark.png.")] = Path(
        "reports"
    ),
    only: Annotated[GroupName | None, typer.Option(help="Measure a single group.")] = None,
) -> None:
    """Time lofit beside the alternatives, in turns, and check that they agree. Nothing is downloaded."""
    size = SHAPES[shape.value]
    place = device_called(device)
    precision = DTYPES[dtype.value if dtype else size.dtype]
    config = size.config()
    texts = read_texts(truthfulqa, vocabulary=config.vocab_size)
    if questions > len(texts.records):
        raise LofitError(f"--questions {questions}: got {len(texts.records)} questions; expected at most as many")
    model = random_model(size, device=place, dtype=precision)
    layout = head_layout(model)
    setting = Setting(model, layout, size, place, precision, texts, questions, repeats)
    # Large enough that a GPU is busy, small enough that two cores do not take minutes.
    side = 8192 if place.type == "cuda" else 256 if shape.value == "tiny" else 2048
    limits = measured_limits(place, precision, size=side, repeats=repeats)
    measured: list[Series] = []
    rows: list[Row] = []
    faults: list[str] = []
    for group in [only.value] if only else GROUPS:
        for series in GROUPS[group](setting):
            own, wrong = measure(series, setting, limits)
            rows += own
            faults += wrong
            # What the variants hold, models and batches, is needed no more.
            measured.append(Series(**{**vars(series), "variants": ()}))
    setup = (
        f"{shape.value}: {layout.num_layers} layers x {config.hidden_size}, {layout.num_heads} heads of "
        f"{layout.head_dim}, vocabulary {config.vocab_size:,}, random weights, "
        f"{str(precision).removeprefix('torch.')}; {processor(place)}; "
        f"torch {torch.__version__}, transformers {transformers.__version__}. "
        f"Questions: {texts.source}."
    )
    report = markdown(measured, rows, limits, setup=setup, repeats=repeats, tolerance=TOLERANCE[precision])
    write_whole(out / "benchmark.md", report)
    write_whole(out / "benchmark.csv", to_csv(rows, limits))
    save(picture(measured, rows), out / "benchmark.png")
    tqdm.write(f"{out / 'benchmark.md'}, benchmark.csv and benchmark.png: {len(rows)} rows")
    # Only now, as hours on a rented machine may lie behind it.
    if faults:
        raise LofitError("\n".join(faults))


def processor(device: torch.device) -> str:
    """What the table says about where it was measured."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads"


def main(arguments: list[str] | None = None) -> None:
    """Run the command; what the user can mend, or results that disagree, is one line and exit status 1."""
    disable_progress_bar()
    try:
        app(arguments)
    except (LofitError, OSError) as error:
        sys.exit("\n".join(f"error: {line}" for line in str(error).splitlines()))


if __name__ == "__main__":
    main()
