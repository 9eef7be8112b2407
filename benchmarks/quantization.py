"""What fewer bits cost and save: the same weights in float32, bfloat16, int8 and nf4, on the same real text.

    python -m benchmarks.quantization

Scores of each are compared with those in float32: over all responses, and over pairs of responses to one prompt, where
only the difference counts. Times alternate between all of them, round by round. Texts are pairs that training never
saw: the test split and the benchmarks of the data folder.
"""

import argparse
import importlib.metadata
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from scipy.stats import pearsonr, spearmanr

from app.domain import FloatArray, Item, TokenizedConversation
from app.model.quantization import num_bytes
from app.model.reward_model import RewardModel
from app.model.weights import load_reward_model
from app.packing import IndexArray, Pack
from benchmarks.cpu_packing import SHARED, packs_of
from benchmarks.machine import describe
from benchmarks.results_files import RESULTS, listed, write_results
from training.configs import DataConfig
from training.data.reading import read_benchmarks, read_pairs
from training.data.sources import TEST, BenchmarkPair
from training.evaluation_forward import distinct_keys
from training.inference import encoder
from training.measured_pairs import Key, keep_groups

DEFAULT_WEIGHTS: Final = Path(__file__).resolve().parents[1] / "weights" / "default"
VARIANTS: Final = (
    ("float32", "none"),
    ("bfloat16", "none"),
    ("float32", "int8"),
    ("bfloat16", "int8"),
    ("float32", "nf4"),
    ("bfloat16", "nf4"),
)
"""Types and quantisations; the first one is what the others are compared with."""
TIMED_PACKS: Final = 2


@dataclass(frozen=True, slots=True)
class Texts:
    """Tokenised responses, and pairs of their places: chosen and rejected, for one prompt."""

    conversations: list[TokenizedConversation]
    pairs_B2: IndexArray


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far scores say what the reference says; differences are those of the two responses of a pair."""

    spearman: float
    pearson: float
    spearman_of_differences: float
    pair_agreement: float
    """Share of pairs of which both prefer the same response."""
    accuracy: float
    """Share of pairs whose chosen response scores higher."""
    mean_absolute_difference: float
    largest_difference: float


@dataclass(frozen=True, slots=True)
class Row:
    """One way to hold the weights."""

    dtype: str
    quantization: str
    weights_bytes: int
    tokens_per_second: float
    speed_ratio: float
    """Median over rounds of the reference's time over this one's."""
    speed_ratio_lowest: float
    speed_ratio_highest: float
    agreement: Agreement


def read_texts(data: Path, weights: Path, max_pairs_per_subset: int, max_tokens: int) -> Texts:
    """Read pairs that training never saw, at most so many of each subset; those over the limit are left out."""
    config = DataConfig(folder=str(data))
    test = read_pairs(config, TEST)
    pairs = [BenchmarkPair(p.source, TEST, p.prompt, p.chosen, p.rejected, str(n)) for n, p in enumerate(test)]
    pairs += [pair for pair in read_benchmarks(config) if not pair.overlaps_training]
    kept = keep_groups(pairs, max_pairs_per_subset)
    encode = encoder(weights, max_tokens)
    conversations: list[TokenizedConversation] = []
    row_of: dict[Key, int] = {}
    for key in distinct_keys(
        [key for pair in kept for key in ((pair.prompt, pair.chosen), (pair.prompt, pair.rejected))]
    ):
        encoded = encode(Item(key[0], (key[1],)))
        if encoded is not None:
            row_of[key] = len(conversations)
            conversations += encoded.conversations
    rows = [(row_of.get((pair.prompt, pair.chosen)), row_of.get((pair.prompt, pair.rejected))) for pair in kept]
    return Texts(conversations, np.array([row for row in rows if None not in row], dtype=np.int64))


def agreement(scores_R: FloatArray, reference_R: FloatArray, pairs_B2: IndexArray) -> Agreement:
    """Compare scores with the reference's, (R,), and on pairs of places (B, 2)."""
    differences_B, expected_B = (each[pairs_B2[:, 0]] - each[pairs_B2[:, 1]] for each in (scores_R, reference_R))
    return Agreement(
        spearman=float(spearmanr(scores_R, reference_R).statistic),
        pearson=float(pearsonr(scores_R, reference_R).statistic),
        spearman_of_differences=float(spearmanr(differences_B, expected_B).statistic),
        pair_agreement=float(np.mean(np.sign(differences_B) == np.sign(expected_B))),
        accuracy=float(np.mean(differences_B > 0)),
        mean_absolute_difference=float(np.abs(scores_R - reference_R).mean()),
        largest_difference=float(np.abs(scores_R - reference_R).max()),
    )


def score(model: RewardModel, packs: Sequence[Pack]) -> FloatArray:
    """Return one score per response, (R,)."""
    outputs = [model.forward(pack) for pack in packs]
    return np.concatenate([output.scores_R for output in outputs if output.scores_R is not None]).astype(np.float64)


