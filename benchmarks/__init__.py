"""Time, work and memory of lofit beside the alternatives, all in one process: `python -m benchmarks`, `make bench`."""
