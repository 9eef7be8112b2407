"""Ridge at the paper's scale: synthetic rows through the real fitter, its time and memory beside what formulas predict.

    OMP_NUM_THREADS=1 python -m benchmarks.ridge_scale

Rows are made on the fly, so that what is measured is the fitter. The rates that turn counts of operations into seconds
are measured first, each at a size far below the run's, and the prediction is printed before the run begins.
"""

import argparse
import resource
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import numpy as np
from scipy.linalg import eigh
from tqdm import tqdm

from benchmarks.machine import describe
from benchmarks.results_files import RESULTS, write_results
from training.configs import RidgeConfig
from training.ridge import CHUNK_ROWS, LabelledRows, RidgeFitter
from training.strengths import StrengthErrors

BYTES: Final = 8
NOISE: Final = 0.5
STRENGTHS: Final = RidgeConfig().strengths
PROBE_SIZE: Final = 1024
"""Width at which the two rates are measured."""


@dataclass(frozen=True, slots=True)
class Scale:
    """How much goes through the fitter."""

    rows: int = 200_000
    validation_rows: int = 4_000
    hidden_size: int = 4096
    objectives: int = 19
    patterns: int = 8


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU seconds of the two parts, and the memory that the fitter adds to the process at its peak."""

    statistics_seconds: float
    solutions_seconds: float
    peak_bytes: float


@dataclass(frozen=True, slots=True)
class Rates:
    """What this machine does: multiplications a second in Σ f fᵀ, seconds per D³ of an eigendecomposition."""

    products_per_second: float
    seconds_per_cube: float


def measure_rates(size: int = PROBE_SIZE) -> Rates:
    """Time the two operations that cost, at a small size."""
    fitter = RidgeFitter(size, 1)
    rows = 4 * CHUNK_ROWS
    features_ND = np.random.default_rng(0).normal(size=(rows, size)).astype(np.float32)
    started = time.process_time()
    fitter.update(features_ND, np.zeros((rows, 1)))
    products = rows * size**2 / 2 / (time.process_time() - started)
    gram_DD = next(iter(fitter.gram_of_pattern.values()))
    started = time.process_time()
    eigh(gram_DD, lower=False, overwrite_a=True, check_finite=False, driver="evd")
    return Rates(products, (time.process_time() - started) / size**3)


def predict(scale: Scale, rates: Rates) -> Cost:
    """Apply the formulas to the rates: N D² / 2 multiplications for the sums, one D³ a pattern for the solutions.

    The memory is 8 D² (patterns + 3) bytes, and one chunk of rows in float64, 8 · 4096 · D. All figures are of the
    fitter alone, without the making of rows; the rates were measured on this machine at D = 1024.
    """
    square = scale.hidden_size**2
    return Cost(
        statistics_seconds=scale.rows * square / 2 / rates.products_per_second,
        solutions_seconds=scale.patterns * scale.hidden_size**3 * rates.seconds_per_cube,
        peak_bytes=BYTES * square * (scale.patterns + 3) + BYTES * CHUNK_ROWS * scale.hidden_size,
    )


def synthetic_rows(scale: Scale, rows: int, seed: int) -> Iterator[LabelledRows]:
    """Make rows chunk by chunk; objective k is rated in the rows of pattern k modulo the number of patterns."""
    generator = np.random.default_rng(seed)
    weights = np.random.default_rng(1).normal(size=(scale.objectives, scale.hidden_size))
    truth_KD = (weights / np.sqrt(scale.hidden_size)).astype(np.float32)
    rated_patterns_K = np.arange(scale.objectives) % scale.patterns
    for start in tqdm(range(0, rows, CHUNK_ROWS), desc="rows", unit="chunk", mininterval=5.0):
        count = min(CHUNK_ROWS, rows - start)
        features_ND = generator.standard_normal((count, scale.hidden_size), dtype=np.float32)
        ratings_NK = features_ND @ truth_KD.T + NOISE * generator.standard_normal((count, scale.objectives))
        pattern_N = generator.integers(0, scale.patterns, count)
        ratings_NK[pattern_N[:, None] != rated_patterns_K] = np.nan
        yield features_ND, ratings_NK


def peak_bytes() -> int:
    """Return the largest resident memory this process has had (Linux counts in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def resident_bytes() -> int:
    """Return the resident memory of this process now (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def measure(scale: Scale) -> tuple[Cost, float]:
    """Run the fitter; return its cost and the mean squared error of the chosen solutions on rows not fitted.

    The memory before is that of the interpreter, its libraries and one chunk of rows as it is made.
    """
    for _ in synthetic_rows(scale, CHUNK_ROWS, seed=3):
        before = resident_bytes()
    fitter, statistics_seconds = RidgeFitter(scale.hidden_size, scale.objectives), 0.0
    for features_ND, ratings_NK in synthetic_rows(scale, scale.rows, seed=0):
        started = time.process_time()
        fitter.update(features_ND, ratings_NK)
        statistics_seconds += time.process_time() - started
    started = time.process_time()
    weights_KSD = fitter.weights_KSD(STRENGTHS)
    solutions_seconds = time.process_time() - started
    errors = StrengthErrors(scale.objectives, len(STRENGTHS))
    for features_ND, ratings_NK in synthetic_rows(scale, scale.validation_rows, seed=2):
        errors.update(features_ND, ratings_NK, weights_KSD)
    return Cost(statistics_seconds, solutions_seconds, peak_bytes() - before), float(errors.means_KS().min(-1).mean())


def table(predicted: Cost, measured: Cost) -> str:
    """Return prediction and measurement as a Markdown table."""
    rows = [
        ("sums over the rows, CPU s", "{:.0f}", predicted.statistics_seconds, measured.statistics_seconds),
        ("solutions, CPU s", "{:.0f}", predicted.solutions_seconds, measured.solutions_seconds),
        ("peak memory of the fitter, GiB", "{:.2f}", predicted.peak_bytes / 2**30, measured.peak_bytes / 2**30),
    ]
    lines = ["| | predicted | measured | ratio |", "| --- | ---: | ---: | ---: |"]
    for name, form, first, second in rows:
        lines.append(f"| {name} | {form.format(first)} | {form.format(second)} | {second / first:.2f} |")
    return "\n".join(lines)


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ridge_scale", description=__doc__.splitlines()[0])
    for name, value in asdict(Scale()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=value)
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args()


def main() -> None:
    """Predict, measure, print the table and write the results."""
    options = vars(parse_options())
    folder = options.pop("out")
    scale = Scale(**options)
    predicted = predict(scale, measure_rates())
    print(f"predicted: {predicted}", flush=True)
    measured, error = measure(scale)
    facts: dict[str, float | str] = {**asdict(scale), "mean_squared_error": error, "noise": NOISE**2}
    print(table(predicted, measured))
    machine: dict[str, float | str] = {**describe()}
    document = {
        "machine": machine,
        "measured": facts | {"strengths": len(STRENGTHS)},
        "predicted_cost": asdict(predicted),
        "measured_cost": asdict(measured),
    }
    title = "# Ridge regression at the paper's scale"
    note = " ".join((predict.__doc__ or "").split())
    lines = "\n".join(
        f"- {key}: {value:,.6g}" if isinstance(value, float) else f"- {key}: {value}"
        for key, value in (facts | machine).items()
    )
    write_results(folder, "ridge_scale", document, title, note, table(predicted, measured), lines)


if __name__ == "__main__":
    main()
