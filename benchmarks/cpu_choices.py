"""What to choose on a CPU: threads, number type, pack size, and attention by segment or in padded buckets.

    python -m benchmarks.cpu_choices [--weights FOLDER] [--rounds 5]

Rounds alternate between the choices; wall-clock seconds, since threads are among them: run it on an idle machine.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Final

import torch
from torch.nn.functional import pad, scaled_dot_product_attention

from app.domain import TokenizedConversation
from app.model.reward_model import RewardModel
from app.model.weights import load_reward_model
from benchmarks.cpu_packing import packed_scores
from benchmarks.machine import describe
from benchmarks.results_files import RESULTS, listed, write_results
from benchmarks.workloads import mixed_lengths, random_pool

CONVERSATIONS: Final = 24
HEADS, HEAD_SIZE = 9, 64
BUCKET: Final = 8
"""Conversations padded together."""

Work = Callable[[], object]


def medians(works: Mapping[str, Work], rounds: int) -> dict[str, float]:
    """Return each work's median seconds over alternating rounds, after one that is not counted."""
    taken: dict[str, list[float]] = {name: [] for name in works}
    for number in range(rounds + 1):
        for name, work in works.items():
            began = time.perf_counter()
            work()
            if number:
                taken[name].append(time.perf_counter() - began)
    return {name: statistics.median(seconds) for name, seconds in taken.items()}


def with_threads(threads: int, work: Work) -> None:
    torch.set_num_threads(threads)
    work()


def forward_choices(models: Mapping[str, RewardModel], conversations: list[TokenizedConversation]) -> dict[str, Work]:
    """Return whole forward passes by number type, threads and token budget of a pack."""
    works: dict[str, Work] = {}
    for dtype, model in models.items():
        for threads in (1, 2):
            for budget in (512, 2048, 8192):
                scored = partial(packed_scores, model, conversations, budget)
                works[f"{dtype}, {threads} threads, packs of {budget}"] = partial(with_threads, threads, scored)
    return works


def attention_choices(conversations: list[TokenizedConversation], dtype: torch.dtype) -> dict[str, Work]:
    """Return one layer's attention over conversations, one by one and in padded buckets of like lengths."""
    lengths = sorted(one.num_tokens for one in conversations)
    states = [torch.randn(1, HEADS, length, HEAD_SIZE).to(dtype) for length in lengths]

    def by_segment() -> None:
        for one in states:
            scaled_dot_product_attention(one, one, one, is_causal=True)

    def in_buckets() -> None:
        for start in range(0, len(states), BUCKET):
            bucket = states[start : start + BUCKET]
            longest = bucket[-1].shape[2]
            padded = torch.cat([pad(one, (0, 0, 0, longest - one.shape[2])) for one in bucket])
            # Padding comes last, so that causal attention never sees it.
            scaled_dot_product_attention(padded, padded, padded, is_causal=True)

    return {f"{dtype}, by segment": by_segment, f"{dtype}, in buckets of {BUCKET}": in_buckets}


def main() -> None:
    """Measure, print the table and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, default=Path("weights/default"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    types = ("float32", "bfloat16")
    models = {dtype: load_reward_model(options.weights, device="cpu", dtype=dtype) for dtype in types}
    pool = random_pool(models["float32"].vocabulary_size)
    conversations = mixed_lengths(pool, CONVERSATIONS).conversations
    num_tokens = sum(one.num_tokens for one in conversations)
    seconds = medians(forward_choices(models, conversations), options.rounds)
    torch.set_num_threads(2)
    for dtype in (torch.float32, torch.bfloat16):
        seconds |= medians(attention_choices(conversations, dtype), options.rounds)
    lines = ["| choice | s | tokens/s |", "| --- | ---: | ---: |"]
    lines += [f"| {name} | {taken:.3f} | {num_tokens / taken:,.0f} |" for name, taken in seconds.items()]
    table = "\n".join(lines)
    print(table)
    facts = {"weights": options.weights.name, "tokens": str(num_tokens), "rounds": str(options.rounds)} | describe()
    document = {"machine": facts, "seconds": seconds}
    write_results(options.out, "cpu_choices", document, "# What to choose on a CPU", table, listed(facts))


if __name__ == "__main__":
    main()
