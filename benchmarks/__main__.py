"""The command `python -m benchmarks`."""

import sys
from dataclasses import replace
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
from benchmarks.harness import beside_lm_eval
from benchmarks.measure import TOLERANCE, Row, Series, Setting, measure
from benchmarks.plot import picture
from benchmarks.prefixes import step_two
from benchmarks.scoring import multiple_choice
from benchmarks.shapes import DTYPES, SHAPES, device_called, random_model, shape_of
from benchmarks.steps import label_growth, step_one
from benchmarks.table import markdown, to_csv
from benchmarks.texts import TUNED, Texts, read_texts
from benchmarks.training import whole_runs
from lofit.errors import LofitError
from lofit.models.layout import head_layout
from lofit.models.named import load_model
from lofit.report.plots import save
from lofit.storage.files import write_whole

GROUPS = {
    "step1": step_one,
    "step2": step_two,
    "labels": label_growth,
    "choices": multiple_choice,
    "generation": generated_answers,
    "training": whole_runs,
    "lm-eval": beside_lm_eval,
}
OF_RANDOM = ("step1", "step2", "labels", "choices", "generation")
OF_PRETRAINED = ("training", "lm-eval")
"""What is measured where no group is named."""

ShapeName = StrEnum("ShapeName", list(SHAPES))
DtypeName = StrEnum("DtypeName", list(DTYPES))
GroupName = StrEnum("GroupName", list(GROUPS))
TaskName = StrEnum("TaskName", list(TUNED))

SMALL = ShapeName("small")

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def bench(
    shape: Annotated[ShapeName, typer.Option(help="Which random model.")] = SMALL,
    model: Annotated[
        str | None, typer.Option(help="A pretrained model instead: a name or a folder, as in params.yaml.")
    ] = None,
    dtype: Annotated[
        DtypeName | None, typer.Option(help="Of its weights; by default what suits the shape, or float32.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:<number>.")] = "cpu",
    repeats: Annotated[int, typer.Option(min=1, help="Timed runs of each variant; curves have half as many.")] = 3,
    questions: Annotated[
        int | None, typer.Option(min=1, help="Multiple-choice questions to score; by default 4, or 100 with --model.")
    ] = None,
    batches: Annotated[
        int, typer.Option(min=1, help="Batches of each task in an epoch, where whole runs of training are timed.")
    ] = 2,
    data: Annotated[
        Path | None,
        typer.Option(help="Folder with the published truthfulqa and mquake; without it, generated questions."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for benchmark.md, .csv and .png; by default reports, or one there for --model."),
    ] = None,
    only: Annotated[GroupName | None, typer.Option(help="Measure a single group.")] = None,
    task: Annotated[TaskName | None, typer.Option(help="Of whole runs of training, those on a single task.")] = None,
) -> None:
    """Time lofit beside the alternatives, in turns, and check that they agree. Nothing is downloaded."""
    place = device_called(device)
    if model is None:
        size, name = SHAPES[shape.value], shape.value
        precision = DTYPES[dtype.value if dtype else size.dtype]
        texts = read_texts(data, vocabulary=size.config().vocab_size)
        questions = checked_count(questions or 4, texts)
        decoder = random_model(size, device=place, dtype=precision)
    else:
        name = Path(model).name
        decoder, tokenizer = load_model(model, device=device, dtype=dtype.value if dtype else "float32")
        size, precision = shape_of(decoder), decoder.dtype
        texts = read_texts(data, vocabulary=decoder.config.vocab_size, tokenizer=tokenizer)
        questions = checked_count(questions or 100, texts)
    if task is not None:
        texts = replace(texts, tuning={task.value: texts.tuning[task.value]})
    config, layout = decoder.config, head_layout(decoder)
    setting = Setting(decoder, layout, size, place, precision, texts, questions, repeats, batches)
    # Large enough that a GPU is busy, small enough that two cores do not take minutes.
    side = 8192 if place.type == "cuda" else 256 if shape.value == "tiny" else 2048
    limits = measured_limits(place, precision, size=side, repeats=repeats)
    measured: list[Series] = []
    rows: list[Row] = []
    faults: list[str] = []
    setup = (
        f"{name}: {layout.num_layers} layers x {config.hidden_size}, {layout.num_heads} heads of "
        f"{layout.head_dim}, vocabulary {config.vocab_size:,}, {'pretrained' if model else 'random'} weights, "
        f"{str(precision).removeprefix('torch.')}; {processor(place)}; "
        f"torch {torch.__version__}, transformers {transformers.__version__}. "
        f"Questions: {texts.source}."
    )
    out = out or (Path("reports", name) if model else Path("reports"))
    for group in [only.value] if only else OF_PRETRAINED if model else OF_RANDOM:
        for series in GROUPS[group](setting):
            own, wrong = measure(series, setting, limits)
            rows += own
            faults += wrong
            # What the variants hold, models and batches, is needed no more.
            measured.append(Series(**{**vars(series), "variants": ()}))
            # After each series: the next one may take an hour, and be stopped.
            report = markdown(measured, rows, limits, setup=setup, repeats=repeats, tolerance=TOLERANCE[precision])
            write_whole(out / "benchmark.md", report)
            write_whole(out / "benchmark.csv", to_csv(rows, limits))
            save(picture(measured, rows), out / "benchmark.png")
    tqdm.write(f"{out / 'benchmark.md'}, benchmark.csv and benchmark.png: {len(rows)} rows")
    # Only now, as hours on a rented machine may lie behind it.
    if faults:
        raise LofitError("\n".join(faults))


def checked_count(questions: int, texts: Texts) -> int:
    if questions > len(texts.records):
        raise LofitError(f"--questions {questions}: got {len(texts.records)} questions; expected at most as many")
    return questions


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
