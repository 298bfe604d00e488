"""Training in several processes."""

import logging
import os
import sys

from stages.paths import cache_folder
from stages.runtime import read_runtime


def share_work(stage: str) -> None:
    """Start the stage again as several processes, where runtime.yaml asks for them; returns in each of these."""
    count = read_runtime().processes
    if count == 1 or "LOCAL_RANK" in os.environ:
        return
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    threads = os.environ.setdefault("OMP_NUM_THREADS", str(max((os.cpu_count() or 1) // count, 1)))
    print(f"{stage}: {count} processes, {threads} CPU threads each", file=sys.stderr)
    # The processes have said by themselves what went wrong.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    options = ["--standalone", "--nproc-per-node", str(count), "--log-dir", str(cache_folder() / "processes")]
    try:
        run.main([*options, "--module", f"stages.{stage}", *sys.argv[1:]])
    except ChildFailedError:
        sys.exit(1)
    sys.exit(0)
