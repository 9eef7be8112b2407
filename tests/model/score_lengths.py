"""Score packs of ever new lengths in this fresh process; print, as JSON, the bytes in use after some, and after all."""

import ctypes
import json
import sys

import torch

from app.domain import TokenizedConversation
from app.engine import Engine
from app.loading import load_checked_engine
from app.pack_builder import pack_of
from app.settings import read_settings

WARM_UP, LENGTHS = 30, 120


class AllocatorFacts(ctypes.Structure):
    """What glibc's `mallinfo2` returns, in bytes."""

    _fields_ = [
        ("arena", ctypes.c_size_t),
        ("free_chunks", ctypes.c_size_t * 3),
        ("mapped", ctypes.c_size_t),
        ("unused", ctypes.c_size_t * 2),
        ("in_use", ctypes.c_size_t),
        ("free", ctypes.c_size_t),
        ("releasable", ctypes.c_size_t),
    ]


def bytes_in_use() -> int:
    """Count what was asked for and not given back, unlike a resident set, which holds free memory too."""
    ask = ctypes.CDLL(None).mallinfo2
    ask.restype = AllocatorFacts
    facts = ask()
    return int(facts.in_use + facts.mapped)


def score(engine: Engine, num_tokens: int) -> None:
    engine.forward(pack_of([TokenizedConversation((1, 2, 3, 4, 5), (6,) * (num_tokens - 5), gating_index=3)]))


def use(folder: str, dtype: str) -> dict[str, int]:
    engine = load_checked_engine(read_settings({"weights": folder, "device": "cpu", "dtype": dtype}))
    after = []
    for number in range(LENGTHS + 1):
        score(engine, 100 + 3 * number)
        after.append(bytes_in_use())
    return {"before": after[WARM_UP], "after": after[LENGTHS]}


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(use(sys.argv[1], sys.argv[2])))  # noqa: T201 - its answer
