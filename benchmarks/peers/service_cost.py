"""What the service itself costs: HTTP, tokenising and queueing beside the engine; and what it saves across requests."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

from app.domain import TokenizedConversation
from app.text.tokenization import ConversationTokenizer
from benchmarks.peers.engines import InProcess, Scored
from benchmarks.peers.rounds import TOLERANCE, Timing, difference, timing
from benchmarks.peers.served import ArmoserveServed, OpenRlhfServed
from benchmarks.peers.workloads import Request, Workload


@dataclass(frozen=True, slots=True)
class Ratio:
    """One throughput over another, in the median of the rounds' ratios.

    Tokens of whole conversations, to a CPU second of the process that computes.
    """

    name: str
    tokens_per_second: float
    over: str
    over_tokens_per_second: float
    ratio: float
    lowest: float
    highest: float
    wall_ratio: float
    target: float


@dataclass(frozen=True, slots=True)
class Rates:
    """One round: tokens and time of what is measured, and of what it is held against."""

    num_tokens: int
    timing: Timing
    over_num_tokens: int
    over_timing: Timing

    @property
    def own(self) -> float:
        return self.num_tokens / self.timing.seconds

    @property
    def over(self) -> float:
        return self.over_num_tokens / self.over_timing.seconds

    @property
    def wall_ratio(self) -> float:
        own = self.num_tokens / self.timing.wall_seconds
        return own / (self.over_num_tokens / self.over_timing.wall_seconds)


async def served_over_engine(
    workload: Workload, served: ArmoserveServed, own: InProcess, tokenizer: ConversationTokenizer, rounds: int
) -> list[Ratio]:
    """Compare the service with its engine in this process, given tokens; by one request, and by single ones."""
    together: list[Rates] = []
    singly: list[Rates] = []
    for number in range(1 + rounds):
        request = workload.request(tokenizer)
        engine = await timing(own, _compute(own, own.encode(request)))
        one = await timing(served, served.score(request))
        check(workload, one.scored, engine.scored)
        other = workload.request(tokenizer)
        many = await timing(served, served.score_singly(other))
        if number:
            together.append(Rates(request.num_tokens, one, request.num_tokens, engine))
            singly.append(Rates(other.num_tokens, many, request.num_tokens, engine))
    names = (f"{workload.name}, one request", f"{workload.name}, single requests in flight together")
    return [
        ratio_of(name, "engine in process", pairs, 0.7) for name, pairs in zip(names, (together, singly), strict=True)
    ]


async def _compute(own: InProcess, conversations: Sequence[TokenizedConversation]) -> Scored:
    return own.compute(conversations)


async def singles_over_one(
    workload: Workload, served: ArmoserveServed | OpenRlhfServed, tokenizer: ConversationTokenizer, rounds: int
) -> Ratio:
    """Compare n requests of one response each, in flight together, with one request of n responses."""
    rates = []
    for number in range(1 + rounds):
        first, second = workload.request(tokenizer), workload.request(tokenizer)
        one = await timing(served, served.score(first))
        many = await timing(served, served.score_singly(second))
        if number:
            rates.append(Rates(second.num_tokens, many, first.num_tokens, one))
    return ratio_of(f"{served.name}: {workload.name} as single requests", "as one request", rates, 0.8)


@dataclass(frozen=True, slots=True)
class SeenAgain:
    """A prompt with other responses, after it was scored once: median seconds, and tokens computed the second time."""

    prompt_tokens: int
    response_tokens: int
    computed_tokens: int
    first_seconds: float
    second_seconds: float
    largest_score_difference: float
    """From an engine without a cache, over the scores' spread."""


async def prompt_seen_again(
    workload: Workload, served: ArmoserveServed, uncached: InProcess, tokenizer: ConversationTokenizer, rounds: int
) -> SeenAgain:
    """Score a prompt with the first half of its responses, then with the second half.

    Raises:
        SystemExit: the second time more was computed than its responses, or other scores.
    """
    seconds: list[tuple[float, float]] = []
    far, lengths, computed = 0.0, (0, 0), 0
    for _ in range(rounds):
        halves = _halves(workload, tokenizer)
        first, second = [await timing(served, served.score(half)) for half in halves]
        conversations = uncached.encode(halves[1])
        lengths = len(conversations[0].prefix_ids), sum(len(one.response_ids) for one in conversations)
        computed = second.scored.computed_tokens
        if computed != lengths[1]:
            raise SystemExit(f"a prompt seen again: {computed} tokens were computed for {lengths[1]} of responses")
        far = max(far, check(workload, second.scored, uncached.compute(conversations)))
        seconds.append((first.seconds, second.seconds))
    once, again = (statistics.median(column) for column in zip(*seconds, strict=True))
    return SeenAgain(*lengths, computed, once, again, far)


def _halves(workload: Workload, tokenizer: ConversationTokenizer) -> list[Request]:
    (item,) = workload.items()
    middle = len(item.responses) // 2

    def half(responses: tuple[str, ...]) -> Request:
        return replace(workload, items=lambda: (replace(item, responses=responses),)).request(tokenizer)

    return [half(item.responses[:middle]), half(item.responses[middle:])]


def check(workload: Workload, one: Scored, other: Scored) -> float:
    """Return the largest difference of scores.

    Raises:
        SystemExit: it is beyond the tolerance.
    """
    far = difference(one, other)
    if not far < TOLERANCE:
        raise SystemExit(f"{workload.name}: scores differ by {far:.1e} of their spread")
    return far


def ratio_of(name: str, over: str, rounds: Sequence[Rates], target: float) -> Ratio:
    """Sum rounds up."""
    ratios = [one.own / one.over for one in rounds]
    return Ratio(
        name=name,
        tokens_per_second=statistics.median(one.own for one in rounds),
        over=over,
        over_tokens_per_second=statistics.median(one.over for one in rounds),
        ratio=statistics.median(ratios),
        lowest=min(ratios),
        highest=max(ratios),
        wall_ratio=statistics.median(one.wall_ratio for one in rounds),
        target=target,
    )