def time_side_by_side(models: Sequence[RewardModel], packs: Sequence[Pack], rounds: int) -> list[list[float]]:
    """Return the seconds that each model takes for the packs, round by round, after one that is not counted.

    On the CPU they are CPU seconds, which other programs on the machine disturb least.
    """
    clock = time.process_time if models[0].device.type == "cpu" else time.perf_counter
    taken: list[list[float]] = [[] for _ in models]
    for round_number in range(rounds + 1):
        for model, seconds in zip(models, taken, strict=True):
            start = clock()
            score(model, packs)
            if round_number:
                seconds.append(clock() - start)
    return taken


def compare(models: Sequence[RewardModel], texts: Texts, pack_tokens: int, rounds: int) -> Iterator[Row]:
    """Yield a row per model; the first one is the reference."""
    packs = packs_of(texts.conversations, pack_tokens)
    num_tokens = sum(pack.num_tokens for pack in packs)
    reference_R = score(models[0], packs)
    timed = packs[:TIMED_PACKS]
    num_timed = sum(pack.num_tokens for pack in timed)
    taken = time_side_by_side(models, timed, rounds)
    print(f"{len(texts.conversations)} responses in {len(packs)} packs, {num_tokens:,} tokens; {num_timed:,} are timed")
    for model, seconds in zip(models, taken, strict=True):
        ratios = [first / own for first, own in zip(taken[0], seconds, strict=True)]
        yield Row(
            dtype=model.info.dtype,
            quantization=model.info.quantization,
            weights_bytes=weights_bytes(model),
            tokens_per_second=num_timed / statistics.median(seconds),
            speed_ratio=statistics.median(ratios),
            speed_ratio_lowest=min(ratios),
            speed_ratio_highest=max(ratios),
            agreement=agreement(score(model, packs), reference_R, texts.pairs_B2),
        )


def weights_bytes(model: RewardModel) -> int:
    """Return the memory of a model's weights, heads included."""
    return num_bytes(model.backbone, model.head, *([model.intensity_heads] if model.intensity_heads else []))


def table(rows: Sequence[Row]) -> str:
    """Return the rows as a Markdown table."""
    lines = [
        "| dtype | quantization | weights | tokens/s | speed (lowest – highest) | Spearman | Pearson | Spearman of "
        "differences | same preference | accuracy | mean difference | largest |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        found = row.agreement
        spread = f"{row.speed_ratio:.2f} ({row.speed_ratio_lowest:.2f} – {row.speed_ratio_highest:.2f})"
        lines.append(
            f"| {row.dtype} | {row.quantization} | {row.weights_bytes / 1e6:.1f} MB | {row.tokens_per_second:,.0f} "
            f"| {spread} | {found.spearman:.4f} | {found.pearson:.4f} | {found.spearman_of_differences:.4f} "
            f"| {found.pair_agreement:.3f} | {found.accuracy:.3f} | {found.mean_absolute_difference:.2e} "
            f"| {found.largest_difference:.2e} |"
        )
    return "\n".join(lines)


def write(folder: Path, rows: Sequence[Row], facts: dict[str, str]) -> None:
    """Write quantization.json and quantization.md."""
    document = {"measured": facts, "rows": [asdict(row) for row in rows]}
    note = (
        "Scores compared with those in float32. Speed is the median over rounds of float32's time over this one's, the "
        "rounds alternating. Differences are within pairs of responses to one prompt; the same preference is the share "
        "of pairs of which both prefer the same response, accuracy that of pairs whose chosen response scores higher."
    )
    write_results(folder, "quantization", document, "# Fewer bits", note, table(rows), listed(facts))


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quantization", description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path, default=DEFAULT_WEIGHTS)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--data", type=Path, default=SHARED / "data")
    parser.add_argument("--pairs", type=int, default=40, help="most pairs of each subset")
    parser.add_argument("--max-tokens", type=int, default=2048, help="longest conversation")
    parser.add_argument("--max-pack-tokens", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args()


def main() -> None:
    """Measure, print the table and write the results."""
    options = parse_options()
    torch.set_num_threads(options.threads)
    texts = read_texts(options.data, options.weights, options.pairs, options.max_tokens)
    models = [
        load_reward_model(options.weights, device=options.device, dtype=dtype, quantization=quantization)
        for dtype, quantization in VARIANTS
    ]
    rows = list(compare(models, texts, options.max_pack_tokens, options.rounds))
    print(table(rows))
    facts = {
        "weights": f"{models[0].info.name} {models[0].info.revision}",
        "text": f"{len(texts.conversations)} responses, {len(texts.pairs_B2)} pairs that training never saw",
        "packs": f"up to {options.max_pack_tokens} tokens, conversations up to {options.max_tokens}",
        "rounds": str(options.rounds),
        "bitsandbytes": importlib.metadata.version("bitsandbytes"),
    }
    write(options.out, rows, facts | describe())


if __name__ == "__main__":
    main()
