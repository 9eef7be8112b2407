"""Load a folder in this fresh process and print, as JSON, how its memory grew: at its peak, and once loaded.

The peak is what the kernel recorded (VmHWM, set back before loading), mapped files included: the strictest reading.
"""

import json
import re
import sys
from pathlib import Path

import torch

from app.model.quantization import num_bytes
from app.model.weights import load_reward_model
from app.pack_builder import pack_of  # noqa: F401 - what a forward would import must not count as growth

STATUS = Path("/proc/self/status")


def kilobytes(field: str) -> int:
    found = re.search(rf"^{field}:\s+(\d+) kB", STATUS.read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1])


def growth_bytes(warm_up: Path, folder: Path, dtype: str, quantization: str) -> dict[str, int]:
    """Return the growth over the memory in use after another, tiny folder was loaded the same way."""
    load_reward_model(warm_up, device="cpu", dtype=dtype, quantization=quantization)
    Path("/proc/self/clear_refs").write_text("5")
    before = kilobytes("VmRSS")
    model = load_reward_model(folder, device="cpu", dtype=dtype, quantization=quantization)
    return {
        "peak": (kilobytes("VmHWM") - before) * 1024,
        "kept": (kilobytes("VmRSS") - before) * 1024,
        "size": num_bytes(model.backbone.decoder, model.head),
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(growth_bytes(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])))  # noqa: T201 - its answer
