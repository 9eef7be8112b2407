"""All that a GPU is asked, in one run: checks, then the 8B figures with random weights, then a profile.

    python -m benchmarks.gpu                          on any CUDA machine with 40 GB; writes benchmarks/results/gpu.*
    python -m benchmarks.gpu --rows packs quantized   these sections only, so that a run can be split over commands
    python -m benchmarks.gpu --tiny --device cpu      the same code on a tiny model, to see that it runs

Needs nothing but torch, transformers, safetensors and numpy; downloads nothing. Each row is printed as it is measured,
and results are written after every section, so that a run that is cut short leaves what it had; those of chosen rows
go to a file of their own, gpu_ROWS. The exit status says whether every check passed.
"""

import argparse
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Final

import torch

from benchmarks.decoder_configs import LLAMA3_8B, TINY, config_of
from benchmarks.gpu.clock import Deadline
from benchmarks.gpu.correctness import check_all
from benchmarks.gpu.graphs import measure_graphs
from benchmarks.gpu.models import random_model
from benchmarks.gpu.quantized import measure_quantized
from benchmarks.gpu.rows import Row, all_met, table, write
from benchmarks.gpu.speed import (
    Scene,
    measure_against_padding,
    measure_cache,
    measure_ceilings,
    measure_invariance,
    measure_memory,
    measure_packs,
    measure_request,
)
from benchmarks.kernel_kinds import shares
from benchmarks.machine import describe
from benchmarks.results_files import RESULTS

PACK_SIZES: Final = (256, 512, 1024, 2048, 4096, 8192, 16_384)
TINY_PACK_SIZES: Final = (128, 512)

Section = Callable[[Scene], Iterator[Row]]


def measure_kernels(scene: Scene) -> Iterator[Row]:
    """Yield the share of a large and of a small pack's time by kind of kernel."""
    for size in (scene.pack_sizes[0], scene.largest_pack):
        pack = scene.pack(size)
        found = shares(scene.device, partial(scene.model.forward, pack))
        words = ", ".join(f"{kind} {share:.0%}" for kind, share in found.items())
        yield Row(
            f"where the time goes, {size:,} tokens", "torch.profiler, by kind of kernel", "–", words, figures=found
        )


SECTIONS: Final[Mapping[str, Section]] = {
    "packs": measure_packs,
    "request": measure_request,
    "padding": measure_against_padding,
    "cache": measure_cache,
    "invariance": measure_invariance,
    "memory": measure_memory,
    "quantized": measure_quantized,
    "kernels": measure_kernels,
    "graphs": measure_graphs,
}
CHECKS: Final = "checks"


def make_scene(options: argparse.Namespace, deadline: Deadline) -> Scene:
    """Draw the model on the device and measure the device's ceilings."""
    device, dtype = torch.device(options.device), torch.bfloat16
    size, rounds = (256, 2) if options.tiny else (8192, 7)
    ceilings = measure_ceilings(device, dtype, size, rounds)
    model = random_model(config_of("llama", TINY if options.tiny else LLAMA3_8B), device, dtype)
    sizes = TINY_PACK_SIZES if options.tiny else PACK_SIZES
    return Scene(model, ceilings, deadline, sizes, 50 if options.tiny else 500, rounds, is_tiny=options.tiny)


def facts_of(options: argparse.Namespace, scene: Scene | None) -> dict[str, str]:
    """Return what a reader needs to judge, or repeat, the figures."""
    chosen = f" --rows {' '.join(options.rows)}" if options.rows else ""
    facts = describe() | {"command": "python -m benchmarks.gpu" + (" --tiny" if options.tiny else "") + chosen}
    if options.device.startswith("cuda"):
        name, cuda = torch.cuda.get_device_name(options.device), torch.version.cuda
        facts |= {"device": f"{name}, {torch.cuda.mem_get_info(options.device)[1] / 2**30:.0f} GiB", "CUDA": str(cuda)}
    else:
        facts |= {"device": options.device}
    if scene is not None:
        facts |= {
            "matrix products": f"{scene.ceilings.flop_per_second / 1e12:.1f} TFLOP/s",
            "copies": f"{scene.ceilings.bytes_per_second / 1e12:.2f} TB/s",
            "work": f"{scene.flop_a_token / 1e9:.2f} GFLOP a token",
        }
    return facts


def collected(name: str, rows: Iterator[Row], into: list[Row]) -> None:
    """Add a section's rows, printing them; where it fails, a row that says so."""
    try:
        for row in rows:
            into.append(row)
            print(table([row]).splitlines()[-1], flush=True)
    except Exception as error:  # the machine is lent for minutes: what else can be measured is
        traceback.print_exc()
        into.append(Row(name, "–", "–", f"failed: {type(error).__name__}", is_met=False, next="mend it"))


def parse_options(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a tiny model, to see that all of it runs")
    parser.add_argument("--rows", nargs="+", choices=(CHECKS, *SECTIONS), help="what is checked and measured; else all")
    parser.add_argument("--minutes", type=float, default=8.5, help="no section begins later than that")
    parser.add_argument("--out", type=Path, help="folder for the results; of tiny runs none are kept otherwise")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Check, measure, print the table and write the results; return the exit status."""
    options = parse_options(arguments)
    run = Run(options)
    if run.wants(CHECKS):
        run.add(CHECKS, check_all(torch.device(options.device)), run.checks)
    if any(map(run.wants, SECTIONS)):
        deadline = Deadline(60 * options.minutes)
        run.scene = make_scene(options, deadline)
        for name, section in SECTIONS.items():
            if not run.wants(name):
                continue
            if deadline.has_passed():
                run.rows.append(Row(name, "–", "–", "not measured", next=f"out of time: run again with --rows {name}"))
            else:
                run.add(name, section(run.scene), run.rows)
    facts = (f"{name}: {fact}" for name, fact in facts_of(options, run.scene).items())
    print("\n".join(["", table(run.rows), "", table(run.checks), "", *facts]))
    return 0 if all_met(run.checks) else 1


class Run:
    """What one command found so far, and where it is written."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._out: Path | None = options.out or (None if options.tiny else RESULTS)
        self.checks: list[Row] = []
        self.rows: list[Row] = []
        self.scene: Scene | None = None

    def wants(self, name: str) -> bool:
        """Say whether a section was asked for."""
        return not self._options.rows or name in self._options.rows

    def add(self, name: str, rows: Iterator[Row], into: list[Row]) -> None:
        """Collect a section's rows, and write what there is."""
        collected(name, rows, into)
        if self._out is not None:
            file_name = "_".join(["gpu", *(self._options.rows or ())])
            write(self._out, file_name, (self.checks, self.rows), facts_of(self._options, self.scene))


if __name__ == "__main__":
    sys.exit(main())
