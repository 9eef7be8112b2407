"""Weights of fewer bits: the decoder's linear layers as int8 or nf4 (bitsandbytes), or in eight-bit floats (torchao).

Embeddings, norms and heads stay as they are. A layer is quantised as it is read, so that loading holds one of them, not
the decoder, in full. No scale is taken over several tokens: a readout must not depend on its company in the pack.
Knows no manifest.

T tokens · K inputs and N outputs of a layer
"""

import ctypes
import importlib.util
import logging
import sys
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final, TypeAlias, cast

import torch
from torch import nn

from app.errors import InvalidSetting, InvalidWeights

UNQUANTIZED: Final = "none"
NF4_BLOCK: Final = 64
"""Weights to a scale: 4.5 bits a weight in all."""
FP8_CAPABILITY: Final = (8, 9)

ReadTensor: TypeAlias = Callable[[str], torch.Tensor]
"""A tensor by its name in the checkpoint, on the device, in the type of what stays unquantised."""
LinearKind: TypeAlias = Callable[[torch.Tensor, torch.Tensor | None], nn.Module]


class Int8Linear(nn.Module):
    """Eight-bit integers, a scale per output; inputs stay as they are, and weights are made whole for each product.

    LLM.int8() rounds inputs as well, which scores do not survive (docs/adr/0013), unless the columns that hold outliers
    are left out of it; those are picked over all tokens of a product, so a score would depend on its company.
    """

    def __init__(self, weight_NK: torch.Tensor, bias_N: torch.Tensor | None) -> None:
        super().__init__()
        # The kernel of CUDA takes nothing but float16.
        source_NK = weight_NK.half() if weight_NK.is_cuda else weight_NK
        integers_NK, scales_N, _ = torch.ops.bitsandbytes.int8_vectorwise_quant(source_NK, 0.0)
        self.register_buffer("integers_NK", integers_NK, persistent=False)
        self.register_buffer("scales_N", scales_N, persistent=False)
        self.register_buffer("bias_N", bias_N, persistent=False)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Return the outputs (…, N) for inputs (…, K), in their type."""
        weight_NK = torch.ops.bitsandbytes.int8_vectorwise_dequant(self.integers_NK, self.scales_N)
        return nn.functional.linear(states, weight_NK.to(states.dtype), cast("Any", self.bias_N))


class Nf4Linear(nn.Module):
    """Four-bit levels placed as a normal distribution wants them, a scale to 64 weights; inputs stay as they are.

    Rows are filled up with zeros to whole blocks: where a block goes on in the next row, the CPU kernel reads the wrong
    scales.
    """

    def __init__(self, weight_NK: torch.Tensor, bias_N: torch.Tensor | None) -> None:
        super().__init__()
        self.num_missing = -weight_NK.shape[1] % NF4_BLOCK
        weight_NK = self._filled_up(weight_NK)
        levels, scales = torch.ops.bitsandbytes.quantize_4bit(weight_NK, NF4_BLOCK, "nf4", torch.uint8)
        self.shape = list(weight_NK.shape)
        self.register_buffer("levels", levels, persistent=False)
        self.register_buffer("scales", scales, persistent=False)
        self.register_buffer("bias_N", bias_N, persistent=False)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Return the outputs (…, N) for inputs (…, K), in their type."""
        outputs: torch.Tensor = torch.ops.bitsandbytes.gemm_4bit(
            self._filled_up(states), self.levels, self.shape, self.scales, NF4_BLOCK, "nf4", bias=self.bias_N
        )
        return outputs

    def _filled_up(self, rows: torch.Tensor) -> torch.Tensor:
        return nn.functional.pad(rows, (0, self.num_missing)) if self.num_missing else rows


