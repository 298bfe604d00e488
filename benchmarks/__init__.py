"""Time, work and memory of lofit beside the alternatives, all in one process: `python -m benchmarks`, `make bench`."""

import os

# torch's profiler would write two lines of its own for every measurement of memory; read when torch is imported.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")
