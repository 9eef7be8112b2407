"""A checkpoint as one safetensors file that is written beside and renamed, and names the recipe it was made under.

Knows no loop: what is in the tensors and facts is the business of the state that writes them.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import safe_open
from safetensors.torch import save_file

HEADER: Final = "armoserve"
"""The one entry of the metadata: safetensors writes several in an order of its own."""
Facts = dict[str, Any]


def write_checkpoint(file: Path, key: str, facts: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> None:
    """Write a checkpoint in one step; facts are what JSON can hold."""
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_name(f".{file.name}.partial")
    header = {HEADER: json.dumps({"key": key, **facts})}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, beside, header)
    beside.replace(file)


def is_checkpoint_of(file: Path, key: str) -> bool:
    """Say whether there is a checkpoint, and it was made under a key."""
    if not file.exists():
        return False
    with safe_open(file, framework="pt") as stored:
        return bool(json.loads(stored.metadata()[HEADER])["key"] == key)


def read_checkpoint(file: Path) -> tuple[Facts, dict[str, torch.Tensor]]:
    """Return the facts and the tensors of a checkpoint."""
    with safe_open(file, framework="pt") as stored:
        facts: Facts = json.loads(stored.metadata()[HEADER])
        return facts, {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 - not a dict
