"""The ids are those of `apply_chat_template` on the whole conversation, whatever the tokenizer and the text."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from app.domain import Item, Message
from app.errors import InvalidConversation
from app.text.conversation_tokenizer import ConversationTokenizer
from tests.text.conversations import as_chat, contents_of, item_of, items_without_system, texts
from tests.text.loading import load, load_once, whole
from tests.text.tokenizer_families import FAMILIES, GATED, reference_of, write_family

FolderOf = Callable[[str], Path]
exhaustive = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, folder_of: FolderOf) -> tuple[str, ConversationTokenizer, Any]:
    folder = folder_of(request.param)
    return request.param, load(folder, request.param), reference_of(folder)


def assert_exact(tokenizer: ConversationTokenizer, reference: Any, item: Item) -> None:
    for conversation, response in zip(tokenizer.encode(item).conversations, item.responses, strict=True):
        expected = reference.apply_chat_template(as_chat(item, response), return_dict=False)
        assert whole(conversation) == expected


@exhaustive
@given(item=items_without_system, system=st.none() | texts)
def test_ids_equal_those_of_the_whole_conversation(
    family: tuple[str, ConversationTokenizer, Any], item: Item, system: str | None
) -> None:
    name, tokenizer, reference = family
    assume(not tokenizer.tokenizer.special_tokens.count(contents_of(item)))
    if system is not None and FAMILIES[name].takes_system:
        assume(not tokenizer.tokenizer.special_tokens.count([system]))
        item = replace(item, prompt=(Message("system", system), *item.prompt))
    assert_exact(tokenizer, reference, item)


@pytest.mark.parametrize(
    "start", [" ", "\n", "\n\n", " \n", "\t", "\u00a0", "\x1c", "\u0301", "a", "1", "<", "</", "|>"]
)
def test_responses_that_may_merge_into_the_prompt(family: tuple[str, ConversationTokenizer, Any], start: str) -> None:
    _, tokenizer, reference = family
    assert_exact(tokenizer, reference, item_of(["Hi"], [start + "there", start, "there"]))


def test_some_responses_do_merge_into_the_prompt(folder_of: FolderOf) -> None:
    """Negative control: tokenising the response alone gives other ids, so the tests above are not empty."""
    tokenizer, reference = load(folder_of("chatml"), "chatml"), reference_of(folder_of("chatml"))
    item = item_of(["Hi"], ["\n\nthere"])
    prompt = reference.apply_chat_template(as_chat(item, "")[:-1], add_generation_prompt=True, return_dict=False)
    apart = prompt + reference.encode("\n\nthere<|im_end|>\n", add_special_tokens=False)
    assert apart != whole(tokenizer.encode(item).conversations[0])
    assert_exact(tokenizer, reference, item)


def test_a_prompt_is_shared_by_all_its_responses(family: tuple[str, ConversationTokenizer, Any]) -> None:
    _, tokenizer, reference = family
    first, second, third = tokenizer.encode(item_of(["Hi", "Yes", "What?"], ["Sure", "No", "1"])).conversations
    assert first.prefix_ids == second.prefix_ids == third.prefix_ids
    prompt = as_chat(item_of(["Hi", "Yes", "What?"], ["-"]), "")[:-1]
    rendered = reference.apply_chat_template(prompt, add_generation_prompt=True, return_dict=False)
    num_in_common = next(
        (i for i, (a, b) in enumerate(zip(rendered, whole(first), strict=False)) if a != b), len(rendered)
    )
    assert len(first.prefix_ids) == num_in_common, "no more and no less than the prompt's rendering is shared"


@pytest.mark.parametrize("name", GATED)
def test_the_gating_token_closes_the_last_turn(name: str, folder_of: FolderOf) -> None:
    tokenizer, reference = load(folder_of(name), name), reference_of(folder_of(name))
    item = item_of(["Hi", "Yes", "What?"], ["Sure"])
    (conversation,) = tokenizer.encode(item).conversations
    closing = reference.convert_tokens_to_ids(FAMILIES[name].closing)
    assert conversation.prefix_ids[conversation.gating_index] == closing
    closed = reference.apply_chat_template(as_chat(item, "")[:-1], return_dict=False)
    last = max(index for index, token_id in enumerate(closed) if token_id == closing)
    assert conversation.gating_index == last


def test_the_gating_token_may_be_the_last_of_the_prompt(
    family: tuple[str, ConversationTokenizer, Any], folder_of: FolderOf
) -> None:
    name, tokenizer, _ = family
    at_the_end = load(folder_of(name), name, gating_token="last_prompt_token")
    item = item_of(["Hi"], ["Sure", "No"])
    for conversation in at_the_end.encode(item).conversations:
        assert conversation.gating_index == len(conversation.prefix_ids) - 1
        assert conversation.prefix_ids == tokenizer.encode(item).conversations[0].prefix_ids


@exhaustive
@given(item=items_without_system)
@pytest.mark.parametrize("gating_token", ["end_of_turn", "last_prompt_token"])
def test_a_conversation_does_not_depend_on_its_neighbours(folder_of: FolderOf, gating_token: str, item: Item) -> None:
    tokenizer = load_once(folder_of("chatml"), "chatml", gating_token=gating_token)
    for conversation, response in zip(tokenizer.encode(item).conversations, item.responses, strict=True):
        (alone,) = tokenizer.encode(replace(item, responses=(response,))).conversations
        assert whole(conversation) == whole(alone)
        assert conversation.gating_index == alone.gating_index


def test_a_response_that_spells_what_opens_a_generated_one_moves_nothing(folder_of: FolderOf) -> None:
    """DeepSeek's prompt for generation ends in `<think>`; where a response follows, that is the response's own."""
    tokenizer = load(folder_of("deepseek"), "deepseek")
    plain, thinking = tokenizer.encode(item_of(["Hi"], ["Sure", "<think>\nSure"])).conversations
    assert plain.prefix_ids == thinking.prefix_ids
    assert plain.gating_index == thinking.gating_index


ODD = {
    "the prompt is rewritten": (
        "{% if 'rewrite' in messages[-1].content %}!{% endif %}" + FAMILIES["chatml"].template,
        item_of(["Hi"], ["rewrite"]),
        "renders this prompt anew",
    ),
    "nothing is left of the prompt": (
        "{% for m in messages %}{{ m.content }}\n{% endfor %}",
        item_of([""], ["\nSure"]),
        "merges into a response",
    ),
    "an empty response leaves no trace": (
        "{% for m in messages %}{% if m.role == 'user' %}\nQ: {{ m.content }}\nA: {% else %}{{ m.content }}"
        "{% endif %}{% endfor %}",
        item_of(["Hi"], [""]),
        "rendered as no token",
    ),
}


@pytest.mark.parametrize("why", ODD)
def test_what_an_odd_template_makes_unscorable_is_refused(why: str, tmp_path: Path) -> None:
    template, item, message = ODD[why]
    gating_token = "end_of_turn" if "<|im_end|>" in template else "last_prompt_token"
    tokenizer = load(write_family(tmp_path, "chatml", template=template), "chatml", gating_token=gating_token)
    assert tokenizer.encode(item_of(["Hi"], ["Sure"]))
    with pytest.raises(InvalidConversation, match=message):
        tokenizer.encode(item)


def test_threads_may_share_a_tokenizer(folder_of: FolderOf) -> None:
    tokenizer = load(folder_of("llama3"), "llama3")
    items = [item_of([f"Question {n} <|eot_id|>" * (n % 3)], [f"Answer {n}", "<|eot_id|>" * n]) for n in range(40)]
    alone = [tokenizer.encode(item) for item in items]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(tokenizer.encode, items)) == alone
