"""What `batch_invariant` costs beside the fast mode, and how far the fast mode lets a score move with its company.

    python -m benchmarks.batch_invariance [--weights FOLDER] [--dtypes float32 bfloat16] [--pack-tokens 16384 4096 2048]

Rounds alternate between the two modes, which are given the same packs. Seconds are CPU seconds of the process. Before
anything is timed, scores in company are held against the same ones alone: under `batch_invariant` no bit may differ.
"""

import argparse
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import torch

from app.domain import TokenizedConversation
from app.model.reward_model import RewardModel
from app.model.weights import load_reward_model
from app.packing import Pack
from benchmarks.company import Moved, moved, num_changed, tokenised
from benchmarks.cpu_packing import SHARED, packs_of
from benchmarks.machine import describe
from benchmarks.real_text import answered_by_several
from benchmarks.results_files import RESULTS, listed, write_results
from benchmarks.workloads import Workload, best_of_n, mixed_lengths, random_pool
from training.inference import encoder

COMPANIES: Final = (2, 3, 7, 11)
LONGEST_TOKENS: Final = 1024
SHORT_TOKENS: Final = 64
NOTE_COST: Final = (
    "CPU seconds, medians over rounds that alternate between the modes; both are given the same packs, as large as "
    "they may be. Every pack of `batch_invariant` costs as much as one of `max_pack_tokens`."
)
NOTE_MOVED: Final = (
    "The fast mode: scores in packs of so many conversations, in another order, against the same ones alone and "
    "computed whole; recalled: with every prompt out of the prefix cache. Under `batch_invariant` no bit differed."
)


@dataclass(frozen=True, slots=True)
class Cost:
    """One workload in both modes."""

    dtype: str
    max_pack_tokens: int
    workload: str
    packs: int
    tokens: int
    fast_seconds: float
    invariant_seconds: float
    ratio: float
    """Median over rounds of `batch_invariant`'s time over the fast mode's."""
    ratio_lowest: float
    ratio_highest: float


def workloads(pool: list[TokenizedConversation], mixed: int) -> list[Workload]:
    """Return what is timed."""
    short = min(pool, key=lambda one: abs(one.num_tokens - SHORT_TOKENS))
    return [
        Workload("one short request", f"one conversation of {short.num_tokens} tokens", [short]),
        best_of_n(pool, 16),
        mixed_lengths(pool, min(mixed, len(pool))),
    ]


def timed(model: RewardModel, packs: Sequence[Pack], invariant_tokens: int | None) -> float:
    """Return the CPU seconds of these packs in one of the modes."""
    model.invariant_pack_tokens = invariant_tokens
    began = time.process_time()
    for pack in packs:
        model.forward(pack)
    taken = time.process_time() - began
    model.invariant_pack_tokens = None
    return taken


def cost(model: RewardModel, workload: Workload, pack_tokens: int, rounds: int) -> Cost:
    """Time one workload in alternating rounds, after one that is not counted."""
    packs = packs_of(workload.conversations, pack_tokens)
    pairs = [(timed(model, packs, None), timed(model, packs, pack_tokens)) for _ in range(rounds + 1)][1:]
    ratios = [invariant / fast for fast, invariant in pairs]
    return Cost(
        dtype=model.info.dtype,
        max_pack_tokens=pack_tokens,
        workload=workload.name,
        packs=len(packs),
        tokens=sum(pack.num_tokens for pack in packs),
        fast_seconds=statistics.median(fast for fast, _ in pairs),
        invariant_seconds=statistics.median(invariant for _, invariant in pairs),
        ratio=statistics.median(ratios),
        ratio_lowest=min(ratios),
        ratio_highest=max(ratios),
    )


def costs(model: RewardModel, loads: Sequence[Workload], options: argparse.Namespace) -> Iterator[Cost]:
    """Yield every workload at every length of pack, printing each as it is measured."""
    for pack_tokens in options.pack_tokens:
        for load in loads:
            row = cost(model, load, pack_tokens, options.rounds)
            print(cost_table([row]).splitlines()[-1], flush=True)
            yield row


