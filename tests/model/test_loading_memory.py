"""Weights are loaded straight into the target type: the peak is at most 1.2 times their size there."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.random_checkpoint import LlamaSize, write_random_checkpoint
from tests.checkpoints import save_tensors, write_armorm
from tests.conftest import REPOSITORY
from tests.equivalence.reference import read_tensors

pytestmark = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux to reset the peak")

SIZE = LlamaSize(layers=10, width=640, vocabulary=8000)
"""About 55 million parameters: 220 MB in float32, and no tensor above a tenth of the whole."""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_armorm(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("large")
    write_random_checkpoint(folder, SIZE)
    return folder


def growth(tiny: Path, folder: Path, dtype: str, quantization: str = "none") -> dict[str, int]:
    finished = subprocess.run(
        [sys.executable, "-m", "tests.model.load_and_measure", str(tiny), str(folder), dtype, quantization],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    found: dict[str, int] = json.loads(finished.stdout)
    return found


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_peak_stays_near_the_size_in_the_target_type(tiny: Path, large: Path, dtype: str) -> None:
    memory = growth(tiny, large, dtype)
    assert memory["size"] > (200_000_000 if dtype == "float32" else 100_000_000)
    assert memory["peak"] < 1.2 * memory["size"], memory
    assert memory["kept"] > 0.9 * memory["size"], "the weights are still in the file: the first request would load them"


@pytest.mark.parametrize(("quantization", "size"), [("int8", 90_000_000), ("nf4", 70_000_000)])
def test_quantised_weights_are_never_held_in_full(tiny: Path, large: Path, quantization: str, size: int) -> None:
    memory = growth(tiny, large, "float32", quantization)
    assert memory["size"] < size
    assert memory["peak"] < 1.3 * memory["size"], memory


def test_shards_in_half_precision_need_no_more(tiny: Path, large: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((large / "config.json").read_bytes())
    save_tensors(tmp_path, {name: tensor.to(torch.bfloat16) for name, tensor in read_tensors(large).items()}, shards=4)
    memory = growth(tiny, tmp_path, "bfloat16")
    assert memory["peak"] < 1.2 * memory["size"], memory
