"""A decoder too large for one device, over several processes, by the plan that transformers has for it.

Rank 0 does all that one process does: text, packs, heads, answers. It tells the others what the backbone reads; they
hold their part of each linear layer and go through the same pass. What goes wrong on one rank ends all of them, since
no rank can know how far the others came. Knows no head and no queue.

T packed tokens
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import torch
from torch import distributed
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import PretrainedConfig, PreTrainedModel

from app.errors import DevicePoisoned, InvalidSetting
from app.model.attention import AttentionLayout
from app.model.backbone import Backbone
from app.packing import IndexArray, Segment

DIVIDED: Final = ("num_attention_heads", "num_key_value_heads", "intermediate_size")
"""What of a decoder is divided among ranks."""
LONGEST_SILENCE: Final = timedelta(days=365)
"""A server may have nothing to do for as long as it likes."""


@dataclass(frozen=True, slots=True)
class Call:
    """What the backbone is to read."""

    token_ids_T: IndexArray
    position_ids_T: IndexArray
    segments: tuple[Segment, ...]


@dataclass(frozen=True, slots=True)
class Ranks:
    """The processes that torchrun started, as transformers joined them."""

    config: Any
    mesh: Any
    """As transformers gave it, which takes it back."""
    device: torch.device
    control: Any
    """The group in which rank 0 says what comes next, on the CPU."""

    @property
    def is_follower(self) -> bool:
        return distributed.get_rank() > 0

    def divided(self, backbone: Backbone) -> Backbone:
        """Return this rank's part of a backbone that has no storage yet; rank 0's leads the others.

        Raises:
            InvalidSetting: it cannot be divided by the number of processes.
        """
        decoder = backbone.decoder
        _check_divisible(decoder.config, distributed.get_world_size())
        try:
            decoder.maybe_distribute_model(decoder, self.config, self.mesh)
        except ValueError as error:
            raise InvalidSetting(f"this decoder cannot be divided: {' '.join(str(error).split())}") from error
        return backbone if self.is_follower else LeadingBackbone(decoder, self)

    def tell(self, call: Call) -> None:
        """Tell all followers what the backbone reads next; rank 0 only."""
        distributed.broadcast_object_list([call], src=0, group=self.control)

    def hear(self) -> Call | None:
        """Wait for what the backbone reads next; None once rank 0 has ended."""
        heard: list[Call | None] = [None]
        try:
            distributed.broadcast_object_list(heard, src=0, group=self.control)
        except RuntimeError:  # gloo has no other word for a closed connection
            return None
        return heard[0]


class LeadingBackbone(Backbone):
    """The backbone of rank 0."""

    def __init__(self, decoder: PreTrainedModel, ranks: Ranks) -> None:
        super().__init__(decoder)
        self._ranks = ranks

    def forward(
        self,
        token_ids_T: torch.Tensor,
        position_ids_T: torch.Tensor,
        segments: tuple[Segment, ...],
        layout: AttentionLayout | None = None,
    ) -> torch.Tensor:
        """Return the hidden states (T, D) that all ranks computed together.

        Raises:
            DevicePoisoned: one of them failed.
        """
        with _all_or_none():
            self._ranks.tell(Call(token_ids_T.cpu().numpy(), position_ids_T.cpu().numpy(), segments))
            return super().forward(token_ids_T, position_ids_T, segments, layout)


def join(num_ranks: int) -> Ranks:
    """Meet the other processes; each calls it once."""
    # Importing it costs a second, and few start with torchrun.
    from transformers.distributed import DistributedConfig  # noqa: PLC0415

    config, device, mesh = PreTrainedModel.prepare_distribute_model(DistributedConfig(tp_size=num_ranks))
    control = distributed.new_group(backend="gloo", timeout=LONGEST_SILENCE)
    return Ranks(config, mesh, torch.device(device), control)


@torch.inference_mode()
def follow(backbone: Backbone, ranks: Ranks) -> None:
    """Go through every pass that rank 0 goes through, until it has ended."""
    while (call := ranks.hear()) is not None:
        token_ids_T, position_ids_T = (
            torch.from_numpy(array).to(ranks.device) for array in (call.token_ids_T, call.position_ids_T)
        )
        backbone(token_ids_T, position_ids_T, call.segments)


def own_part(placeholder: torch.Tensor, whole: torch.Tensor) -> torch.Tensor:
    """Return what a rank holds of a tensor, in memory of its own, as the placeholder in the model says."""
    if not isinstance(placeholder, DTensor):
        return whole
    mesh, placements = placeholder.device_mesh, placeholder.placements
    part = distribute_tensor(whole, mesh, placements, src_data_rank=None).to_local().clone()
    return DTensor.from_local(part, mesh, placements, run_check=False, shape=whole.shape, stride=whole.stride())


def _check_divisible(config: PretrainedConfig, num_ranks: int) -> None:
    sizes = {name: getattr(config, name) for name in DIVIDED if getattr(config, name, None)}
    if wrong := [f"{name} = {size}" for name, size in sizes.items() if size % num_ranks]:
        allowed = [n for n in range(1, min(sizes.values()) + 1) if not any(size % n for size in sizes.values())]
        raise InvalidSetting(
            f"torchrun with {num_ranks} processes is not allowed: these weights have {' and '.join(wrong)}; "
            f"allowed: {', '.join(map(str, allowed))}"
        )


@contextmanager
def _all_or_none() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # whatever it is, the others may be in the middle of the pass
        raise DevicePoisoned("a process of the tensor-parallel group failed; all of them must be replaced") from error
