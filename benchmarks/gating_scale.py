"""Gating at the paper's scale and at the default recipe's: seconds per step, and what 10,000 steps come to.

    OMP_NUM_THREADS=1 python -m benchmarks.gating_scale

Synthetic pairs go through the real path: shards, the mapped file of prompt features, minibatches, readout, AdamW.
At the paper's scale some tens of steps are timed, and the total is extrapolated. The default's is run whole.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from app.model.armorm import ArmoHead
from benchmarks.machine import describe
from benchmarks.results_files import RESULTS, listed, write_results
from training.artifacts import Features, RegressionFit, RewardTransform
from training.configs import GatingConfig
from training.gating import fit_gating
from training.gating_pairs import GatingPairs, read_pairs
from training.gating_state import GatingState
from training.heads import head_of
from training.losses import bradley_terry_loss_of_margins
from training.minibatches import minibatch

SHARD_PAIRS: Final = 2000
VALIDATION_SHARE: Final = 0.1
GPU_FLOPS: Final = 67e12
"""Float32 of an H100 or H200, by its data sheet; what a run reaches of it was not measured here."""


@dataclass(frozen=True, slots=True)
class Scale:
    """One size of gating."""

    name: str
    hidden_size: int
    objectives: int
    pairs: int
    config: GatingConfig

    @property
    def flops_per_step(self) -> int:
        """For each pair and weight of the MLP: forward 2, backward 4, but 2 in the first layer, whose input is data."""
        hidden, config = self.config.hidden_dim, self.config
        first, others = hidden * self.hidden_size, hidden * ((config.n_hidden - 1) * hidden + self.objectives)
        return (4 * first + 6 * others) * config.batch_size


def paper(pairs: int) -> Scale:
    """Return the sizes of ArmoRM: Llama-3-8B, 19 objectives, three hidden layers of 1024, 10,000 steps of 1,024."""
    return Scale("the paper's", 4096, 19, pairs, GatingConfig())


def default() -> Scale:
    """Return sizes like those of the recipe `default.toml`, without early stopping: the longest it can take."""
    config = GatingConfig(hidden_dim=64, n_hidden=2, steps=1000, validate_every_steps=25, patience=1000)
    return Scale("the default recipe's", 576, 21, 7000, config)


def shards(scale: Scale) -> Iterator[Features]:
    """Make pairs, each with a prompt of its own, shard by shard."""
    generator = np.random.default_rng(0)
    for start in range(0, scale.pairs, SHARD_PAIRS):
        count = min(SHARD_PAIRS, scale.pairs - start)
        rows = np.arange(count)
        yield Features(
            objectives=tuple(f"objective {index}" for index in range(scale.objectives)),
            features_RD=generator.standard_normal((2 * count, scale.hidden_size), dtype=np.float32),
            prompt_features_PD=generator.standard_normal((count, scale.hidden_size), dtype=np.float32),
            prompt_of_response_R=np.repeat(rows, 2),
            ratings_RK=np.full((2 * count, scale.objectives), np.nan, dtype=np.float32),
            response_tokens_R=np.ones(2 * count, dtype=np.int64),
            is_validation_R=np.repeat(rows < VALIDATION_SHARE * count, 2),
            pairs_B2=np.stack([2 * rows, 2 * rows + 1], axis=1),
            pair_sources=("synthetic",) * count,
            row_ids_R=np.arange(2 * count, dtype=np.uint64),
        )


def random_head(scale: Scale) -> ArmoHead:
    """Return a head whose rewards are of the size of real ones."""
    torch.manual_seed(0)
    weight_KD = 0.2 * np.random.default_rng(1).normal(size=(scale.objectives, scale.hidden_size))
    nothing_K = np.zeros(scale.objectives)
    regression = RegressionFit(
        (weight_KD / np.sqrt(scale.hidden_size)).astype(np.float32), nothing_K, nothing_K, nothing_K.astype(np.int64)
    )
    transform = RewardTransform(np.eye(scale.objectives, dtype=np.float32), nothing_K, nothing_K)
    return head_of(regression, transform, scale.config)


def time_steps(scale: Scale, head: ArmoHead, train: GatingPairs, steps: int) -> list[float]:
    """Return the wall-clock seconds of each step, the first one, which warms up, left out."""
    state, seconds = GatingState(head, scale.config), []
    for step in range(steps + 1):
        started = time.perf_counter()
        rows_B = minibatch(len(train), scale.config.batch_size, 0, step)
        state.descend(bradley_terry_loss_of_margins(train.margins_B(head, rows_B), state.beta))
        seconds.append(time.perf_counter() - started)
    return seconds[1:]


def measure_paper(scale: Scale, steps: int, folder: Path) -> dict[str, float]:
    """Time some steps and one validation, and extrapolate to the whole run."""
    head = random_head(scale)
    train, validation = read_pairs(head, shards(scale), folder / "prompts")
    seconds_per_step = statistics.median(time_steps(scale, head, train, steps))
    started = time.perf_counter()
    validation.all_margins_B(head)
    seconds_per_pair = (time.perf_counter() - started) / len(validation)
    total_flops = scale.flops_per_step * scale.config.steps
    return {
        "timed_steps": steps,
        "seconds_per_step": seconds_per_step,
        "gigaflops_reached": scale.flops_per_step / seconds_per_step / 1e9,
        "extrapolated_hours": seconds_per_step * scale.config.steps / 3600,
        "validation_seconds_per_10000_pairs": 1e4 * seconds_per_pair,
        "flops_per_step": scale.flops_per_step,
        "total_flops": total_flops,
        "seconds_on_a_gpu_at_data_sheet_rate": total_flops / GPU_FLOPS,
    }


def measure_default(scale: Scale, folder: Path) -> dict[str, float]:
    """Run the whole of it."""
    head = random_head(scale)
    pairs = read_pairs(head, shards(scale), folder / "prompts")
    started = time.perf_counter()
    fit = fit_gating(head, pairs, scale.config)
    return {"steps": fit.history[-1][0], "seconds": time.perf_counter() - started}


def table(figures: dict[str, float]) -> str:
    """Return figures as a Markdown table."""
    rows = "\n".join(f"| {name.replace('_', ' ')} | {value:,.4g} |" for name, value in figures.items())
    return f"| | |\n| --- | ---: |\n{rows}"


def write(folder: Path, document: dict[str, Any], machine: dict[str, str]) -> None:
    """Write gating_scale.json and gating_scale.md."""
    flops = f"Flops of a step. {Scale.flops_per_step.__doc__}"
    write_results(
        folder,
        "gating_scale",
        {"machine": machine, **document},
        "# Gating at the paper's scale and at the default's",
        "The paper's: some steps were timed, and the hours of 10,000 are **extrapolated**, not run. The GPU's seconds "
        f"are arithmetic, a floor: the flops over {GPU_FLOPS / 1e12:.0f} Tflop/s, the float32 rate of an H200's data "
        "sheet.",
        flops,
        table(document["paper"]),
        "The default recipe's, run whole:",
        table(document["default"]),
        listed(machine),
    )


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gating_scale", description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=20_000, help="synthetic pairs at the paper's scale")
    parser.add_argument("--steps", type=int, default=30, help="steps that are timed")
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args()


def main() -> None:
    """Measure both, print the tables and write the results."""
    options = parse_options()
    with tempfile.TemporaryDirectory() as name:
        document = {
            "paper": measure_paper(paper(options.pairs), options.steps, Path(name) / "paper"),
            "default": measure_default(default(), Path(name) / "default"),
        }
    sizes = {"paper_sizes": asdict(paper(options.pairs)), "default_sizes": asdict(default())}
    print(table(document["paper"]), table(document["default"]), sep="\n\n")
    write(options.out, {**document, **sizes}, describe())


if __name__ == "__main__":
    main()
