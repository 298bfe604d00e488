"""The blocks of params.yaml, typed.

What belongs to a method, a ranking or a task has its `Settings` on that page of the library; the rest stands here. A
key that is left out has its default; the stage check writes all of them down for DVC (see `stages.params.plan`).
"""

import re
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, PlainValidator
from pydantic_core import PydanticCustomError

from lofit.methods import lofit
from lofit.rankings.scale_norm import ScaleSettings
from lofit.settings import GGUF_PATTERN, Count, Name, RunName, Seed, Settings, Text
from lofit.tasks.question_files import FOLDER
from lofit.tasks.record import Options, Source

GROUPS = ("baselines", "readers", "methods", "measured", "probed", "transfers", "controls")
"""The lists of rows in `run`, in the order in which the report shows them."""

LOFIT_GROUPS = ("methods", "measured", "probed", "transfers", "controls")
"""Those of LoFiT's rows, which tune offsets of heads."""


class Comparisons(Settings):
    """Differences that the report tests, by a paired bootstrap over questions; p-values are corrected for all of them
    together (Holm)."""

    reference: Name
    """The row to compare with."""

    rows: Annotated[list[Name], Field(min_length=1)]
    """The rows that are compared with it, on every task."""


class Run(Settings):
    """What `dvc repro` computes: every task, with every seed, by every row.

    The lists of rows say what a row waits for, which DVC has to know before anything runs.
    """

    name: RunName = "demo"
    """Results go to metrics/<name> and reports/<name>."""

    tasks: Annotated[list[Name], Field(min_length=1)]

    seeds: Annotated[list[Seed], Field(min_length=1)]

    baselines: list[Name]
    """Rows that are no LoFiT: they wait for data and model only."""

    readers: list[Name]
    """Rows that are no LoFiT and look at activations, such as ITI."""

    methods: list[Name]
    """Rows of LoFiT at heads that step 1 has chosen."""

    measured: list[Name]
    """Rows of LoFiT at heads that another training, or gradients, have chosen."""

    probed: list[Name]
    """Rows of LoFiT at heads that probes of activations have chosen."""

    controls: list[Name]
    """Rows of LoFiT at heads chosen without step 1, such as random ones."""

    transfers: list[Name]
    """Rows of LoFiT at heads that step 1 has chosen on another task."""

    out_of_domain: list[Name] = Field(default_factory=list)
    """Rows, of any list, that are asked the questions of other tasks, too: those of the block `out_of_domain`."""

    studies: list[Name] = Field(default_factory=list)
    """Pages of lofit/studies: figures and tables over these cells, each with a block in `studies`."""

    comparisons: Comparisons | None = None
    """Which rows the report compares with which one, decided before anything has run; null for none."""

    @property
    def rows(self) -> list[str]:
        """All rows, in the order in which the report shows them."""
        return [row for group in GROUPS for row in getattr(self, group)]

    @property
    def lofit_rows(self) -> list[str]:
        """The rows that tune offsets of heads."""
        return [row for group in LOFIT_GROUPS for row in getattr(self, group)]

    @property
    def fitted_rows(self) -> list[str]:
        """The rows that are no LoFiT."""
        return [*self.baselines, *self.readers]


class Model(Settings):
    """The model to adapt."""

    name: Text
    """`demo`, a folder, a Hugging Face id, a `.gguf` file, or what comes as a package: `smollm2-135m`,
    `gemma3-270m`."""

    revision: str | None = None
    """Branch, tag or commit on the hub; null for its main branch."""

    file: Annotated[str, Field(pattern=GGUF_PATTERN)] | None = None
    """The GGUF file to take from a Hugging Face id; null where there is none to choose."""

    dtype: Literal["float32", "bfloat16", "float16", "auto"]
    """`auto`: bfloat16 where the processor or the accelerator computes in it, else float32."""

    quantization: Literal["bitsandbytes_4bit", "bitsandbytes_8bit", "torchao_8bit", "torchao_4bit"] | None = None
    """How the weights are quantised while they are loaded; null for not at all."""

    projection: Text | None = None
    """Name of the attention output projection in a layer, where it is not found by itself."""

    world: Seed = 0
    """Which generated world the demo model learns."""

    @property
    def full_name(self) -> str:
        """What manifests and adapters call it."""
        return self.name if self.file is None else f"{self.name}/{self.file}"


