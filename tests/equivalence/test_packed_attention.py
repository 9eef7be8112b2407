"""One pass over a pack equals one pass per conversation, in every decoder family, at every token.

The decoder that runs alone is transformers' own with eager attention; the packed one has the very same weights.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModel, PretrainedConfig

from app.domain import TokenizedConversation
from app.model.backbone import Backbone, build_backbone
from app.pack_builder import pack_of
from app.packing import Pack, Segment
from tests.checkpoints import FAMILIES, backbone_config, random_backbone

VOCABULARY = 120
TOLERANCE = 1e-5


@pytest.fixture(scope="module", params=list(FAMILIES))
def family(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def config_of(family: str, **changes: Any) -> PretrainedConfig:
    """Return a config of its own for each decoder: transformers notes the attention in it."""
    keys = backbone_config(family, VOCABULARY, **changes)
    return AutoConfig.for_model(keys.pop("model_type"), **keys)


def decoders(family: str, dtype: torch.dtype) -> tuple[torch.nn.Module, Backbone]:
    weights = {
        name.removeprefix("model."): tensor.to(dtype)
        for name, tensor in random_backbone(backbone_config(family, VOCABULARY), seed=3).items()
    }
    eager_only = family == "gemma2" or dtype == torch.float32
    alone = AutoModel.from_config(
        config_of(family), attn_implementation="eager" if eager_only else "sdpa", dtype=dtype
    ).eval()
    packed = build_backbone(config_of(family), dtype)
    alone.load_state_dict(weights, strict=True)
    packed.decoder.load_state_dict(weights, strict=True)
    return alone, packed.eval()


def random_conversations(seed: int, responses_per_prefix: Sequence[int] = (3, 1, 4)) -> list[TokenizedConversation]:
    """Several prefixes with several responses each, in mixed order, from one token to several windows long."""
    generator = np.random.default_rng(seed)

    def ids(low: int, high: int) -> tuple[int, ...]:
        return tuple(generator.integers(0, VOCABULARY - 1, generator.integers(low, high)).tolist())

    conversations = []
    for count in responses_per_prefix:
        prefix = ids(2, 90)
        conversations += [TokenizedConversation(prefix, ids(1, 70), len(prefix) // 2) for _ in range(count)]
    order = generator.permutation(len(conversations))
    return [conversations[index] for index in order]


@torch.no_grad()
def packed_hidden(backbone: Backbone, pack: Pack) -> torch.Tensor:
    return backbone(torch.from_numpy(pack.token_ids_T), torch.from_numpy(pack.position_ids_T), pack.segments)


@torch.no_grad()
def differences(
    alone: torch.nn.Module, hidden_TD: torch.Tensor, pack: Pack, conversations: Sequence[TokenizedConversation]
) -> torch.Tensor:
    """Compare every token of every conversation with its pass alone, relative to the largest hidden state."""
    found, expected = [], []
    for slot, conversation in enumerate(conversations):
        token_ids = torch.tensor([conversation.prefix_ids + conversation.response_ids])
        expected.append(alone(input_ids=token_ids, use_cache=False).last_hidden_state[0])
        prompt = int(pack.prefix_of_response_R[slot])
        prefix_start = int(pack.gating_indices_P[prompt]) - conversation.gating_index
        response_stop = int(pack.reward_indices_R[slot]) + 1
        found.append(hidden_TD[prefix_start : prefix_start + len(conversation.prefix_ids)])
        found.append(hidden_TD[response_stop - len(conversation.response_ids) : response_stop])
    expected_TD = torch.cat(expected)
    return (torch.cat(found) - expected_TD).abs() / expected_TD.abs().max()


@pytest.mark.parametrize("seed", range(3))
def test_a_pack_equals_its_conversations_one_by_one(family: str, seed: int) -> None:
    alone, packed = decoders(family, torch.float32)
    conversations = random_conversations(seed)
    pack = pack_of(conversations)
    assert pack.num_tokens < pack.num_logical_tokens
    assert differences(alone, packed_hidden(packed, pack), pack, conversations).max() < TOLERANCE


def test_they_are_equal_to_rounding_in_float64(family: str) -> None:
    """In float64 only the norms (and Gemma's soft-capped softmax) still round to float32, which rarely shows."""
    alone, packed = decoders(family, torch.float64)
    conversations = random_conversations(seed=0)
    pack = pack_of(conversations)
    difference = differences(alone, packed_hidden(packed, pack), pack, conversations)
    assert difference.max() < 3e-7
    assert difference.median() < 1e-12
    assert difference.mean() < 3e-9


def see_the_sibling(pack: Pack) -> Pack:
    """Let each response see whatever lies between it and its prefix: its earlier siblings."""
    widened = tuple(
        replace(segment, prefix_stop=segment.start) if segment.num_prefix_tokens else segment
        for segment in pack.segments
    )
    return replace(pack, segments=widened)


def forget_the_prefix(pack: Pack) -> Pack:
    return replace(pack, segments=tuple(Segment(segment.start, segment.stop) for segment in pack.segments))


def start_positions_anew(pack: Pack) -> Pack:
    positions = np.concatenate([np.arange(segment.num_tokens) for segment in pack.segments])
    return replace(pack, position_ids_T=positions)


def lose_a_prefix_token(pack: Pack) -> Pack:
    shifted = tuple(
        replace(segment, prefix_start=segment.prefix_start + 1) if segment.num_prefix_tokens else segment
        for segment in pack.segments
    )
    return replace(pack, segments=shifted)


@pytest.mark.parametrize(
    "wrong",
    [see_the_sibling, forget_the_prefix, start_positions_anew, lose_a_prefix_token],
    ids=lambda wrong: wrong.__name__,
)
def test_a_wrong_mask_is_noticed(wrong: Callable[[Pack], Pack]) -> None:
    """The negative control: the comparison above would fail by orders of magnitude if the pack saw other tokens."""
    alone, packed = decoders("llama", torch.float32)
    conversations = random_conversations(seed=0)
    pack = pack_of(conversations)
    assert differences(alone, packed_hidden(packed, wrong(pack)), pack, conversations).max() > 1000 * TOLERANCE


@pytest.mark.parametrize(
    ("family_of_option", "without"),
    [(name, {"sliding_window": 10_000}) for name in ("mistral", "qwen2", "qwen3", "gemma2")]
    + [("gemma2", {"attn_logit_softcapping": None}), ("gemma2", {"query_pre_attn_scalar": 16})],
)
def test_every_option_of_attention_matters_here(family_of_option: str, without: dict[str, Any]) -> None:
    """Without this, a packed attention that ignored the window, the soft cap or the query scale could pass."""
    alone, _ = decoders(family_of_option, torch.float32)
    without_it = build_backbone(config_of(family_of_option, **without))
    without_it.decoder.load_state_dict(alone.state_dict())
    conversations = random_conversations(seed=0)
    pack = pack_of(conversations)
    assert differences(alone, packed_hidden(without_it, pack), pack, conversations).max() > 1000 * TOLERANCE


def test_a_conversation_does_not_depend_on_its_neighbours(family: str) -> None:
    _, packed = decoders(family, torch.float32)
    conversations = random_conversations(seed=5)
    pack = pack_of(conversations)
    among_others = packed_hidden(packed, pack)
    for slot, conversation in enumerate(conversations):
        by_itself = packed_hidden(packed, pack_of([conversation]))
        difference = (among_others[pack.reward_indices_R[slot]] - by_itself[-1]).abs().max() / by_itself.abs().max()
        assert difference < TOLERANCE


def test_gradients_equal_those_of_single_passes() -> None:
    """Training shares this attention: what flows back through a shared prefix is the sum over its responses."""
    alone, packed = decoders("llama", torch.float64)
    conversations = random_conversations(seed=2, responses_per_prefix=(3, 2))
    pack = pack_of(conversations)
    hidden_TD = packed(torch.from_numpy(pack.token_ids_T), torch.from_numpy(pack.position_ids_T), pack.segments)
    hidden_TD[pack.reward_indices_R].square().sum().backward()
    for conversation in conversations:
        token_ids = torch.tensor([conversation.prefix_ids + conversation.response_ids])
        alone(input_ids=token_ids, use_cache=False).last_hidden_state[0, -1].square().sum().backward()
    expected = dict(alone.named_parameters())
    for name, parameter in packed.decoder.named_parameters():
        wanted = expected[name].grad
        assert parameter.grad is not None
        assert wanted is not None
        assert torch.allclose(parameter.grad, wanted, rtol=1e-5, atol=1e-6 * float(wanted.abs().max())), name
