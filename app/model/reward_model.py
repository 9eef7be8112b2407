"""A loaded reward model: one forward pass from a pack to everything that any route reads. Knows no text and no queue.

Tensors end here: what `forward` returns is numpy.

T packed tokens · P prompts · R responses · D hidden size · K objectives · C intensity classes of a head
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, cast

import numpy as np
import torch

from app.domain import ModelInfo
from app.errors import DeviceOutOfMemory, DevicePoisoned, InferenceFailed
from app.model.armorm import ArmoHead, HeadOutput
from app.model.attention import AttentionLayout
from app.model.backbone import Backbone
from app.model.batch_invariance import padded, read_in_rows
from app.model.manifest import Manifest
from app.model.moslim import IntensityHeads
from app.model.prefix_cache import PrefixCache, RecalledPrefix, States
from app.model.staging import to_device, to_host
from app.packing import NOT_IN_PACK, Pack, PackOutput

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
        self.prefix_cache: PrefixCache | None = None
        """What is kept of prompts; set once the weights are known to be right."""
        self.invariant_pack_tokens: int | None = None
        """The one length that every pack is padded to, where answers must not depend on their company by a bit."""
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
        except RuntimeError as error:
            fault = _translated(error)
            if isinstance(fault, DeviceOutOfMemory) and self.prefix_cache is not None:
                self.prefix_cache.clear()
            if isinstance(error, torch.OutOfMemoryError):
                torch.cuda.empty_cache()
            raise fault from error

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
        read = self._read(pack)
        return read.features_RD, read.prompt_features_PD

    @torch.inference_mode()
    def _forward(self, pack: Pack) -> PackOutput:
        read = self._read(pack)
        features = (read.features_RD, read.prompt_features_PD, read.prefix_of_response_R)
        if self.invariant_pack_tokens is None:
            output, intensities = self._heads(*features)
        else:
            output, intensities = read_in_rows(self._heads, *features)
        optional = {
            "gating_PK": output.gating_PK,
            "coefficients_PK": output.coefficients_PK,
            "scores_R": output.scores_R,
        }
        present = {name: tensor for name, tensor in optional.items() if tensor is not None}
        rewards_RK, *arrays = to_host([output.rewards_RK, *present.values(), *intensities.values()])
        answer = PackOutput(
            rewards_RK=rewards_RK,
            prefix_of_response_R=pack.prefix_of_response_R,
            **dict(zip(present, arrays[: len(present)], strict=True)),
            intensities=dict(zip(intensities, arrays[len(present) :], strict=True)),
        )
        if answer.is_finite_R.all():  # else what was computed of the prompts may be spoilt, and would spoil others
            self._remember(read.fresh)
        return answer

    def _remember(self, fresh: "Sequence[_FreshPrefix]") -> None:
        """Give the cache what it has not seen; where there is no memory for it, it keeps nothing."""
        if self.prefix_cache is None:
            return
        try:
            for one in fresh:
                self.prefix_cache.store(one.recalled, one.states, one.gating_hidden_D)
        except RuntimeError as error:
            self.prefix_cache.clear()
            if not isinstance(_translated(error), DeviceOutOfMemory):
                raise

    def _read(self, pack: Pack) -> "_Reading":
        """Run the backbone."""
        token_ids, position_ids = pack.token_ids_T, pack.position_ids_T
        if (num_tokens := self.invariant_pack_tokens) is not None:
            token_ids, position_ids = padded(token_ids, num_tokens), padded(position_ids, num_tokens)
        gating_indices = np.maximum(pack.gating_indices_P, 0)
        token_ids_T, position_ids_T, reward_indices_R, gating_indices_P, prefix_of_response_R = to_device(
            [token_ids, position_ids, pack.reward_indices_R, gating_indices, pack.prefix_of_response_R], self.device
        )
        fresh_prompts = [] if self.prefix_cache is None else _fresh_prompts(pack)
        runs, by_company = [pack.prefix_runs_P[prompt] for prompt in fresh_prompts], self.invariant_pack_tokens is None
        layout = AttentionLayout(pack.segments, self.device, runs, is_split_by_company=by_company)
        hidden_TD = self.backbone(token_ids_T, position_ids_T, pack.segments, layout)
        features_RD = hidden_TD[reward_indices_R].float()
        prompt_features_PD = hidden_TD[gating_indices_P].float()
        for prompt, gating_index in enumerate(pack.gating_indices_P.tolist()):
            if gating_index == NOT_IN_PACK:
                prompt_features_PD[prompt] = cast("RecalledPrefix", pack.cached_P[prompt]).gating_hidden_D
        fresh = [
            _FreshPrefix(cast("RecalledPrefix", pack.cached_P[prompt]), states, prompt_features_PD[prompt])
            for prompt, states in zip(fresh_prompts, layout.kept, strict=True)
        ]
        return _Reading(features_RD, prompt_features_PD, prefix_of_response_R, fresh)

    def _heads(
        self, features_RD: torch.Tensor, prompt_features_PD: torch.Tensor, prefix_of_response_R: torch.Tensor
    ) -> tuple[HeadOutput, dict[str, torch.Tensor]]:
        intensities = {} if self.intensity_heads is None else self.intensity_heads.probabilities(features_RD)
        return self.head.readout(features_RD, prompt_features_PD, prefix_of_response_R), intensities


@dataclass(frozen=True, slots=True)
class _FreshPrefix:
    """What was computed of a prompt, for the cache."""

    recalled: RecalledPrefix
    states: Sequence[States]
    gating_hidden_D: torch.Tensor


@dataclass(frozen=True, slots=True)
class _Reading:
    """What the backbone says of a pack, float32, on the device."""

    features_RD: torch.Tensor
    prompt_features_PD: torch.Tensor
    prefix_of_response_R: torch.Tensor
    fresh: Sequence[_FreshPrefix]


def _fresh_prompts(pack: Pack) -> list[int]:
    """Return the prompts of which something is computed that is asked to be remembered."""
    prompts = enumerate(zip(pack.cached_P, pack.prefix_runs_P, strict=True))
    return [prompt for prompt, (cached, (start, stop)) in prompts if cached is not None and start < stop]


def _translated(error: RuntimeError) -> InferenceFailed:
    """Tell a lost device and a full memory from any other fault."""
    if isinstance(error, torch.OutOfMemoryError):
        return DeviceOutOfMemory("the pack does not fit into the device's memory")
    if CPU_OUT_OF_MEMORY in str(error):
        return DeviceOutOfMemory("the pack does not fit into memory")
    if isinstance(error, torch.AcceleratorError) or "CUDA error" in str(error):
        return DevicePoisoned("the device context is lost")
    return InferenceFailed("the model failed on this pack")
