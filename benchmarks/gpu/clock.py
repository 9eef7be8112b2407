"""Seconds as a caller sees them: the device has finished before the clock is read."""

import statistics
import time
from collections.abc import Callable, Sequence

import torch

Work = Callable[[], object]


def wait_for(device: torch.device) -> None:
    """Wait until the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(device: torch.device, work: Work) -> float:
    """Return how long one call takes, the device's part included."""
    wait_for(device)
    began_at = time.perf_counter()
    work()
    wait_for(device)
    return time.perf_counter() - began_at


def median_seconds(device: torch.device, work: Work, rounds: int) -> float:
    """Return the median over rounds, after one that is not counted."""
    return side_by_side(device, [work], rounds)[0]


def side_by_side(device: torch.device, works: Sequence[Work], rounds: int) -> list[float]:
    """Return the median of each of several, in rounds that alternate, after one that is not counted."""
    measured = [[seconds(device, work) for work in works] for _ in range(rounds + 1)]
    return [statistics.median(column[1:]) for column in zip(*measured, strict=True)]


class Deadline:
    """How much of a run's time is left: a leased machine goes back on the minute."""

    def __init__(self, limit_seconds: float) -> None:
        self._ends_at = time.monotonic() + limit_seconds

    def has_passed(self) -> bool:
        return time.monotonic() >= self._ends_at