def checked_moves(model: RewardModel, given: list[TokenizedConversation]) -> list[Moved]:
    """Return what company does in the fast mode.

    Raises:
        SystemExit: it changes a bit under `batch_invariant`.
    """
    few = given[: max(COMPANIES)]
    if changed := num_changed(model, few, 2 * LONGEST_TOKENS, max(COMPANIES)):
        raise SystemExit(f"batch_invariant in {model.info.dtype}: company changed {changed} of {len(few)} scores")
    rows = list(moved(model, given, COMPANIES))
    print(moved_table(rows), flush=True)
    return rows


def cost_table(rows: Sequence[Cost]) -> str:
    """Return costs as a Markdown table."""
    lines = [
        "| dtype | max_pack_tokens | workload | packs | tokens | fast s | invariant s | times (lowest – highest) |",
        "| --- | ---: | --- | ---: | ---: | ---: | ---: | --- |",
    ]
    lines += [
        f"| {row.dtype} | {row.max_pack_tokens:,} | {row.workload} | {row.packs} | {row.tokens:,} "
        f"| {row.fast_seconds:.3f} | {row.invariant_seconds:.3f} "
        f"| **{row.ratio:.2f}** ({row.ratio_lowest:.2f} – {row.ratio_highest:.2f}) |"
        for row in rows
    ]
    return "\n".join(lines)


def moved_table(rows: Sequence[Moved]) -> str:
    """Return differences as a Markdown table."""
    lines = [
        "| dtype | conversations in a pack | prompts | largest | in standard deviations | mean | scores changed |",
        "| --- | ---: | --- | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {row.dtype} | {row.company} | {'recalled' if row.recalled else 'computed'} | {row.largest:.1e} "
        f"| {row.largest_in_deviations:.1e} | {row.mean:.1e} | {row.share_changed:.0%} |"
        for row in rows
    ]
    return "\n".join(lines)


def read_pool(options: argparse.Namespace, vocabulary: int) -> list[TokenizedConversation]:
    """Return real conversations, or where there is no data random ids of like lengths."""
    if not (options.data / "ratings").is_dir():
        pool = random_pool(vocabulary, 4 * options.conversations)
        return [one for one in pool if one.num_tokens <= LONGEST_TOKENS][: options.conversations]
    encode = encoder(options.weights, LONGEST_TOKENS)
    return tokenised(answered_by_several(options.data), encode, options.conversations, LONGEST_TOKENS)


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, default=Path("weights/default"))
    parser.add_argument("--dtypes", nargs="+", choices=("float32", "bfloat16"), default=["float32", "bfloat16"])
    parser.add_argument("--pack-tokens", type=int, nargs="+", default=[16_384, 4096, 2048])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--conversations", type=int, default=66, help="of which company is changed")
    parser.add_argument("--mixed", type=int, default=16, help="conversations of mixed lengths that are timed")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--data", type=Path, default=SHARED / "data", help="real text; random ids where absent")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    if min(options.pack_tokens) < LONGEST_TOKENS:
        parser.error(
            f"--pack-tokens: {min(options.pack_tokens)}; allowed: from {LONGEST_TOKENS}, the longest that is timed"
        )
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Check, measure, print the tables and write the results."""
    options = parse_options(arguments)
    torch.set_num_threads(options.threads)
    moves: list[Moved] = []
    rows: list[Cost] = []
    for dtype in options.dtypes:
        model = load_reward_model(options.weights, device="cpu", dtype=dtype)
        pool = read_pool(options, model.vocabulary_size)
        loads = workloads(pool, options.mixed)
        moves += checked_moves(model, pool)
        rows += costs(model, loads, options)
    text = "real conversations" if (options.data / "ratings").is_dir() else "random ids"
    facts = {load.name: load.description for load in loads} | {
        "weights": options.weights.name,
        "text": f"{text}, {len(pool)} of up to {LONGEST_TOKENS} tokens",
        "rounds": str(options.rounds),
    }
    facts |= describe()
    document = {"facts": facts, "costs": [asdict(row) for row in rows], "moved": [asdict(row) for row in moves]}
    page = ("# The same bits in any company: what it costs, and what one has without it", NOTE_COST, cost_table(rows))
    write_results(options.out, "batch_invariance", document, *page, NOTE_MOVED, moved_table(moves), listed(facts))


if __name__ == "__main__":
    main()
