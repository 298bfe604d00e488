"""What a piece of work costs beside time: operations and bytes of its matrix products, peak memory; and the limits."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

aten = torch.ops.aten
# torch's own counter knows the attention kernels of GPUs only. As there, a causal mask saves nothing.
CPU_ATTENTION = {
    aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v),
    aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda grad, q, k, v, *_, **__: sdpa_backward_flop_count(
        grad, q, k, v
    ),
}
PRODUCTS = ("mm", "addmm", "bmm", "baddbmm")
ATTENTION = ("scaled_dot_product", "flash_attention", "efficient_attention")


def synchronise(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class BytesMoved(TorchDispatchMode):
    """Sums the bytes of the operands and the results of matrix products, attention kernels included."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        name = function.overloadpacket.__name__
        if name in PRODUCTS or any(part in name for part in ATTENTION):
            tensors = [leaf for leaf in tree_iter((args, kwargs, result)) if isinstance(leaf, Tensor)]
            self.total += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        return result


def counted(work: Callable[[], Any]) -> tuple[int, int, Any]:
    """Operations and bytes of the matrix products in `work`, and what it returns."""
    with FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION) as flops, BytesMoved() as moved:
        result = work()
    return flops.get_total_flops(), moved.total, result


def peak_memory(work: Callable[[], Any], device: torch.device) -> int:
    """The most bytes that tensors made by `work` took at a time."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        work()
    events = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


@dataclass(frozen=True)
class Limits:
    """What this machine reaches at best, measured."""

    flops: float
    """Operations per second of a big square matrix product."""

    bandwidth: float
    """Bytes per second of a big copy, read and written."""

    def seconds(self, flops: float, moved: float) -> float:
        """The least time for so much work."""
        return max(flops / self.flops, moved / self.bandwidth)


def measured_limits(device: torch.device, dtype: torch.dtype, *, size: int, repeats: int) -> Limits:
    """Multiply two `size` x `size` matrices, and copy sixteen times as many numbers."""
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    source = torch.zeros(16 * size * size, dtype=dtype, device=device)
    target = torch.empty_like(source)
    product = seconds_each(lambda: left @ right, device, repeats)
    copy = seconds_each(lambda: target.copy_(source), device, repeats)
    return Limits(2 * size**3 / product, 2 * source.numel() * source.element_size() / copy)


def seconds_each(work: Callable[[], Any], device: torch.device, repeats: int, times: int = 5) -> float:
    """Least seconds of one call among `times` calls in a row, which hide what a launch costs.

    The least, not the median: a limit is what the machine reaches when nothing else runs.
    """
    work()
    taken = []
    for _ in range(repeats):
        synchronise(device)
        start = time.perf_counter()
        for _ in range(times):
            work()
        synchronise(device)
        taken.append((time.perf_counter() - start) / times)
    return min(taken)
