"""The tensors of a folder: found by name, read one at a time, safetensors only. No pickle is ever opened.

Reading opens and closes the file for each tensor, so that a mapped file never adds to the memory in use: loading
peaks at the target's size plus one tensor. Knows no architecture.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from app.errors import InvalidWeights
from app.model.tensor_parallel import own_part

SINGLE_FILE: Final = "model.safetensors"
INDEX_FILE: Final = "model.safetensors.index.json"
FLOATING: Final = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
}
"""What may be stored. Eight bits are stored as they are, without scales: every wider type holds them exactly."""
NAMES_SHOWN: Final = 4


class TensorFiles:
    """Floating-point tensors by name, in one or more safetensors files.

    Raises:
        InvalidWeights: a file is damaged, or a tensor is not of a floating-point type or is there twice.
    """

    def __init__(self, files: Iterable[Path]) -> None:
        self.files = tuple(files)
        self._file_of: dict[str, Path] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.dtypes: dict[str, torch.dtype] = {}
        for file in self.files:
            self._scan(file)

    def _scan(self, file: Path) -> None:
        with _opened(file) as tensors:
            for name in tensors.keys():  # noqa: SIM118 - a safetensors handle is no mapping
                view = tensors.get_slice(name)
                if view.get_dtype() not in FLOATING:
                    raise InvalidWeights(f"{file.name}: tensor {name} is {view.get_dtype()}, not floating point")
                if name in self._file_of:
                    raise InvalidWeights(f"tensor {name} is in {self._file_of[name].name} and in {file.name}")
                self._file_of[name] = file
                self.shapes[name] = tuple(view.get_shape())
                self.dtypes[name] = FLOATING[view.get_dtype()]

    def check(self, expected: Mapping[str, tuple[int, ...]]) -> None:
        """Require exactly the expected tensors in exactly the expected shapes.

        Raises:
            InvalidWeights: a tensor is missing, left over or misshapen; the message names it.
        """
        if missing := expected.keys() - self.shapes.keys():
            raise InvalidWeights(f"missing tensor {_listed(missing)}")
        if extra := self.shapes.keys() - expected.keys():
            raise InvalidWeights(f"unexpected tensor {_listed(extra)}")
        for name, shape in expected.items():
            if self.shapes[name] != shape:
                raise InvalidWeights(f"tensor {name} has the shape {self.shapes[name]} where {shape} is due")

    def read(self, name: str, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        """Read one tensor into memory of its own, in the given type, on the given device.

        Raises:
            InvalidWeights: a number in it is not finite, as stored or in the given type.
        """
        with _opened(self._file_of[name]) as tensors:
            stored: torch.Tensor = tensors.get_tensor(name)
            tensor = stored.to(device=device, dtype=dtype, copy=True)
        # Extremes carry NaN along and need no second tensor. Half precision makes infinity of what it cannot hold.
        # Eight bits cannot be compared, so they are looked at in a wider type, which holds them exactly.
        comparable = tensor.half() if tensor.dtype.itemsize == 1 else tensor
        if tensor.numel() and not all(extreme.isfinite() for extreme in comparable.aminmax()):
            raise InvalidWeights(f"tensor {name} holds NaN or infinity in {str(dtype).removeprefix('torch.')}")
        return tensor

    def fill(self, module: nn.Module, names: Mapping[str, str], dtype: torch.dtype, device: torch.device) -> None:
        """Give `module` its tensors, or its part of them: `names` maps each key of its state to the name here."""
        places = module.state_dict()
        state = {key: own_part(places[key], self.read(name, dtype, device)) for key, name in names.items()}
        module.load_state_dict(state, strict=True, assign=True)
        module.requires_grad_(requires_grad=False)


def shapes_of(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor of a module's state, by key."""
    return {key: tuple(tensor.shape) for key, tensor in module.state_dict().items()}


def model_files(folder: Path) -> list[Path]:
    """Return the safetensors files that hold a folder's model: one, or the shards that its index names.

    Raises:
        InvalidWeights: there are none, the index is not understood, or it names a shard that is absent.
    """
    if (folder / SINGLE_FILE).exists():
        return [folder / SINGLE_FILE]
    if not (folder / INDEX_FILE).exists():
        pickles = sorted(path.name for path in folder.glob("*.bin"))
        hint = f"; {pickles[0]} is a pickle and is never opened" if pickles else ""
        raise InvalidWeights(f"{folder} has neither {SINGLE_FILE} nor {INDEX_FILE}{hint}")
    try:
        shards = sorted(set(json.loads((folder / INDEX_FILE).read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidWeights(f"{INDEX_FILE} is not an index of shards") from error
    for shard in shards:
        if not isinstance(shard, str) or Path(shard).name != shard or not (folder / shard).exists():
            raise InvalidWeights(f"{INDEX_FILE} names the shard {shard}, which is not there")
    return [folder / shard for shard in shards]


def _opened(file: Path) -> Any:
    try:
        return safe_open(file, framework="pt")
    except (SafetensorError, OSError) as error:
        raise InvalidWeights(f"{file.name} is not a whole safetensors file: {error}") from error


def _listed(names: Iterable[str]) -> str:
    names = sorted(names)
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return ", ".join(names[:NAMES_SHOWN]) + more
