"""How torch's threads share the processors with other work; to be called before torch is loaded.

Between two operations OpenMP's threads spin, so that the next one starts at once. With other work on the machine they
take the processors from it, and from each other. Measured on 2 cores, seconds for a training step of a 135M model:

                        quiet         one busy process    three
    as torch ships      1.5 to 1.7    4.3                 15
    a short spin        1.7 to 1.9    2.7                 3.3
    no spin             2.0           2.4                 3.0
    one thread          2.6           2.4                 2.7

Steps of a few milliseconds, such as those at the demo model's heads, pay more for it on a quiet machine: 60 in place of
35 ms. But without it, training the demo model next to two other processes took up to 20 times as long.
"""

import os
import sys
from pathlib import Path

SPINS = "1000"
"""Turns of GNU OpenMP's waiting loop before a thread sleeps; its own default is 300,000 or more."""

CHOICES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
"""Where a user may have said how threads wait."""


def share_processors() -> None:
    """Have threads wait briefly, and start no more of them than there are processors to be had.

    What the environment says already stays as it is. Does nothing where torch is loaded.
    """
    if "torch" in sys.modules:
        return
    if not any(name in os.environ for name in CHOICES):
        os.environ["GOMP_SPINCOUNT"] = SPINS
        # LLVM's and Intel's OpenMP: milliseconds.
        os.environ["KMP_BLOCKTIME"] = "1"
    quota = processor_quota()
    if "OMP_NUM_THREADS" not in os.environ and quota is not None and quota < len(affinity()):
        os.environ["OMP_NUM_THREADS"] = str(max(1, int(quota)))


def affinity() -> set[int]:
    """The processors that this process may run on."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def processor_quota(root: Path = Path("/sys/fs/cgroup")) -> float | None:
    """How many processors' time a container grants; None where it sets no limit."""
    try:
        if (file := root / "cpu.max").exists():
            quota, period = file.read_text().split()
        else:
            quota, period = ((root / "cpu" / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
    except (OSError, ValueError):
        return None
    return None if quota in ("max", "-1") else int(quota) / int(period)
