"""Where a forward pass takes its time, by kind of kernel, through torch's profiler; on a GPU also the gaps."""

from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Final

import torch
from torch.profiler import ProfilerActivity, profile

KINDS: Final[Mapping[str, tuple[str, ...]]] = {
    "attention": ("flash", "fmha", "attention", "varlen"),
    "matrix products": (
        "gemm",
        "gemv",
        "nvjet",
        "cutlass",
        "xmma",
        "splitk",
        "::mm",
        "addmm",
        "::bmm",
        "linear",
        "matmul",
    ),
    "copies": ("memcpy", "memset", "copy", "_to_copy", "::cat", "catarray", "clone", "contiguous", "pin_memory"),
    "gathering": ("index", "embedding", "gather", "scatter", "::slice", "::split"),
}
"""Part of a kernel's or an operator's name → its kind, the first that matches; whatever is left is element-wise."""
REST: Final = "element-wise"
GAPS: Final = "launch gaps"


def kind_of(name: str) -> str:
    """Return the kind of a kernel, or of a CPU operator, from its name."""
    lowered = name.lower()
    return next((kind for kind, parts in KINDS.items() if any(part in lowered for part in parts)), REST)


def shares(device: torch.device, work: Callable[[], object]) -> dict[str, float]:
    """Return the share of one call's time by kind, largest first; they add up to 1.

    On a GPU the time is that from its first kernel to its last, and what no kernel fills are the launch gaps. On the
    CPU it is the time inside operators, less that of the operators which they call.
    """
    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU, ProfilerActivity.CUDA] if on_gpu else [ProfilerActivity.CPU]
    work()
    with profile(activities=activities) as profiler:
        work()
        if on_gpu:
            torch.cuda.synchronize(device)
    taken: dict[str, float] = defaultdict(float)
    if on_gpu:
        spans = []
        for event in profiler.events():
            if event.device_type.name == "CUDA":
                taken[kind_of(event.name)] += event.time_range.elapsed_us()
                spans.append((event.time_range.start, event.time_range.end))
        taken[GAPS] = _unfilled(spans)
    else:
        for average in profiler.key_averages():
            taken[kind_of(average.key)] += average.self_cpu_time_total
    total = sum(taken.values()) or 1.0
    return {kind: time / total for kind, time in sorted(taken.items(), key=lambda part: -part[1])}


def _unfilled(spans: list[tuple[float, float]]) -> float:
    """Return how much of the time from the first start to the last end lies in no span."""
    gaps, reached = 0.0, min((start for start, _ in spans), default=0.0)
    for start, end in sorted(spans):
        gaps += max(0.0, start - reached)
        reached = max(reached, end)
    return gaps
