"""What decides a run of training, and what only decides how it is carried out."""

from pathlib import Path

from pydantic import Field

from lofit.settings import Count, NotNegative, Positive, Settings


class TrainingSettings(Settings):
    """What every method that trains by gradients has."""

    lr: Positive
    """Peak learning rate of AdamW; it falls linearly to zero."""

    epochs: Count = 5

    batch_size: Count = 8

    beta: Positive = 0.5
    """DPO's beta; cross-entropy ignores it."""

    max_length: Count = 512
    """Longest training sequence, in tokens."""

    stop_after: Count | None = None
    """Epochs without a better loss on the validation records after which training ends; the numbers of the best epoch
    are kept. Null: all epochs are trained, and those of the last one are kept."""


class Runtime(Settings):
    """How training is carried out: more or less time and memory for the same result, up to rounding."""

    micro_batch_size: Count | None = None
    """Examples in one forward pass; gradients accumulate over the batch. Null: the whole batch at once."""

    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass instead of keeping them: less memory, more time."""

    keep_prefix: bool = True
    """Keep the output of the layers below the lowest trained one for each example, instead of running these layers in
    every epoch: less time, the same result."""

    prefix_memory_gb: NotNegative = 4.0
    """Up to which size that is kept in memory; beyond it, in a file in `scratch`."""

    scratch: Path | None = Field(default=None, exclude=True)
    """Folder for that file; null for none."""