class Fp8Linear(nn.Module):
    """Eight-bit floats (e4m3), a scale per output and per token, multiplied as they are by a GPU that can.

    Raises:
        InvalidWeights: no eight-bit product takes a layer of this shape.
    """

    def __init__(self, weight_NK: torch.Tensor, bias_N: torch.Tensor | None) -> None:
        super().__init__()
        from torchao.quantization import (  # noqa: PLC0415 - an extra of its own, for CUDA only
            Float8DynamicActivationFloat8WeightConfig,
            PerRow,
            quantize_,
        )

        linear = nn.Linear(1, 1, bias=False, device="meta")
        linear.weight = nn.Parameter(weight_NK, requires_grad=False)
        quantize_(linear, Float8DynamicActivationFloat8WeightConfig(granularity=PerRow(), set_inductor_config=False))
        if type(linear.weight.data) is torch.Tensor:  # torchao leaves what it cannot do, and says nothing
            raise InvalidWeights(f"quantization fp8 takes no layer of the shape {tuple(weight_NK.shape)}")
        self.register_buffer("weight_NK", linear.weight.detach(), persistent=False)
        self.register_buffer("bias_N", bias_N, persistent=False)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Return the outputs (…, N) for inputs (…, K), in their type."""
        return nn.functional.linear(states, cast("torch.Tensor", self.weight_NK), cast("Any", self.bias_N))


LINEAR_KINDS: Final[Mapping[str, LinearKind]] = MappingProxyType(
    {"int8": Int8Linear, "nf4": Nf4Linear, "fp8": Fp8Linear}
)


def check_quantization(quantization: str, device: torch.device, dtype: torch.dtype) -> None:
    """See whether weights can be quantised so, here.

    Raises:
        InvalidSetting: the name is unknown, a package is not installed, or the device cannot do it.
    """
    if quantization == UNQUANTIZED:
        return
    if quantization not in LINEAR_KINDS:
        raise InvalidSetting(f"quantization: {quantization} is not one of {UNQUANTIZED}, {', '.join(LINEAR_KINDS)}")
    if quantization == "fp8":
        _check_fp8(device, dtype)
        return
    _require("bitsandbytes", quantization, "quantization")
    # While it is imported it says that a faster kernel, which is not used here, could not be downloaded.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    import bitsandbytes  # noqa: F401, PLC0415 - an extra; importing it registers its operators


def quantize_linears(
    decoder: nn.Module, kind: LinearKind, names: Mapping[str, str], read: ReadTensor
) -> dict[str, str]:
    """Put a layer of this kind in the place of each linear layer of the decoder, reading one at a time.

    `names` maps each key of the decoder's state to a tensor's name.

    Returns:
        The names that are left to read: embeddings, norms and whatever else is no linear layer.

    Raises:
        InvalidWeights: `read` does, or the kind does not take a layer's shape.
    """
    left = dict(names)
    for path, module in list(decoder.named_modules()):
        if isinstance(module, nn.Linear):
            weight_NK = read(left.pop(f"{path}.weight"))
            bias_N = None if module.bias is None else read(left.pop(f"{path}.bias"))
            decoder.set_submodule(path, kind(weight_NK, bias_N))
            del weight_NK
            _give_memory_back()
    return left


def num_bytes(*modules: nn.Module) -> int:
    """Return the memory that the tensors of modules take."""
    tensors = [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _give_memory_back() -> None:
    """Have the allocator return what it keeps of freed tensors: between those that stay, it keeps a decoder's worth."""
    if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "malloc_trim"):
        library.malloc_trim(0)


def _check_fp8(device: torch.device, dtype: torch.dtype) -> None:
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < FP8_CAPABILITY:
        raise InvalidSetting(
            f"quantization: fp8 needs a GPU with eight-bit floats (Ada, Hopper or newer), not {device}"
        )
    if dtype != torch.bfloat16:
        raise InvalidSetting("quantization: fp8 needs dtype bfloat16")
    _require("torchao", "fp8", "fp8")


def _require(package: str, quantization: str, extra: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise InvalidSetting(
            f"quantization: {quantization} needs {package}, which the extra {extra} of armoserve brings"
        )
