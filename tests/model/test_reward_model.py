"""Faults of the device become the right errors, and nothing else of the backbone's freedom reaches a pack."""

import numpy as np
import pytest
import torch
from transformers import LlamaConfig

from app.domain import ModelInfo, Objective, TokenizedConversation
from app.errors import DeviceOutOfMemory, DevicePoisoned, InferenceFailed, InvalidWeights
from app.model.armorm import ArmoHead
from app.model.attention import packed_attention
from app.model.backbone import build_backbone
from app.model.manifest import Manifest
from app.model.reward_model import RewardModel
from app.pack_builder import pack_of

TINY = {
    "vocab_size": 31,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
}
PACK = pack_of([TokenizedConversation((1, 2, 3), (4, 5), 2)])


@pytest.fixture
def model() -> RewardModel:
    objectives = (Objective("reward"),)
    info = ModelInfo("tiny", "0", "0", "float32", "cpu", objectives, has_gating=False, max_conversation_tokens=64)
    return RewardModel(info, Manifest("tiny", objectives), build_backbone(LlamaConfig(**TINY)), ArmoHead(16, 1))


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), DeviceOutOfMemory),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), DeviceOutOfMemory),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), DevicePoisoned),
        (torch.AcceleratorError("device-side assert triggered"), DevicePoisoned),
        (RuntimeError("shapes cannot be multiplied"), InferenceFailed),
    ],
)
def test_fault_of_the_device_becomes_the_right_error(model, monkeypatch, fault, expected):
    def broken(*arguments: object) -> None:
        raise fault

    monkeypatch.setattr(model.backbone, "forward", broken)
    with pytest.raises(InferenceFailed) as caught:
        model.forward(PACK)
    assert type(caught.value) is expected


def test_output_is_float32_numpy(model):
    output = model.forward(PACK)
    assert output.rewards_RK.dtype == np.float32
    assert output.rewards_RK.shape == (1, 1)
    assert output.scores_R.tolist() == output.rewards_RK[:, 0].tolist()


@pytest.mark.parametrize("rope", ["dynamic", "longrope"])
def test_rope_that_follows_the_longest_neighbour_is_refused(rope):
    parameters = {"rope_type": rope, "factor": 2.0, "rope_theta": 10_000.0}
    factors = {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4, "original_max_position_embeddings": 32}
    with pytest.raises(InvalidWeights, match=rope):
        build_backbone(LlamaConfig(**TINY, rope_parameters=parameters | (factors if rope == "longrope" else {})))


def test_options_that_packs_cannot_honour_are_refused():
    states = torch.zeros(1, 2, 3, 4)
    for option in ({"dropout": 0.1}, {"s_aux": torch.zeros(2)}):
        with pytest.raises(ValueError, match="packed attention"):
            packed_attention(torch.nn.Identity(), states, states, states, None, **option)
    with pytest.raises(ValueError, match="packed attention"):
        packed_attention(torch.nn.Identity(), states, states, states, torch.zeros(1))
