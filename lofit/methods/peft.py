"""PEFT: any adapter of the library of that name that adds modules to the model, as LoRA, DoRA, IA3, BEFT or LN tuning.

Of LoRA (Hu et al., ICLR 2022, arXiv 2106.09685, equation 3), for the weight W of each targeted module and a rank r:

    h = W x + alpha / r * B A x        A: r x inputs, random at first; B: outputs x r, zeros at first

`config` is what PEFT calls a config, `peft_type` included, so a row is a few lines of it. LoFiT's own LoRA baseline has
r 8, alpha 8, dropout 0.1, on the query and value projections (LoFiT appendix D). Where the config names no
`target_modules`, they are PEFT's own for the model's type. Weights and dropout follow the seed; training is that of
every other method, so that only the adapter differs. A rate that suits one type is far off for another: search `lr` for
each row.

What is refused, and why, stands in `lofit.adapters.peft_config`: virtual tokens, types that have to be called after
each step or that rewrite the base model, and keys that train the base model's own weights.
"""

from typing import TYPE_CHECKING, Any

from pydantic import field_validator
from pydantic_core import PydanticCustomError

from lofit.errors import LofitError
from lofit.models.layout import Head
from lofit.settings import Positive
from lofit.training.settings import TrainingSettings

if TYPE_CHECKING:
    # Whoever reads the settings alone should not wait for torch to load.
    from lofit.adapters.peft import PeftAdapter
    from lofit.training.subject import Subject

RANKING = None


class Settings(TrainingSettings):
    """The adapter, and how it is trained."""

    config: dict[str, Any]
    """PEFT's config: `peft_type`, and the keys of that type."""

    lr: Positive
    """Peak learning rate of AdamW; it falls linearly to zero."""

    @field_validator("config")
    @classmethod
    def can_be_trained(cls, config: dict[str, Any]) -> dict[str, Any]:
        # PEFT loads torch: only those wait for it who have such a row.
        from lofit.adapters.peft_config import peft_config

        try:
            peft_config(config)
        except LofitError as error:
            fault = str(error).removeprefix("config")
            raise PydanticCustomError("fault", "one that can be trained here", {"fault": fault}) from None
        return config


def fit(subject: "Subject", settings: Settings, heads: list[Head]) -> "PeftAdapter":
    """Train an adapter of PEFT; `heads` is empty."""
    from lofit.adapters.peft import PeftAdapter

    adapter = PeftAdapter.fresh(subject.model, settings.config, seed=subject.seed)
    subject.train(adapter, settings)
    return adapter
