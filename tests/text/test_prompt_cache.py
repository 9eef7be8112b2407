"""A prompt seen again gives the same ids as one never seen, whatever was tokenised in between."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Barrier

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.domain import Item, Message, Prefix
from app.text.conversation_tokenizer import ConversationTokenizer
from app.text.prompt_cache import PromptCache, PromptKey, TokenizedPrompt
from tests.text.conversations import item_of, items_without_system, texts
from tests.text.loading import load, load_once
from tests.text.tokenizer_families import FAMILIES

FolderOf = Callable[[str], Path]
exhaustive = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
NUM_THREADS = 4


def forgetful(tokenizer: ConversationTokenizer) -> ConversationTokenizer:
    """Return the same tokenizer without anything remembered, now or later."""
    return replace(tokenizer, prompts=PromptCache(budget_bytes=0))


def prompt_of(num_tokens: int) -> TokenizedPrompt:
    return TokenizedPrompt("", 0, 0, None, Prefix(tuple(range(num_tokens)), 0))


def key_of(name: str) -> PromptKey:
    return "", (Message("user", name),)


@pytest.mark.parametrize("gating_token", ["end_of_turn", "last_prompt_token"])
@pytest.mark.parametrize("name", FAMILIES)
@exhaustive
@given(item=items_without_system, others=st.lists(st.lists(texts, min_size=1, max_size=3), max_size=2))
def test_a_remembered_prompt_gives_the_same_ids(
    folder_of: FolderOf, name: str, gating_token: str, item: Item, others: Sequence[list[str]]
) -> None:
    if gating_token == "end_of_turn" and not FAMILIES[name].closing:
        gating_token = "last_prompt_token"
    tokenizer = load_once(folder_of(name), name, gating_token=gating_token)
    for responses in (list(item.responses), *others, list(item.responses)):
        same_prompt = replace(item, responses=tuple(responses))
        try:
            expected = forgetful(tokenizer).encode(same_prompt)
        except Exception as refusal:
            with pytest.raises(type(refusal)):
                tokenizer.encode(same_prompt)
        else:
            assert tokenizer.encode(same_prompt) == expected


def test_special_token_strings_and_the_mark_that_hides_them_are_told_apart(folder_of: FolderOf) -> None:
    """A prompt that spells what masks another's special token is rendered alike, and must not be taken for it."""
    tokenizer = load(folder_of("llama3"), "llama3")
    number = tokenizer.tokenizer.special_tokens.number["<|eot_id|>"]
    for content in ("<|eot_id|>", f"\U0010fffd{number}\U0010fffd", "<|eot_id|>"):
        for response in ("Sure", "<|eot_id|>", f"\U0010fffd{number}\U0010fffd"):
            item = item_of([content], [response])
            assert tokenizer.encode(item) == forgetful(tokenizer).encode(item)


def test_prompts_that_differ_in_a_role_only_are_told_apart(folder_of: FolderOf) -> None:
    tokenizer = load(folder_of("llama3"), "llama3")
    with_system = Item((Message("system", "Hi"), Message("user", "Hi")), ("Sure",))
    turns = item_of(["Hi", "Hi", "Hi"], ["Sure"])
    for item in (with_system, turns, with_system):
        assert tokenizer.encode(item) == forgetful(tokenizer).encode(item)
    assert len(list(tokenizer.prompts)) == 2


def test_items_of_one_prompt_share_one_prefix(folder_of: FolderOf) -> None:
    tokenizer = load(folder_of("llama3"), "llama3")
    first, second = (tokenizer.encode(item_of(["Hi"], [response])).conversations[0] for response in ("Sure", "No"))
    assert first.known_prefix is not None
    assert first.known_prefix is second.known_prefix
    assert first.prefix_ids is second.prefix_ids is first.prefix.ids
    assert first.prefix == Prefix(first.prefix_ids, first.gating_index)


def test_a_response_that_merges_into_the_prompt_has_a_prefix_of_its_own(folder_of: FolderOf) -> None:
    tokenizer = load(folder_of("chatml"), "chatml")
    whole, merged = (tokenizer.encode(item_of(["Hi"], [response])).conversations[0] for response in ("Sure", "\nSure"))
    assert len(merged.prefix_ids) < len(whole.prefix_ids)
    assert merged.known_prefix is None
    assert merged.prefix == Prefix(merged.prefix_ids, merged.gating_index)


def test_a_remembered_prompt_is_neither_rendered_nor_tokenised_again(
    folder_of: FolderOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = load(folder_of("llama3"), "llama3")
    tokenizer.encode(item_of(["Hi"], ["Sure"]))

    def fail(*_arguments: object, **_options: object) -> str:
        raise AssertionError("the prompt was rendered again")

    monkeypatch.setattr(type(tokenizer.template), "prompt", fail)
    tokenizer.encode(item_of(["Hi"], ["No"]))
    with pytest.raises(AssertionError, match="rendered again"):
        tokenizer.encode(item_of(["Hello"], ["No"]))


def test_threads_that_meet_the_same_prompt_at_once_share_one_prefix(folder_of: FolderOf) -> None:
    tokenizer = load(folder_of("llama3"), "llama3")
    barrier = Barrier(NUM_THREADS)

    def encode(number: int) -> Prefix | None:
        barrier.wait()
        return tokenizer.encode(item_of(["Hi " * 50], [f"Sure {number}"])).conversations[0].known_prefix

    with ThreadPoolExecutor(NUM_THREADS) as pool:
        prefixes = list(pool.map(encode, range(NUM_THREADS)))
    assert prefixes[0] is not None
    assert len(set(map(id, prefixes))) == 1


def test_the_prompts_used_longest_ago_are_forgotten_when_the_budget_is_full() -> None:
    one = PromptCache()
    one.keep(key_of("a"), prompt_of(1000))
    cache = PromptCache(budget_bytes=2 * one.num_bytes)
    first, second, third = (prompt_of(1000) for _ in range(3))
    cache.keep(key_of("a"), first)
    cache.keep(key_of("b"), second)
    assert cache.find(key_of("a")) is first
    cache.keep(key_of("c"), third)
    assert list(cache) == [key_of("a"), key_of("c")]
    assert cache.find(key_of("b")) is None
    assert cache.num_bytes == 2 * one.num_bytes


def test_the_estimate_follows_what_is_kept() -> None:
    cache = PromptCache(budget_bytes=1_000_000)
    for number in range(200):
        cache.keep(key_of(f"prompt {number}"), prompt_of(1 + 37 * (number % 50)))
        assert 0 < cache.num_bytes <= 1_000_000
    again = PromptCache()
    for key in cache:
        kept = cache.find(key)
        assert kept is not None
        again.keep(key, kept)
    assert again.num_bytes == cache.num_bytes
    assert len(list(cache)) < 200


def test_a_prompt_larger_than_the_budget_pushes_nothing_out() -> None:
    small = PromptCache()
    small.keep(key_of("a"), prompt_of(10))
    cache = PromptCache(budget_bytes=small.num_bytes)
    cache.keep(key_of("a"), prompt_of(10))
    large = prompt_of(10_000)
    assert cache.keep(key_of("b"), large) is large
    assert list(cache) == [key_of("a")]


def test_the_first_of_two_equal_prompts_is_the_shared_one() -> None:
    cache = PromptCache()
    first, second = prompt_of(5), prompt_of(5)
    assert cache.keep(key_of("a"), first) is first
    assert cache.keep(key_of("a"), second) is first
