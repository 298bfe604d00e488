"""The blocks of params.yaml, typed.

Every field that a user can set stands here with its meaning and its bounds; the blocks have the names of the stages.
A default belongs to the file's format: DVC sees the values in params.yaml, not the ones that it leaves out.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from lofit.errors import LofitError

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_]*$"
DEVICE_PATTERN = r"^(auto|cpu|mps|(cuda|xpu)(:[0-9]+)?)$"
Name = Annotated[str, Field(pattern=NAME_PATTERN)]
Text = Annotated[str, Field(pattern=r"\S")]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Ratio = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, le=2**31 - 1)]


class Block(BaseModel):
    """A block of params.yaml: no unknown key, no silent conversion."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Run(Block):
    """Which cells `dvc repro` computes: every combination of the three lists."""

    tasks: Annotated[list[Name], Field(min_length=1)]

    seeds: Annotated[list[Seed], Field(min_length=1)]

    methods: Annotated[list[Name], Field(min_length=1)]


class Model(Block):
    """The model to adapt."""

    name: Text
    """`demo`, a folder, or a Hugging Face id."""

    revision: str | None = None
    """Branch, tag or commit on the hub; null for its main branch."""

    dtype: Literal["float32", "bfloat16", "float16"]

    quantization: Literal["bitsandbytes_4bit", "bitsandbytes_8bit", "torchao_8bit", "torchao_4bit"] | None = None
    """How the weights are quantised while they are loaded; null for not at all."""

    device: Annotated[str, Field(pattern=DEVICE_PATTERN)] = "auto"
    """Where the model runs; `auto` takes the first accelerator there is, or the CPU."""

    device_map: Literal["auto"] | None = None
    """`auto` spreads the layers of one model over all accelerators and the CPU; null keeps it on `device`."""

    projection: Text | None = None
    """Name of the attention output projection in a layer, where it is not found by itself."""

    world: Seed = 0
    """Which generated world the demo model learns."""


class FetchData(Block):
    """Where a task's published files come from."""

    source: Text
    """`demo` for the generated files, `public` to download the published ones, or a folder. For kind jsonl: a file, a
    folder of split files, or the id of a dataset on the Hugging Face hub."""

    revision: str | None = None
    """Kind jsonl: branch, tag or commit of the hub dataset."""

    subset: str | None = None
    """Kind jsonl: which configuration of the hub dataset."""

    splits: dict[Literal["train", "val", "test"], Text] = Field(default_factory=dict)
    """Kind jsonl: what the hub dataset calls our splits, where that is not train, validation and test."""


class Preprocess(Block):
    """How published files, or one's own, become records."""

    protocol: Literal["clean", "lofit"] = "clean"
    """`lofit` repeats the published code's choices, `clean` corrects its faults."""

    folds: Annotated[list[Annotated[int, Field(ge=0, le=1)]], Field(min_length=1)] = [0]
    """Which of TruthfulQA's two folds; both together make a cross-validation over all its questions."""

    prompt: Literal["question", "six_shot", "instruction"] | None = None
    """Kind truthfulqa: what is scored. The bare question; six examples before it, as in lm-eval; these and an
    instruction, as in the published code. Null: what the protocol uses, `question` (clean) or `instruction` (lofit).
    Under `clean` with examples, answers end in a full stop as the examples do, in tuning as in scoring."""

    train_size: Count | None = None
    """How many training examples to draw of each fold; null for all."""

    seed: Seed = 42
    """Decides that draw, and the split by ratio."""

    template: Text = "{prompt}"
    """Kind jsonl: the prompt, from the fields of a line."""

    columns: dict[Literal["completion", "aliases", "chosen", "rejected", "choices", "answer"], Text] = Field(
        default_factory=dict
    )
    """Kind jsonl: which field holds what, where the names differ."""

    chat: bool = False
    """Kind jsonl: put the prompt into the tokenizer's chat template, as the user's turn."""

    val_ratio: Ratio | None = None
    """Kind jsonl: share of the examples that become the validation split, where no file does."""

    test_ratio: Ratio | None = None
    """Kind jsonl: share of the examples that become the test split, where no file does."""


