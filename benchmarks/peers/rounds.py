"""Rounds in which every engine gets the same request, each time in another order, and must give the same scores."""

import statistics
import time
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from app.text.tokenization import ConversationTokenizer
from benchmarks.peers.engines import ELSEWHERE, THIS_PROCESS, Peer, Scored
from benchmarks.peers.workloads import Workload

TOLERANCE: Final = 1e-4
"""Of the scores' spread, in float32."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One engine on one workload, CPU seconds of the process that computes: other programs disturb them least.

    Ratios above 1 mean faster than the baseline, in the median of the rounds' ratios.
    """

    workload: str
    engine: str
    baseline: str
    seconds: float
    tokens_per_second: float
    """Of all conversations as if nothing were shared."""
    computed_tokens: int
    token_ratio: float
    """Tokens that the baseline computes, over those that this engine does."""
    time_ratio: float
    time_ratio_lowest: float
    time_ratio_highest: float
    wall_ratio: float
    largest_score_difference: float
    """From the first engine's scores, over their spread."""
    by_wall_clock: bool = False
    """Whether seconds and ratios are of the wall clock: the engine's process is out of reach."""


@dataclass(slots=True)
class Timing:
    """One engine in one round."""

    seconds: float
    """CPU seconds of the process that computed."""
    wall_seconds: float
    scored: Scored
    by_wall_clock: bool = False
    """Whether the seconds are of the wall clock, for want of the process's own."""


async def compare(
    workload: Workload, peers: Sequence[Peer], tokenizer: ConversationTokenizer, *, rounds: int, baseline: str
) -> list[Comparison]:
    """Time every engine in alternating rounds, after one that does not count.

    Raises:
        SystemExit: an engine's scores differ from the first one's, and it is one of known weights.
    """
    names = [peer.name for peer in peers]
    timings: dict[str, list[Timing]] = {name: [] for name in names}
    differences = dict.fromkeys(names, 0.0)
    num_tokens: list[int] = []
    for number in range(1 + rounds):
        request = workload.request(tokenizer)
        turn = number % len(peers)
        timed = {peer.name: await timing(peer, peer.score(request)) for peer in (*peers[turn:], *peers[:turn])}
        for name, one in timed.items():
            differences[name] = max(differences[name], difference(one.scored, timed[names[0]].scored))
            if number:
                timings[name].append(one)
        num_tokens.append(request.num_tokens)
    known = [peer.name for peer in peers if peer.process_id != ELSEWHERE]
    unlike = {name: far for name, far in differences.items() if name in known and not far < TOLERANCE}
    if unlike:
        raise SystemExit(f"{workload.name}: scores differ from those of {names[0]}, in their spread: {unlike}")
    tokens = statistics.median(num_tokens[1:])
    return [_row(workload.name, name, baseline, timings, (tokens, differences[name])) for name in names]


async def timing(peer: Peer, work: Awaitable[Scored]) -> Timing:
    """Await what a peer computes; return its scores, and what it took."""
    cpu, wall = cpu_seconds(peer.process_id), time.perf_counter()
    scored = await work
    wall_seconds = time.perf_counter() - wall
    if peer.process_id == ELSEWHERE:
        return Timing(wall_seconds, wall_seconds, scored, by_wall_clock=True)
    return Timing(cpu_seconds(peer.process_id) - cpu, wall_seconds, scored)


def cpu_seconds(process_id: int) -> float:
    """Return what all threads of a process have computed so far; Linux only where it is not this one.

    The kernel derives the clock's id from the process (`clock_getcpuclockid(3)`), for which Python has no name.
    """
    if process_id in (THIS_PROCESS, ELSEWHERE):
        return time.process_time()
    return time.clock_gettime((~process_id << 3) | 2)


def difference(one: Scored, other: Scored) -> float:
    """Return the largest difference between scores, over the spread of the other's."""
    if len(one.scores) != len(other.scores):
        return float("inf")
    spread = float(np.std(other.scores)) or 1.0
    return float(np.abs(np.subtract(one.scores, other.scores)).max()) / spread


def _row(
    workload: str, name: str, baseline: str, timings: dict[str, list[Timing]], facts: tuple[float, float]
) -> Comparison:
    num_tokens, far = facts
    pairs = list(zip(timings[baseline], timings[name], strict=True))
    by_wall_clock = any(own.by_wall_clock for _, own in pairs)
    ratios = [(base.wall_seconds if by_wall_clock else base.seconds) / own.seconds for base, own in pairs]
    seconds = statistics.median(own.seconds for _, own in pairs)
    return Comparison(
        workload=workload,
        engine=name,
        baseline=baseline,
        seconds=seconds,
        tokens_per_second=num_tokens / seconds,
        computed_tokens=int(statistics.median(own.scored.computed_tokens for _, own in pairs)),
        token_ratio=statistics.median(base.scored.computed_tokens / own.scored.computed_tokens for base, own in pairs),
        time_ratio=statistics.median(ratios),
        time_ratio_lowest=min(ratios),
        time_ratio_highest=max(ratios),
        wall_ratio=statistics.median(base.wall_seconds / own.wall_seconds for base, own in pairs),
        largest_score_difference=far,
        by_wall_clock=by_wall_clock,
    )
