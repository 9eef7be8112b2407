"""A loaded reward model: one forward pass from a pack to everything that any route reads. Knows no text and no queue.

Tensors end here: what `forward` returns is numpy.

T packed tokens · P prompts · R responses · D hidden size · K objectives · C intensity classes of a head
"""

from typing import Final

import numpy as np
import torch

from app.domain import FloatArray, ModelInfo
from app.errors import DeviceOutOfMemory, DevicePoisoned, InferenceFailed
from app.model.armorm import ArmoHead
from app.model.backbone import Backbone
from app.model.manifest import Manifest
from app.model.moslim import IntensityHeads
from app.packing import IndexArray, Pack, PackOutput

CPU_OUT_OF_MEMORY: Final = "DefaultCPUAllocator"


class RewardModel:
    """Backbone and heads on one device."""

    def __init__(
        self,
        info: ModelInfo,
        manifest: Manifest,
        backbone: Backbone,
        head: ArmoHead,
        intensity_heads: IntensityHeads | None = None,
    ) -> None:
        self.info = info
        self.manifest = manifest
        self.backbone = backbone
        self.head = head
        self.intensity_heads = intensity_heads
        self.device = next(head.parameters()).device

    @property
    def vocabulary_size(self) -> int:
        """How many token ids have an embedding; a larger id would fail its whole pack."""
        size: int = self.backbone.config.vocab_size
        return size

    def forward(self, pack: Pack) -> PackOutput:
        """Compute one pack.

        Raises:
            DeviceOutOfMemory: the pack does not fit; a smaller one may.
            DevicePoisoned: the device context is lost; the process must be replaced.
            InferenceFailed: any other fault of the model.
        """
        try:
            return self._forward(pack)
        except torch.OutOfMemoryError as error:
            torch.cuda.empty_cache()
            raise DeviceOutOfMemory("the pack does not fit into the device's memory") from error
        except RuntimeError as error:
            raise _translated(error) from error

    def memory_bytes(self) -> dict[str, float]:
        """Return the device's memory by kind: allocated and reserved by this process, free on the device."""
        if self.device.type != "cuda":
            return {}
        return {
            "allocated": torch.cuda.memory_allocated(self.device),
            "reserved": torch.cuda.memory_reserved(self.device),
            "free": torch.cuda.mem_get_info(self.device)[0],
        }

    @torch.inference_mode()
    def features(self, pack: Pack) -> tuple[torch.Tensor, torch.Tensor]:
        """Return f(x⊕y) per response, (R, D), and f(x) per prompt, (P, D), in float32 on the device."""
        hidden_TD = self.backbone(self._tensor(pack.token_ids_T), self._tensor(pack.position_ids_T), pack.segments)
        features_RD = hidden_TD[self._tensor(pack.reward_indices_R)].float()
        prompt_features_PD = hidden_TD[self._tensor(pack.gating_indices_P)].float()
        return features_RD, prompt_features_PD

    @torch.inference_mode()
    def _forward(self, pack: Pack) -> PackOutput:
        features_RD, prompt_features_PD = self.features(pack)
        output = self.head.readout(features_RD, prompt_features_PD, self._tensor(pack.prefix_of_response_R))
        intensities = {} if self.intensity_heads is None else self.intensity_heads.probabilities(features_RD)
        return PackOutput(
            rewards_RK=_numpy(output.rewards_RK),
            prefix_of_response_R=pack.prefix_of_response_R,
            gating_PK=None if output.gating_PK is None else _numpy(output.gating_PK),
            coefficients_PK=None if output.coefficients_PK is None else _numpy(output.coefficients_PK),
            scores_R=None if output.scores_R is None else _numpy(output.scores_R),
            intensities={name: _numpy(values_RC) for name, values_RC in intensities.items()},
        )

    def _tensor(self, indices: IndexArray) -> torch.Tensor:
        return torch.from_numpy(indices).to(self.device, non_blocking=True)


def _numpy(values: torch.Tensor) -> FloatArray:
    array: FloatArray = values.float().cpu().numpy()
    return np.ascontiguousarray(array)


def _translated(error: RuntimeError) -> InferenceFailed:
    """Tell a lost device and a full memory from any other fault."""
    if CPU_OUT_OF_MEMORY in str(error):
        return DeviceOutOfMemory("the pack does not fit into memory")
    if isinstance(error, torch.AcceleratorError) or "CUDA error" in str(error):
        return DevicePoisoned("the device context is lost")
    return InferenceFailed("the model failed on this pack")
