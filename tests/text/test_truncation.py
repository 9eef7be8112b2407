"""Too long items: refused, or shortened from the left so that all responses keep one prompt."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.domain import Item
from app.errors import MalformedBody, TooManyTokens
from app.text.conversation_tokenizer import ConversationTokenizer
from tests.text.conversations import item_of, texts
from tests.text.loading import load

FolderOf = Callable[[str], Path]
NAMES = ("chatml", "llama3", "mistral", "gemma")
exhaustive = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def loaded(folder_of: FolderOf) -> dict[str, ConversationTokenizer]:
    return {name: load(folder_of(name), name) for name in NAMES}


def num_tokens(folder: Path, item: Item) -> int:
    return max(conversation.num_tokens for conversation in load(folder, "chatml").encode(item).conversations)


def rendered_with_limit(folder: Path, item: Item, limit: int) -> tuple[list[str], bool]:
    rendered = load(folder, "chatml", max_conversation_tokens=limit).render(item, "prompt_left")
    return [conversation.text for conversation in rendered.conversations], rendered.truncated


def chatml(*turns: tuple[str, str]) -> str:
    return "".join(f"<|im_start|>{role}\n{content}<|im_end|>\n" for role, content in turns)


def test_a_conversation_at_the_limit_fits_and_one_over_is_refused(folder_of: FolderOf) -> None:
    folder = folder_of("chatml")
    item = item_of(["Hi there"], ["Sure", "Sure, here is the code"])
    longest = num_tokens(folder, item)
    exact = load(folder, "chatml", max_conversation_tokens=longest)
    assert not exact.encode(item).truncated
    assert exact.encode(item, "prompt_left") == exact.encode(item)
    with pytest.raises(TooManyTokens, match=f"has {longest} tokens; the limit is {longest - 1}"):
        load(folder, "chatml", max_conversation_tokens=longest - 1).encode(item)


def test_leading_pairs_go_first_and_the_system_message_stays(folder_of: FolderOf) -> None:
    folder = folder_of("chatml")
    item = item_of(["One", "Two", "Three", "Four", "Five"], ["Six", "Seven and more"], system="Be nice")
    kept = item_of(["Three", "Four", "Five"], item.responses, system="Be nice")
    limit = num_tokens(folder, kept)
    expected = [
        chatml(
            ("system", "Be nice"), ("user", "Three"), ("assistant", "Four"), ("user", "Five"), ("assistant", response)
        )
        for response in item.responses
    ]
    assert rendered_with_limit(folder, item, limit) == (expected, True)
    last_only, _ = rendered_with_limit(folder, item, limit - 1)
    assert last_only[0] == chatml(("system", "Be nice"), ("user", "Five"), ("assistant", "Six"))


@pytest.mark.parametrize("kept_pairs", range(9))
def test_as_many_pairs_stay_as_fit(folder_of: FolderOf, kept_pairs: int) -> None:
    folder = folder_of("chatml")
    turns = [f"Turn {number}" for number in range(21)]
    kept = turns[20 - 2 * kept_pairs :]
    limit = num_tokens(folder, item_of(kept, ["Sure"]))
    texts, _ = rendered_with_limit(folder, item_of(turns, ["Sure"]), limit)
    assert texts == rendered_with_limit(folder, item_of(kept, ["Sure"]), limit)[0]


def test_then_leading_tokens_of_the_first_kept_turn_go(folder_of: FolderOf) -> None:
    folder = folder_of("chatml")
    question = " ".join(f"beautiful word {number}" for number in range(50))
    item = item_of(["One", "Two", question], ["Sure", "Here is the code"], system="Be nice")
    (short, long), truncated = rendered_with_limit(folder, item, 60)
    assert truncated
    start = chatml(("system", "Be nice")) + "<|im_start|>user\n"
    cut = short.removeprefix(start).removesuffix("<|im_end|>\n" + chatml(("assistant", "Sure")))
    assert question.endswith(cut)
    assert long == short.removesuffix(chatml(("assistant", "Sure"))) + chatml(("assistant", "Here is the code"))
    fitted = item_of([cut], item.responses, system="Be nice")
    assert 55 <= num_tokens(folder, fitted) <= 60, "no more goes than must"


def test_responses_that_leave_no_room_are_refused(folder_of: FolderOf) -> None:
    tokenizer = load(folder_of("chatml"), "chatml", max_conversation_tokens=20)
    item = item_of(["Hi"], ["Sure", "word " * 20])
    least = num_tokens(folder_of("chatml"), item_of(["i"], item.responses))
    with pytest.raises(TooManyTokens, match=f"^the longest response leaves no .* {least} tokens; the limit is 20$"):
        tokenizer.encode(item, "prompt_left")


def test_a_system_message_that_leaves_no_room_is_named(folder_of: FolderOf) -> None:
    folder = folder_of("chatml")
    tokenizer = load(folder, "chatml", max_conversation_tokens=40)
    item = item_of(["One", "Two", "Three and more"], ["Sure"], system="word " * 60)
    least = item_of(["e"], ["Sure"], system="word " * 60)
    whole, bare = num_tokens(folder, least), num_tokens(folder, item_of(["e"], ["Sure"]))
    words = f"the system message and the longest response .* {whole} tokens, {whole - bare} of them for the system mes"
    with pytest.raises(TooManyTokens, match=f"{words}sage; the limit is 40$"):
        tokenizer.encode(item, "prompt_left")


def test_the_last_character_is_kept_where_it_fits(folder_of: FolderOf) -> None:
    folder = folder_of("chatml")
    item = item_of(["Hi there x"], ["Sure"])
    limit = num_tokens(folder, item_of(["x"], ["Sure"]))
    (text,), truncated = rendered_with_limit(folder, item, limit)
    assert truncated
    assert text == chatml(("user", "x"), ("assistant", "Sure"))


@exhaustive
@given(
    turns=st.sampled_from((1, 3, 5)).flatmap(lambda number: st.lists(texts, min_size=number, max_size=number)),
    responses=st.lists(texts, min_size=1, max_size=3),
    limit=st.integers(12, 60),
)
@pytest.mark.parametrize("name", NAMES)
def test_what_is_left_fits_and_ends_as_before(
    loaded: dict[str, ConversationTokenizer], name: str, turns: list[str], responses: list[str], limit: int
) -> None:
    item = item_of(turns, responses)
    tokenizer = loaded[name]
    full = tokenizer.encode(item)
    try:
        fitted = replace(tokenizer, max_conversation_tokens=limit).encode(item, "prompt_left")
    except TooManyTokens:
        return
    assert max(conversation.num_tokens for conversation in fitted.conversations) <= limit
    assert fitted.truncated == (max(conversation.num_tokens for conversation in full.conversations) > limit)
    for before, after in zip(full.conversations, fitted.conversations, strict=True):
        closed = len(before.prefix_ids) - before.gating_index
        assert after.prefix_ids[-closed:] == before.prefix_ids[-closed:]
        assert after.response_ids == before.response_ids
        assert after.prefix_ids == fitted.conversations[0].prefix_ids
        assert after.prefix_ids[after.gating_index] == before.prefix_ids[before.gating_index]


@pytest.mark.parametrize(
    ("field", "item"),
    [
        ("prompt[1].content", item_of(["a", "\ud800", "b"], ["c"])),
        ("prompt[0].content", item_of(["a\udfff"], ["c"])),
        ("responses[1]", item_of(["a"], ["c", "x\udc00x"])),
    ],
)
def test_lone_surrogates_are_malformed(folder_of: FolderOf, field: str, item: Item) -> None:
    with pytest.raises(MalformedBody, match="lone surrogate") as refusal:
        load(folder_of("chatml"), "chatml").encode(item)
    assert refusal.value.fields[0][0] == field
