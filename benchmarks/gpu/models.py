"""Reward models with random weights, drawn where they are used; and the same weights run as transformers runs them.

R conversations · T tokens of the longest · D hidden size · K objectives
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from transformers import PretrainedConfig

from app.domain import FloatArray, ModelInfo, Objective, TokenizedConversation
from app.model.armorm import ArmoHead, GatingNetwork
from app.model.backbone import empty_backbone
from app.model.manifest import Manifest
from app.model.reward_model import RewardModel
from app.packing import PackOutput, Recall
from benchmarks.random_checkpoint import NUM_OBJECTIVES


def random_model(config: PretrainedConfig, device: torch.device, dtype: torch.dtype, seed: int = 0) -> RewardModel:
    """Draw a model's weights on the device; the same seed and device give the same ones, rounded to the type.

    Every matrix keeps the size of what goes through it, so that no layer is without effect and none saturates.
    """
    backbone = empty_backbone(config, dtype)
    generator = torch.Generator(device).manual_seed(seed)
    centre = 0.0 if config.model_type.startswith("gemma") else 1.0
    state = {
        name: _drawn(name, tensor.shape, generator, centre).to(dtype)
        for name, tensor in backbone.decoder.state_dict().items()
    }
    backbone.decoder.load_state_dict(state, strict=True, assign=True)
    backbone.to(device).requires_grad_(requires_grad=False)
    objectives = tuple(Objective(f"objective {number}") for number in range(NUM_OBJECTIVES))
    name, limit = str(dtype).removeprefix("torch."), config.max_position_embeddings
    info = ModelInfo("random", "0", "0", name, str(device), objectives, has_gating=True, max_conversation_tokens=limit)
    head = _random_head(config.hidden_size, device, generator)
    return RewardModel(info, Manifest("random", objectives), backbone, head)


def _drawn(name: str, shape: torch.Size, generator: torch.Generator, norm_centre: float) -> torch.Tensor:
    noise = torch.randn(shape, generator=generator, device=generator.device)
    if name.endswith("norm.weight"):
        return norm_centre + 0.2 * noise
    if name.endswith("bias"):
        return 0.3 * noise
    return noise if "embed" in name else noise.mul_(shape[-1] ** -0.5)


def _random_head(hidden_size: int, device: torch.device, generator: torch.Generator) -> ArmoHead:
    head = ArmoHead(hidden_size, NUM_OBJECTIVES, GatingNetwork(hidden_size, NUM_OBJECTIVES)).to(device)
    for name, parameter in head.state_dict().items():
        gain = 20.0 if name == "gating.layers.3.weight" else 1.4  # else the gating hardly differs from prompt to prompt
        noise = torch.randn(parameter.shape, generator=generator, device=device)
        parameter.copy_(noise * gain * parameter.shape[-1] ** -0.5)
    return head.requires_grad_(requires_grad=False)


def random_ids(generator: np.random.Generator, vocabulary: int, length: int) -> tuple[int, ...]:
    """Draw token ids."""
    return tuple(generator.integers(0, vocabulary - 1, size=length).tolist())


def numbers_of(output: PackOutput) -> FloatArray:
    """Return all that a pack says of each response, (R, 2K + 1): rewards, gating of its prompt, score."""
    assert output.gating_PK is not None  # noqa: S101 - for the type checker: these models have a gating network
    assert output.scores_R is not None  # noqa: S101 - likewise
    gating_RK = output.gating_PK[output.prefix_of_response_R]
    return np.concatenate([output.rewards_RK, gating_RK, output.scores_R[:, None]], axis=1)


@torch.inference_mode()
def unpacked_numbers(
    model: RewardModel, conversations: Sequence[TokenizedConversation], batch_size: int, attention: str = "sdpa"
) -> FloatArray:
    """Return the same, computed by transformers' own attention over right-padded batches of the very same weights."""
    batches = [conversations[start : start + batch_size] for start in range(0, len(conversations), batch_size)]
    with _own_attention(model, attention):
        return np.concatenate([numbers_of(_padded_batch(model, batch)) for batch in batches])


def _padded_batch(model: RewardModel, conversations: Sequence[TokenizedConversation]) -> PackOutput:
    rows, lengths = range(len(conversations)), [conversation.num_tokens for conversation in conversations]
    token_ids_RT = np.zeros((len(rows), max(lengths)), dtype=np.int64)
    for row, conversation in enumerate(conversations):
        token_ids_RT[row, : lengths[row]] = conversation.prefix_ids + conversation.response_ids
    mask_RT = (np.arange(max(lengths)) < np.asarray(lengths)[:, None]).astype(np.int64)
    token_ids, mask = (torch.from_numpy(each).to(model.device) for each in (token_ids_RT, mask_RT))
    hidden_RTD = model.backbone.decoder(input_ids=token_ids, attention_mask=mask, use_cache=False).last_hidden_state
    gating_R = torch.tensor([conversation.gating_index for conversation in conversations], device=model.device)
    rows_R = torch.arange(len(rows), device=model.device)
    last_R = torch.tensor(lengths, device=model.device) - 1
    read = model.head.readout(hidden_RTD[rows_R, last_R], hidden_RTD[rows_R, gating_R], rows_R)
    tensors = (read.rewards_RK, read.gating_PK, read.scores_R)
    rewards, gating, scores = (tensor.cpu().numpy() for tensor in tensors if tensor is not None)
    return PackOutput(rewards, np.arange(len(rows)), gating_PK=gating, scores_R=scores)


@contextmanager
def _own_attention(model: RewardModel, name: str) -> Iterator[None]:
    decoder = model.backbone.decoder
    packed = decoder.config._attn_implementation  # noqa: SLF001 - transformers has no other way to ask
    decoder.set_attn_implementation(name)
    try:
        yield
    finally:
        decoder.set_attn_implementation(packed)


def recall_of(model: RewardModel) -> Recall | None:
    """Return what tells a pack's builder of remembered prompts."""
    return None if model.prefix_cache is None else model.prefix_cache.find