class Training(Block):
    """What both steps have."""

    lr: Positive

    epochs: Count

    batch_size: Count

    beta: Positive = 0.5
    """DPO's beta; tasks trained with cross-entropy ignore it."""

    max_length: Count = 512
    """Longest training sequence, in tokens."""

    micro_batch_size: Count | None = None
    """Examples in one forward pass; gradients accumulate over the batch. Null: the whole batch at once."""

    gradient_checkpointing: bool = False
    """Compute activations anew in the backward pass instead of keeping them: less memory, more time."""


class TuneBias(Training):
    """Step 2: offsets of the selected heads."""

    keep_prefix: bool = True
    """Keep what the layers below the lowest selected head make of each example, instead of running them anew in every
    epoch: less time, the same result."""

    prefix_memory_gb: NotNegative = 4.0
    """Up to which size that is kept in memory; beyond it, in a file below `.cache`."""


class TrainScales(Training):
    """Step 1: scales of all heads."""

    l1: NotNegative
    """Weight of the L1 penalty, on the sum of absolute values."""


class SelectHeads(Block):
    """Between the steps: which heads to tune."""

    k: Count
    """How many."""

    ranking: Literal["scale_norm", "random"] = "scale_norm"

    draw: Seed = 1
    """Which random draw; `scale_norm` ignores it."""

    source: Text | None = None
    """A file of heads in place of a ranking, best first: `.npy` of (layer, head) pairs, or CSV with those columns."""


class Evaluate(Block):
    """How the tuned model is scored."""

    split: Literal["val", "test"]

    batch_size: Count

    max_new_tokens: Count = 16
    """Length of a generated answer, in tokens."""

    through: Literal["hooks", "merged", "peft"] = "hooks"
    """What carries the edit: hooks on the base model, or an export, written and read back as its users do: the
    checkpoint that it is folded into, or a PEFT adapter."""


class Task(Block):
    """One task with a block for each stage."""

    kind: Literal["truthfulqa", "mquake", "clutrr", "jsonl"]
    """Which loader: a published task, or `jsonl` for one's own. Two tasks may share one and differ in other keys."""

    fetch_data: FetchData
    preprocess: Preprocess
    train_scales: TrainScales
    select_heads: SelectHeads
    tune_bias: TuneBias
    evaluate: Evaluate


class Method(Block):
    """One row of the table. The blocks override single keys of the task's blocks of the same name."""

    kind: Literal["base", "lofit"]
    """`base` edits no head; `lofit` tunes the selected ones."""

    select_heads: dict[str, Any] = Field(default_factory=dict)
    tune_bias: dict[str, Any] = Field(default_factory=dict)
    evaluate: dict[str, Any] = Field(default_factory=dict)


class Params(Block):
    """The whole of params.yaml."""

    run: Run
    model: Model
    methods: dict[Name, Method]
    tasks: dict[Name, Task]

    def task(self, name: str) -> Task:
        """The task called `name`; a LofitError where there is none."""
        if name not in self.tasks:
            raise LofitError(f"task: met {name!r}; allowed: {', '.join(self.tasks)}")
        return self.tasks[name]

    def cell(self, task: str, method: str) -> Task:
        """The task's blocks as `method` sees them, its overrides applied."""
        if method not in self.methods:
            raise LofitError(f"method: met {method!r}; allowed: {', '.join(self.methods)}")
        return cell(self.task(task).model_dump(), self.methods[method])


OVERRIDABLE = ("select_heads", "tune_bias", "evaluate")


def cell(task: dict, method: Method) -> Task:
    """A task, as plain values, with the overrides of `method`, validated."""
    merged = {**task, **{stage: {**task[stage], **getattr(method, stage)} for stage in OVERRIDABLE}}
    if "ranking" in method.select_heads and "source" not in method.select_heads:
        # A control that ranks by itself must not get the task's list of heads.
        merged["select_heads"]["source"] = None
    return Task.model_validate(merged)
