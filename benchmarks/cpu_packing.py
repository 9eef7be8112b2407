"""Packs with shared prefixes against padded batches of the same checkpoint, on the CPU, in one process.

    python -m benchmarks.cpu_packing

Rounds alternate between the two, after both were checked to give equal scores. Seconds are CPU seconds of the
process, which other programs on the machine disturb least; wall-clock ratios stand beside them.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from app.domain import TokenizedConversation
from app.model.reward_model import RewardModel
from app.model.weights import load_reward_model
from app.pack_builder import PackBuilder
from app.packing import Pack
from benchmarks.machine import describe
from benchmarks.padded import PaddedModel, padded_tokens
from benchmarks.random_checkpoint import LlamaSize, write_random_checkpoint
from benchmarks.results_files import RESULTS, listed, write_results
from benchmarks.workloads import Workload, best_of_n, mixed_lengths, random_pool, real_pool

SHARED = Path(__file__).resolve().parents[2] / "shared"
BATCH_SIZE = 16
TOLERANCE = 1e-4


@dataclass(frozen=True, slots=True)
class Comparison:
    """One workload, both ways: medians and extremes over the rounds; ratios above 1 mean packs are faster."""

    workload: str
    description: str
    baseline: str
    rounds: int
    packed_seconds: float
    padded_seconds: float
    time_ratio: float
    time_ratio_lowest: float
    time_ratio_highest: float
    wall_ratio: float
    packed_tokens: int
    padded_tokens: int
    token_ratio: float
    largest_score_difference: float


def packs_of(conversations: Sequence[TokenizedConversation], token_budget: int) -> list[Pack]:
    """Lay the conversations out in as few packs as the order allows; one that is over the budget has its own."""
    longest = max(conversation.num_tokens for conversation in conversations)
    builders = [PackBuilder(token_budget, max_tokens=longest)]
    for conversation in conversations:
        if not builders[-1].try_add(conversation):
            builders.append(PackBuilder(token_budget, max_tokens=longest))
            builders[-1].try_add(conversation)
    return [builder.build() for builder in builders]


def packed_scores(
    model: RewardModel, conversations: Sequence[TokenizedConversation], token_budget: int
) -> torch.Tensor:
    """Score as the engine does, the layout of the packs included."""
    outputs = [model.forward(pack) for pack in packs_of(conversations, token_budget)]
    return torch.cat([torch.from_numpy(output.scores_R) for output in outputs if output.scores_R is not None])


def seconds(work: Callable[[], object]) -> tuple[float, float]:
    """Return CPU seconds and wall-clock seconds of one call."""
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    return time.process_time() - cpu, time.perf_counter() - wall


def compare(
    workload: Workload, model: RewardModel, padded: PaddedModel, options: argparse.Namespace, *, sort: bool = False
) -> Comparison:
    """Check that both give equal scores, then time them in alternating rounds."""
    conversations = workload.conversations
    if sort:
        conversations = sorted(conversations, key=lambda conversation: conversation.num_tokens)

    def by_packs() -> torch.Tensor:
        return packed_scores(model, conversations, options.max_pack_tokens)

    def by_padding() -> torch.Tensor:
        return padded.scores(conversations, BATCH_SIZE)

    expected = by_padding()
    difference = float((by_packs() - expected).abs().max() / expected.std())
    if not difference < TOLERANCE:
        raise SystemExit(f"{workload.name}: packed and padded scores differ by {difference:.1e} of their spread")
    rounds = [(seconds(by_packs), seconds(by_padding)) for _ in range(options.rounds)]
    ratios = [padded_time[0] / packed_time[0] for packed_time, padded_time in rounds]
    packed_count = sum(pack.num_tokens for pack in packs_of(conversations, options.max_pack_tokens))
    padded_count = padded_tokens(conversations, BATCH_SIZE)
    return Comparison(
        workload=workload.name,
        description=workload.description,
        baseline=f"batches of {BATCH_SIZE}, {'sorted by length' if sort else 'as they come'}",
        rounds=options.rounds,
        packed_seconds=statistics.median(packed_time[0] for packed_time, _ in rounds),
        padded_seconds=statistics.median(padded_time[0] for _, padded_time in rounds),
        time_ratio=statistics.median(ratios),
        time_ratio_lowest=min(ratios),
        time_ratio_highest=max(ratios),
        wall_ratio=statistics.median(padded_time[1] / packed_time[1] for packed_time, padded_time in rounds),
        packed_tokens=packed_count,
        padded_tokens=padded_count,
        token_ratio=padded_count / packed_count,
        largest_score_difference=difference,
    )


def table(comparisons: Sequence[Comparison]) -> str:
    """Return the comparisons as a Markdown table."""
    lines = [
        "| workload | padded in | packed s | padded s | time ratio (lowest – highest) | wall | tokens | token ratio |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in comparisons:
        spread = f"**{row.time_ratio:.2f}** ({row.time_ratio_lowest:.2f} – {row.time_ratio_highest:.2f})"
        lines.append(
            f"| {row.workload} | {row.baseline} | {row.packed_seconds:.2f} | {row.padded_seconds:.2f} | {spread} "
            f"| {row.wall_ratio:.2f} | {row.packed_tokens:,} / {row.padded_tokens:,} | {row.token_ratio:.2f} |"
        )
    return "\n".join(lines)


def write(folder: Path, comparisons: Sequence[Comparison], machine: dict[str, str], measured: dict[str, str]) -> None:
    """Write cpu_packing.json and cpu_packing.md."""
    document = {"machine": machine, "measured": measured, "comparisons": [asdict(row) for row in comparisons]}
    workloads = "\n".join(dict.fromkeys(f"- {row.workload}: {row.description}" for row in comparisons))
    title = "# Packs with shared prefixes against padded batches, on the CPU"
    note = "Seconds are CPU seconds, medians over rounds that alternate; scores of both were checked to be equal first."
    sections = (title, note, table(comparisons), workloads, listed(measured | machine))
    write_results(folder, "cpu_packing", document, *sections)


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cpu_packing", description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--responses", type=int, default=16, help="responses to the one prompt")
    parser.add_argument("--mixed", type=int, default=32, help="conversations of mixed lengths")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--max-pack-tokens", type=int, default=16_384)
    parser.add_argument("--data", type=Path, default=SHARED / "data", help="real text; random ids where absent")
    parser.add_argument("--tokenizer", type=Path, default=SHARED / "llama3-tokenizer")
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args()


def main() -> None:
    """Measure, print the table and write the results."""
    options = parse_options()
    torch.set_num_threads(options.threads)
    real = (options.data / "ratings").is_dir() and (options.tokenizer / "tokenizer.json").exists()
    size = LlamaSize(layers=options.layers, width=options.width, vocabulary=128_257 if real else 32_000)
    pool = real_pool(options.data, options.tokenizer) if real else random_pool(size.vocabulary)
    with tempfile.TemporaryDirectory() as name:
        write_random_checkpoint(Path(name), size)
        model = load_reward_model(Path(name), device="cpu", dtype="float32")
        padded = PaddedModel(Path(name), model.head, torch.float32)
    mixed = mixed_lengths(pool, options.mixed)
    comparisons = [
        compare(best_of_n(pool, options.responses), model, padded, options),
        compare(mixed, model, padded, options),
        compare(mixed, model, padded, options, sort=True),
    ]
    measured = {
        "model": f"Llama, {size.layers} layers, {size.width} wide, random weights, float32",
        "text": "real conversations, Llama 3 tokenizer" if real else "random ids",
        "rounds": str(options.rounds),
    }
    print(table(comparisons))
    write(options.out, comparisons, describe(), measured)


if __name__ == "__main__":
    main()