def number_or_share(value: Any) -> int | str:
    if type(value) is int and value >= 1:
        return value
    if isinstance(value, str) and (found := SHARE.fullmatch(value)) and 0 < float(found[1]) <= 100:
        return value
    fault = f": got {value!r}; expected a whole number from 1, or a share of the heads, as 3%"
    raise PydanticCustomError("fault", "a number of heads", {"fault": fault})


SHARE = re.compile(r"([0-9]+(?:[.][0-9]+)?)%")

NumberOfHeads = Annotated[int | str, PlainValidator(number_or_share)]


class SelectHeads(Settings):
    """Between the steps: which heads to tune. Other keys are the ranking's own settings."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    k: NumberOfHeads
    """How many, or which share of the model's: `3%`."""

    ranking: Name = "scale_norm"
    """A page of lofit/rankings."""

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of the ranking."""
        return dict(self.model_extra or {})


class Evaluate(Settings):
    """How the tuned model is scored."""

    split: Literal["val", "test"]

    batch_size: Count

    max_new_tokens: Count = 16
    """Length of a generated answer, in tokens."""

    drift: Text | None = None
    """A text file below data/: how much the tuned model departs from the base on text that is none of the task's, as
    cross-entropy and KL divergence per token. Null: not measured."""


class Task(Settings):
    """A task, a block for each stage."""

    kind: Name
    """A page of lofit/tasks: a published task, or `jsonl` for one's own. Two tasks may share one."""

    fetch_data: Source
    preprocess: Options
    train_scales: ScaleSettings | None = None
    select_heads: SelectHeads | None = None
    tune_bias: lofit.Settings | None = None
    evaluate: Evaluate


class Row(Settings):
    """One row of the table. Its blocks override single keys of the task's blocks of the same name."""

    kind: Name
    """A page of lofit/methods."""

    fit: dict[str, Any] | None = None
    """Baselines: the method's settings, and k, ranking, ranking_settings and scale_settings as in `lofit.fit`."""

    tasks: dict[Name, dict[str, Any]] = Field(default_factory=dict)
    """Baselines: what differs from `fit` on some tasks."""

    tune: dict[str, list[Any]] | None = None
    """Settings to search on the validation split, each with its values; {} for none."""

    select_heads: dict[str, Any] | None = None
    tune_bias: dict[str, Any] | None = None
    evaluate: dict[str, Any] | None = None


class OutOfDomain(Settings):
    """How the rows of `run.out_of_domain` are scored on other tasks, by lm-evaluation-harness."""

    tasks: list[Text] = Field(default_factory=list)
    """Names that lm-eval knows, of those that come with lofit, or of `folder`."""

    limit: Count | None = None
    """The most questions of each task; null for all."""

    num_fewshot: Annotated[int, Field(ge=0)] | None = None
    """Examples before each question; null for what each task says."""

    batch_size: Count = 16

    files: Text = FOLDER
    """A folder below data/: the files of the tasks that come with lofit."""

    folder: Text | None = None
    """A folder below data/: lm-eval YAML files of one's own, with the files that they read."""


class Params(Settings):
    """The whole of params.yaml."""

    run: Run
    model: Model
    out_of_domain: OutOfDomain = OutOfDomain()
    methods: dict[Name, Row]
    tasks: dict[Name, Task]
    studies: dict[Name, dict[str, Any]] = Field(default_factory=dict)
    """The settings of each study, by its name; {} for its defaults."""
