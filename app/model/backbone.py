"""The decoder that turns packed tokens into hidden states. Knows no head, no template and no queue.

T packed tokens · D hidden size
"""

from typing import Any, Final

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from transformers import AutoModel, PretrainedConfig, PreTrainedModel

from app.errors import InvalidWeights
from app.model import attention
from app.packing import Segment

PACK_DEPENDENT_ROPE: Final = frozenset({"dynamic", "longrope"})
"""Rotary variants whose frequencies follow the longest position of the whole pass, so of a pack's neighbours."""


class _WithoutStorage(TorchFunctionMode):
    """Gives `torch.empty`, with which modules make their matrices, no storage, in this thread only.

    Buffers that no checkpoint holds, such as rotary frequencies, are computed and keep theirs.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        options = {**(kwargs or {}), "device": "meta"} if func is torch.empty else kwargs or {}
        return func(*args, **options)


class Backbone(nn.Module):
    """A transformers decoder, without its language-modelling head, that reads packs."""

    def __init__(self, decoder: PreTrainedModel) -> None:
        super().__init__()
        self.decoder = decoder

    @property
    def config(self) -> PretrainedConfig:
        return self.decoder.config

    def forward(
        self,
        token_ids_T: torch.Tensor,
        position_ids_T: torch.Tensor,
        segments: tuple[Segment, ...],
        layout: attention.AttentionLayout | None = None,
    ) -> torch.Tensor:
        """Return the last layer's hidden states after the final norm, (T, D), for the tokens of one pack.

        A `layout` of these segments may keep keys and values on the way.
        """
        output = self.decoder(
            input_ids=token_ids_T[None],
            position_ids=position_ids_T[None],
            use_cache=False,
            layout=layout or attention.AttentionLayout(segments, token_ids_T.device),
        )
        hidden_TD: torch.Tensor = output.last_hidden_state[0]
        return hidden_TD


def build_backbone(config: PretrainedConfig, dtype: torch.dtype = torch.float32) -> Backbone:
    """Build a backbone with random weights, to train from nothing.

    Raises:
        InvalidWeights: the architecture cannot be packed.
    """
    return Backbone(_decoder(config, dtype))


def empty_backbone(config: PretrainedConfig, dtype: torch.dtype) -> Backbone:
    """Build a backbone whose parameters have a shape but no storage, for tensors to be assigned to.

    Raises:
        InvalidWeights: the architecture cannot be packed.
    """
    with _WithoutStorage():
        return Backbone(_decoder(config, dtype))


def _decoder(config: PretrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
    attention.register()
    _check_packable(config)
    try:
        decoder: PreTrainedModel = AutoModel.from_config(
            config, dtype=dtype, attn_implementation=attention.ATTENTION_NAME
        )
    except (ValueError, KeyError) as error:
        raise InvalidWeights(f"no packed decoder for model type {config.model_type}: {error}") from error
    return decoder.eval()


def _check_packable(config: PretrainedConfig) -> None:
    rope = getattr(config, "rope_parameters", None) or {}
    kinds = {rope.get("rope_type")} | {part.get("rope_type") for part in rope.values() if isinstance(part, dict)}
    if forbidden := kinds & PACK_DEPENDENT_ROPE:
        raise InvalidWeights(
            f"rope type {', '.join(sorted(map(str, forbidden)))} makes a score depend on its neighbours in the pack"
        )
    if getattr(config, "is_causal", True) is False or getattr(config, "use_bidirectional_attention", False):
        raise InvalidWeights("a bidirectional backbone cannot share prefixes")
