"""How deep should the prefix cache share: nothing, whole prompts only, or any beginning?

    python -m benchmarks.sharing_depth [--weights FOLDER] [--dtype float32] [--rounds 5]

Requests come one after the other, a pack each, as over time. Rounds alternate between the depths, each with an empty
cache, after all were checked to give equal scores. Seconds are CPU seconds of the process.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch

from app.domain import TokenizedConversation
from app.model.prefix_cache import PrefixCache
from app.model.reward_model import RewardModel
from app.model.weights import load_reward_model
from app.pack_builder import PackBuilder
from benchmarks.machine import describe
from benchmarks.results_files import RESULTS, listed, write_results

BUDGET_BYTES: Final = 2**30
TOLERANCE: Final = {"float32": 1e-4, "bfloat16": 0.13, "float16": 0.014}
"""Of the scores' spread in float32; of half precision, the canary's."""
DEPTHS: Final[dict[str, Callable[[], PrefixCache | None]]] = {
    "nothing": lambda: None,
    "whole prompts": lambda: PrefixCache(BUDGET_BYTES, whole_prompts_only=True),
    "any beginning": lambda: PrefixCache(BUDGET_BYTES),
}

Ids = tuple[int, ...]
Requests = list[list[TokenizedConversation]]


@dataclass(frozen=True, slots=True)
class Depth:
    """One workload at one depth: median CPU seconds over the rounds, and what was computed."""

    workload: str
    depth: str
    seconds: float
    time_ratio: float
    """Seconds without the cache over these, round by round: the median."""
    computed_tokens: int
    cache_bytes: int


class Texts:
    """Random ids of given lengths."""

    def __init__(self, vocabulary: int) -> None:
        self._random = np.random.default_rng(0)
        self._vocabulary = vocabulary

    def ids(self, shortest: int, longest: int) -> Ids:
        """Return so many ids, within these bounds."""
        length = self._random.integers(shortest, longest, endpoint=True)
        return tuple(self._random.integers(0, self._vocabulary, length).tolist())

    def responses(self, prompt: Ids, count: int) -> list[TokenizedConversation]:
        """Return responses of 20 to 200 ids to a prompt."""
        return [TokenizedConversation(prompt, self.ids(20, 200), len(prompt) - 2) for _ in range(count)]


def workloads(texts: Texts) -> dict[str, Requests]:
    """Return what is asked, request by request."""
    prompts = [texts.ids(200, 300) for _ in range(8)]
    system = texts.ids(400, 400)
    return {
        "8 prompts of 250 tokens, 2 responses each, three times over": [
            texts.responses(prompt, 2) for _ in range(3) for prompt in prompts
        ],
        "a system prompt of 400 tokens before 16 questions of 40, 2 responses each": [
            texts.responses(system + texts.ids(30, 50), 2) for _ in range(16)
        ],
        "4 conversations of 6 turns, each turn scored": [one for _ in range(4) for one in conversation(texts)],
        "24 prompts of 250 tokens that never come again": [texts.responses(texts.ids(200, 300), 1) for _ in range(24)],
    }


def conversation(texts: Texts) -> Requests:
    """Return the turns of one conversation: two responses each, of which the first is gone on from."""
    requests, so_far = [], texts.ids(40, 80)
    for _ in range(6):
        turn = texts.responses(so_far, 2)
        requests.append(turn)
        so_far = so_far + turn[0].response_ids + texts.ids(30, 60)
    return requests


def scores(model: RewardModel, requests: Requests) -> tuple[np.ndarray, int]:
    """Score request by request; return the scores and how many tokens were computed."""
    found, computed = [], 0
    for conversations in requests:
        builder = PackBuilder(10**9, recall=None if model.prefix_cache is None else model.prefix_cache.find)
        for one in conversations:
            builder.try_add(one)
        pack = builder.build()
        computed += pack.num_tokens
        scores_R = model.forward(pack).scores_R
        if scores_R is None:
            raise SystemExit("the weights have no score of their own; allowed: weights with a gating network")
        found.append(scores_R)
    return np.concatenate(found), computed


def measure(model: RewardModel, name: str, requests: Requests, options: argparse.Namespace) -> list[Depth]:
    """Check that all depths give equal scores, then time them in alternating rounds."""
    expected, computed, num_bytes = None, {}, {}
    for depth, cache in DEPTHS.items():
        model.prefix_cache = cache()
        given, computed[depth] = scores(model, requests)
        num_bytes[depth] = 0 if model.prefix_cache is None else model.prefix_cache.num_bytes
        expected = given if expected is None else expected
        if not np.abs(given - expected).max() <= TOLERANCE[options.dtype] * expected.std():
            raise SystemExit(f"{name}: sharing {depth} changes scores")
    rounds = [
        {depth: seconds(model, cache(), requests) for depth, cache in DEPTHS.items()} for _ in range(options.rounds)
    ]
    return [
        Depth(
            workload=name,
            depth=depth,
            seconds=statistics.median(one[depth] for one in rounds),
            time_ratio=statistics.median(one["nothing"] / one[depth] for one in rounds),
            computed_tokens=computed[depth],
            cache_bytes=num_bytes[depth],
        )
        for depth in DEPTHS
    ]


def seconds(model: RewardModel, cache: PrefixCache | None, requests: Requests) -> float:
    model.prefix_cache = cache
    began = time.process_time()
    scores(model, requests)
    return time.process_time() - began


def table(rows: Sequence[Depth]) -> str:
    """Return the rows as a Markdown table."""
    lines = [
        "| workload | shared | CPU s | time ratio | tokens computed | cache |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {row.workload} | {row.depth} | {row.seconds:.2f} | **{row.time_ratio:.2f}** | {row.computed_tokens:,} "
        f"| {row.cache_bytes / 2**20:.0f} MiB |"
        for row in rows
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure, print the table and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, default=Path("weights/default"))
    parser.add_argument("--dtype", choices=tuple(TOLERANCE), default="float32")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = load_reward_model(options.weights, device="cpu", dtype=options.dtype)
    texts = Texts(model.vocabulary_size)
    rows = [row for name, given in workloads(texts).items() for row in measure(model, name, given, options)]
    print(table(rows))
    facts = {"weights": options.weights.name, "dtype": options.dtype, "rounds": str(options.rounds)} | describe()
    document = {"machine": facts, "rows": [asdict(row) for row in rows]}
    title = "# How deep the prefix cache shares"
    write_results(options.out, "sharing_depth", document, title, table(rows), listed(facts))


if __name__ == "__main__":
    main()
