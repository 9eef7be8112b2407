"""What the types that flow refuse, and what they derive."""

from dataclasses import replace

import pytest

from app.domain import (
    IntensityHead,
    Item,
    Message,
    ModelInfo,
    NativeScale,
    Objective,
    Prefix,
    TokenizedConversation,
)
from app.errors import InvalidConversation, UnknownName

SYSTEM = Message("system", "s")
USER = Message("user", "u")
ASSISTANT = Message("assistant", "a")

INFO = ModelInfo("m", "r", "t", "float32", "cpu", (Objective("one"), Objective("two")), True, 100)


def test_a_role_must_be_known_and_the_error_does_not_echo_it() -> None:
    with pytest.raises(InvalidConversation, match="system, user, assistant") as caught:
        Message("tool <secret>", "text")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "prompt", [(USER,), (SYSTEM, USER), (USER, ASSISTANT, USER), (SYSTEM, USER, ASSISTANT, USER, ASSISTANT, USER)]
)
def test_prompts_in_turn_are_taken(prompt: tuple[Message, ...]) -> None:
    assert Item(prompt, ("r",)).prompt == prompt


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ((), "must end with a user message"),
        ((SYSTEM,), "must end with a user message"),
        ((USER, ASSISTANT), "must end with a user message"),
        ((USER, USER), "prompt message 1 has the role user where assistant is due"),
        ((ASSISTANT, USER), "prompt message 0 has the role assistant where user is due"),
        ((SYSTEM, ASSISTANT, USER), "prompt message 1 has the role assistant where user is due"),
        ((SYSTEM, SYSTEM, USER), "prompt message 1 has the role system where user is due"),
        ((USER, SYSTEM, USER), "prompt message 1 has the role system where assistant is due"),
        ((SYSTEM, USER, ASSISTANT, ASSISTANT, USER), "prompt message 3 has the role assistant where user is due"),
    ],
)
def test_prompts_out_of_turn_are_refused(prompt: tuple[Message, ...], message: str) -> None:
    with pytest.raises(InvalidConversation, match=message):
        Item(prompt, ("r",))


def test_an_item_needs_a_response_but_it_may_be_empty() -> None:
    with pytest.raises(InvalidConversation, match="no response"):
        Item((USER,), ())
    assert Item((USER,), ("",)).responses == ("",)


@pytest.mark.parametrize("arguments", [((), (1,), 0), ((1,), (), 0), ((1, 2), (3,), 2), ((1, 2), (3,), -1)])
def test_a_tokenized_conversation_that_cannot_be_scored_is_a_bug(arguments: tuple[object, ...]) -> None:
    with pytest.raises(ValueError, match="This is a bug"):
        TokenizedConversation(*arguments)


def test_tokens_of_a_conversation() -> None:
    assert TokenizedConversation((1, 2), (3,), 1).num_tokens == 3


def test_prefixes_agree_by_content() -> None:
    prefix = TokenizedConversation((1, 2), (3,), 1).prefix
    assert prefix == Prefix((1, 2), 1)
    assert hash(prefix) == hash(Prefix((1, 2), 1))
    assert prefix != Prefix((1, 2), 0)
    assert prefix != Prefix((1, 3), 1)
    assert prefix != ((1, 2), 1)
    assert len(prefix) == 2
    assert len({prefix, Prefix((1, 2), 1), Prefix((1, 2), 0)}) == 2


def test_a_prefix_that_is_known_already_is_not_made_anew() -> None:
    known = Prefix((1, 2), 1)
    conversation = TokenizedConversation((1, 2), (3,), 1, known)
    assert conversation.prefix is known
    assert conversation == TokenizedConversation((1, 2), (3,), 1)


def test_a_native_scale() -> None:
    assert NativeScale(slope=5.0, intercept=-0.5)(0.7) == pytest.approx(3.0)


@pytest.mark.parametrize(
    ("mean", "std"), [((0.0,), (1.0, 1.0)), ((0.0, 0.0), (1.0,)), ((0.0, 0.0), (1.0, 0.0)), ((0.0, 0.0), (1.0, -1.0))]
)
def test_a_head_without_usable_statistics_is_refused(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="head honesty"):
        IntensityHead("honesty", 2, mean, std)


def test_a_scalar_needs_gating_or_a_single_objective() -> None:
    assert INFO.has_scalar
    assert not replace(INFO, has_gating=False).has_scalar
    assert replace(INFO, has_gating=False, objectives=(Objective("one"),)).has_scalar
    assert INFO.objective_names == ("one", "two")


def test_a_head_is_found_by_name_or_the_error_lists_those_there_are() -> None:
    heads = (IntensityHead("honesty", 1, (0.0,), (1.0,)), IntensityHead("harmless", 1, (0.0,), (1.0,)))
    info = replace(INFO, heads=heads)
    assert info.head("harmless") is heads[1]
    with pytest.raises(UnknownName, match="honesty, harmless"):
        info.head("secret")
    with pytest.raises(UnknownName, match="none"):
        INFO.head("honesty")
