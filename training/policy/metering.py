"""What a run asks of the service: measured at every step while it goes on, said from its log when it has ended.

Knows no reward, no algorithm and no file.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Generic, ParamSpec, TypeVar

from app.client import Usage
from training.figures.numbers import NOTHING, count, number

COMPUTED: Final = "computed_tokens"
LOGICAL: Final = "logical_tokens"
SECONDS: Final = "seconds"
REWARD_SECONDS: Final = "reward_seconds"
METERED: Final = (COMPUTED, LOGICAL, SECONDS, REWARD_SECONDS)
"""The columns of a log that tell of the service."""
Asked = ParamSpec("Asked")
Answer = TypeVar("Answer")


class Metered(Generic[Asked, Answer]):
    """A reward function with a clock beside it, and the tokens of the service that it asks."""

    def __init__(
        self,
        reward: Callable[Asked, Answer],
        usage: Callable[[], Usage],
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Begin the first step; `usage` tells the tokens so far."""
        self._reward, self._usage, self._clock = reward, usage, clock
        self.begin()

    def begin(self) -> None:
        """Begin a step."""
        self._began, self._before, self._waited = self._clock(), self._usage(), 0.0

    def __call__(self, *args: Asked.args, **kwargs: Asked.kwargs) -> Answer:
        asked_at = self._clock()
        answer = self._reward(*args, **kwargs)
        self._waited += self._clock() - asked_at
        return answer

    def row(self) -> dict[str, float]:
        """Return the METERED columns of the step that ends now, and begin the next one."""
        before, now = self._before, self._usage()
        columns = {
            COMPUTED: now.computed_tokens - before.computed_tokens,
            LOGICAL: _logical_tokens(now) - _logical_tokens(before),
            SECONDS: self._clock() - self._began,
            REWARD_SECONDS: self._waited,
        }
        self.begin()
        return columns


def service_figures(rows: Sequence[Mapping[str, float]]) -> dict[str, str]:
    """Say what the service was asked for in the steps of a log, by name; – for what not every row tells."""
    computed, logical, seconds, waited = (math.fsum(row.get(name, math.nan) for row in rows) for name in METERED)
    return {
        "tokens sent": _whole(logical),
        "computed": _whole(computed),
        "spared by sharing": _percent(1 - _ratio(computed, logical)),
        "tokens/s while asked": _whole(_ratio(logical, waited)),
        "time on rewards": _percent(_ratio(waited, seconds)),
    }


def service_line(name: str, rows: Sequence[Mapping[str, float]]) -> str:
    """Say in a line what a run asked of the service."""
    return f"{name}, the service: " + "; ".join(f"{what} {value}" for what, value in service_figures(rows).items())


def _logical_tokens(usage: Usage) -> int:
    return usage.prompt_tokens + usage.response_tokens


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0 else math.nan


def _whole(value: float) -> str:
    return count(round(value)) if math.isfinite(value) else NOTHING


def _percent(share: float) -> str:
    return f"{number(100 * share, 1)}%" if math.isfinite(share) else NOTHING
