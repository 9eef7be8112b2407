"""The way to the device and back: one copy each way for all that a pack needs and all that is read off it."""

from collections.abc import Sequence

import numpy as np
import torch

from app.domain import FloatArray
from app.packing import IndexArray


def to_device(arrays: Sequence[IndexArray], device: torch.device) -> list[torch.Tensor]:
    """Bring index arrays to the device; to a GPU through pinned memory, so that nobody waits for the copy."""
    joined = torch.from_numpy(np.concatenate(arrays))
    if device.type == "cuda":
        joined = joined.pin_memory().to(device, non_blocking=True)
    return list(torch.split(joined, [len(array) for array in arrays]))


def to_host(tensors: Sequence[torch.Tensor]) -> list[FloatArray]:
    """Bring tensors to the host as float32 arrays of their own shapes: the one time that the device is waited for."""
    joined: FloatArray = torch.cat([tensor.float().flatten() for tensor in tensors]).cpu().numpy()
    ends = np.cumsum([tensor.numel() for tensor in tensors])
    return [flat.reshape(tensor.shape) for flat, tensor in zip(np.split(joined, ends[:-1]), tensors, strict=True)]
