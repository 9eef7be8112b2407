"""The layout of a pack: each distinct prefix once, positions as if alone, readouts in the order of arrival."""

import random
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain import Prefix, TokenizedConversation
from app.pack_builder import LEAST_AWAITED_TOKENS, PackBuilder, pack_of
from app.packing import Pack, PackOutput, Segment

Ids = st.lists(st.integers(0, 999), min_size=1, max_size=8).map(tuple)


@st.composite
def conversations(draw: st.DrawFn) -> list[TokenizedConversation]:
    """Draw conversations over few prompts, some alike but for the gating index."""
    prompts = draw(st.lists(Ids, min_size=1, max_size=4))
    chosen = draw(st.lists(st.tuples(st.sampled_from(prompts), Ids, st.integers(0, 7)), min_size=1, max_size=20))
    return [TokenizedConversation(prefix, ids, index % len(prefix)) for prefix, ids, index in chosen]


def visible(pack: Pack, response: int) -> tuple[list[int], list[int]]:
    """Read the token ids and positions that the last token of a response sees: all that its readout depends on."""
    last = int(pack.reward_indices_R[response])
    segment = next(one for one in pack.segments if one.start <= last < one.stop)
    spans = ((segment.prefix_start, segment.prefix_stop), (segment.start, last + 1))
    return tuple(
        [value for start, stop in spans for value in values[start:stop].tolist()]
        for values in (pack.token_ids_T, pack.position_ids_T)
    )


@given(conversations())
def test_every_response_sees_exactly_its_own_conversation(given_conversations: list[TokenizedConversation]) -> None:
    pack = pack_of(given_conversations)
    for response, one in enumerate(given_conversations):
        token_ids, positions = visible(pack, response)
        assert token_ids == [*one.prefix_ids, *one.response_ids]
        assert positions == list(range(one.num_tokens))
        prompt = pack.prefix_of_response_R[response]
        gating_index = int(pack.gating_indices_P[prompt])
        assert pack.token_ids_T[gating_index] == one.prefix_ids[one.gating_index]
        assert pack.position_ids_T[gating_index] == one.gating_index


@given(conversations())
def test_segments_tile_the_pack_and_each_distinct_prefix_is_there_once(
    given_conversations: list[TokenizedConversation],
) -> None:
    pack = pack_of(given_conversations)
    edges = [0, *(segment.stop for segment in pack.segments)]
    assert [segment.start for segment in pack.segments] == edges[:-1]
    assert edges[-1] == pack.num_tokens
    distinct = {(one.prefix_ids, one.gating_index) for one in given_conversations}
    assert len(pack.gating_indices_P) == len(distinct)
    num_response_tokens = sum(len(one.response_ids) for one in given_conversations)
    assert pack.num_tokens == num_response_tokens + sum(len(prefix) for prefix, _ in distinct)
    assert pack.num_logical_tokens == sum(one.num_tokens for one in given_conversations)
    assert pack.num_responses == len(given_conversations)


@given(conversations(), st.randoms(use_true_random=False))
def test_readouts_come_back_in_the_order_of_arrival_however_it_is_shuffled(
    given_conversations: list[TokenizedConversation], chance: random.Random
) -> None:
    shuffled = list(given_conversations)
    chance.shuffle(shuffled)
    for order in (given_conversations, shuffled):
        pack = pack_of(order)
        rewards_RK = np.array([[sum(visible(pack, r)[0])] for r in range(pack.num_responses)], dtype=np.float32)
        gating_PK = pack.token_ids_T[pack.gating_indices_P][:, None].astype(np.float32)
        readouts = PackOutput(rewards_RK, pack.prefix_of_response_R, gating_PK=gating_PK).readouts()
        for readout, one in zip(readouts, order, strict=True):
            assert readout.rewards.tolist() == [sum(one.prefix_ids) + sum(one.response_ids)]
            assert readout.gating.tolist() == [one.prefix_ids[one.gating_index]]


@given(conversations(), st.integers(1, 60))
def test_a_builder_takes_what_fits_and_says_what_it_costs(
    given_conversations: list[TokenizedConversation], budget: int
) -> None:
    builder = PackBuilder(budget)
    taken = []
    for one in given_conversations:
        cost, before = builder.cost_tokens(one), builder.num_tokens
        if builder.try_add(one):
            taken.append(one)
            assert builder.num_tokens == before + cost <= budget
        else:
            assert builder.num_tokens == before
            assert before + cost > budget
    assert builder.num_responses == len(taken)
    if taken:
        assert builder.build().num_tokens == builder.num_tokens
        assert builder.build().num_responses == len(taken)


def test_the_layout_of_a_small_pack() -> None:
    pack = pack_of(
        [
            TokenizedConversation((1, 2, 3), (10,), 1),
            TokenizedConversation((7,), (20, 21), 0),
            TokenizedConversation((1, 2, 3), (30, 31), 1),
        ]
    )
    assert pack.token_ids_T.tolist() == [1, 2, 3, 10, 30, 31, 7, 20, 21]
    assert pack.position_ids_T.tolist() == [0, 1, 2, 3, 3, 4, 0, 1, 2]
    assert pack.segments == (
        Segment(0, 3),
        Segment(3, 4, 0, 3),
        Segment(4, 6, 0, 3),
        Segment(6, 7),
        Segment(7, 9, 6, 7),
    )
    assert pack.gating_indices_P.tolist() == [1, 6]
    assert pack.reward_indices_R.tolist() == [3, 8, 5]
    assert pack.prefix_of_response_R.tolist() == [0, 1, 0]


