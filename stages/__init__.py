"""The stages of dvc.yaml, one script each; and what has to hold before any library is imported."""

import ctypes
import logging
import os
import signal
import sys
from pathlib import Path

from lofit.threads import share_processors
from stages.paths import project_root

share_processors()

# matplotlib keeps a cache of fonts, by default in the home folder.
os.environ.setdefault("MPLCONFIGDIR", str(project_root() / ".cache" / "matplotlib"))
# accelerate imports bitsandbytes, which warns about missing kernels.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

if "LOCAL_RANK" in os.environ:
    # Of several processes that train together, only the first one speaks.
    if os.environ["LOCAL_RANK"] != "0":
        os.environ.update(TQDM_DISABLE="1", LOFIT_TRACKING="off")
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115
    # Their launcher gives them sessions of their own: killed, it would leave them at work on the outs of the next run.
    if sys.platform == "linux":
        set_signal_at_parents_death = 1
        ctypes.CDLL(None).prctl(set_signal_at_parents_death, signal.SIGKILL)
