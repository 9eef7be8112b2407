"""Memory in use does not follow how many different lengths packs have had."""

import ctypes
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.checkpoints import write_armorm
from tests.conftest import REPOSITORY

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="asks glibc's allocator"
)

ALLOWED_BYTES = 5_000_000
"""For 90 lengths; a kernel of each, kept, would be ten times as much."""


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_ever_new_lengths_keep_no_memory(tmp_path: Path, dtype: str) -> None:
    finished = subprocess.run(
        [sys.executable, "-m", "tests.model.score_lengths", str(write_armorm(tmp_path)), dtype],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    use = json.loads(finished.stdout)
    assert use["after"] - use["before"] < ALLOWED_BYTES, use