def test_the_budget_counts_a_shared_prefix_once() -> None:
    builder = PackBuilder(token_budget=8)
    assert builder.try_add(TokenizedConversation((1, 2, 3, 4, 5), (6,), 0))
    assert builder.try_add(TokenizedConversation((1, 2, 3, 4, 5), (7, 8), 0))
    assert not builder.try_add(TokenizedConversation((1, 2, 3, 4, 5), (9,), 0))


def test_an_empty_pack_is_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        PackBuilder(10).build()


def test_responses_to_one_prefix_are_added_in_order_as_far_as_they_fit() -> None:
    builder = PackBuilder(token_budget=8)
    prefix = Prefix((1, 2, 3), 0)
    assert builder.prefix_cost_tokens(prefix) == 3
    assert builder.fill(prefix, [(4, 4, 4, 4, 4, 4)]) == []
    assert (builder.num_tokens, builder.num_responses) == (0, 0)
    assert builder.fill(prefix, [(5, 5), (6, 6, 6, 6), (7,), (8, 8), (9,)]) == [0, 2, 3]
    assert builder.prefix_cost_tokens(prefix) == 0
    assert (builder.num_tokens, builder.num_responses) == (8, 3)
    pack = builder.build()
    assert pack.token_ids_T.tolist() == [1, 2, 3, 5, 5, 7, 8, 8]
    assert pack.response_tokens_R.tolist() == [2, 1, 2]
    assert pack.prefix_tokens_P.tolist() == [3]


@dataclass(frozen=True)
class Recalled:
    num_tokens: int
    is_shareable: bool = True


def test_a_prompt_is_worth_awaiting_for_a_long_beginning_before_its_gating_token() -> None:
    beginning = tuple(range(LEAST_AWAITED_TOKENS))

    def awaits(prompt: tuple[int, ...], gating_index: int, recalled: Recalled | None = Recalled(0)) -> bool:
        builder = PackBuilder(10_000, recall=None if recalled is None else lambda _: recalled)
        held, other = Prefix((*beginning, 1, 1), len(beginning) + 1), Prefix(prompt, gating_index)
        assert not builder.is_worth_awaiting(other)
        assert builder.fill(held, [(5,)]) == [0]
        assert not builder.is_worth_awaiting(held)
        return builder.is_worth_awaiting(other)

    assert awaits((*beginning, 2, 2), len(beginning))
    assert not awaits((*beginning, 2, 2), len(beginning) - 1)
    assert not awaits((*beginning[:-1], 2, 2, 2), len(beginning) + 1)
    assert not awaits((*beginning, 2, 2), len(beginning), recalled=None)
    assert not awaits((*beginning, 2, 2), len(beginning), Recalled(0, is_shareable=False))
    assert not awaits((*beginning, 2, 2), len(beginning), Recalled(3))


def output_of_ones() -> PackOutput:
    """Two prompts, the first with two responses."""
    ones = np.ones((2, 2), dtype=np.float32)
    return PackOutput(
        np.ones((3, 2), dtype=np.float32),
        np.array([0, 0, 1]),
        ones.copy(),
        ones.copy(),
        np.ones(3, dtype=np.float32),
        {"honesty": np.ones((3, 4), dtype=np.float32)},
    )


def test_a_finite_output() -> None:
    ones = output_of_ones()
    assert ones.is_finite_R.tolist() == [True] * 3
    bare = replace(ones, gating_PK=None, coefficients_PK=None, scores_R=None, intensities={})
    assert bare.is_finite_R.tolist() == [True] * 3


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    ("name", "finite"),
    [
        ("rewards_RK", [True, False, True]),
        ("scores_R", [True, False, True]),
        ("honesty", [True, False, True]),
        ("gating_PK", [True, True, False]),
        ("coefficients_PK", [True, True, False]),
    ],
)
def test_one_value_that_is_not_finite_spoils_the_responses_it_belongs_to(
    name: str, finite: list[bool], value: float
) -> None:
    output = output_of_ones()
    values = output.intensities[name] if name in output.intensities else getattr(output, name)
    values[(1, -1)[: values.ndim]] = value
    assert output.is_finite_R.tolist() == finite


def test_readouts_share_what_belongs_to_the_prompt() -> None:
    output = PackOutput(
        rewards_RK=np.array([[1, 2], [3, 4], [5, 6]], dtype=np.float32),
        prefix_of_response_R=np.array([1, 0, 1]),
        gating_PK=np.array([[0.1, 0.9], [0.6, 0.4]], dtype=np.float32),
        coefficients_PK=np.array([[1, 0], [0, 1]], dtype=np.float32),
        scores_R=np.array([2, 3, 6], dtype=np.float32),
        intensities={"honesty": np.array([[0.1], [0.2], [0.3]], dtype=np.float32)},
    )
    first, second, third = output.readouts()
    assert first.gating.tolist() == third.gating.tolist() == pytest.approx([0.6, 0.4])
    assert second.coefficients.tolist() == [1, 0]
    assert [one.score for one in (first, second, third)] == [2, 3, 6]
    assert third.intensities["honesty"].tolist() == pytest.approx([0.3])
