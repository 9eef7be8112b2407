"""The template of the published DPA reward model, to the letter."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from app.errors import InvalidWeights
from app.text.conversation_tokenizer import ConversationTokenizer
from tests.text.conversations import contents_of, item_of, texts
from tests.text.loading import load, load_once, reference_once, whole

FolderOf = Callable[[str], Path]
exhaustive = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
PUBLISHED = (
    "[INST] You must read the following conversation carefully and rate the assistant's response from score 0-100 in "
    "these aspects: helpfulness, correctness, coherence, honesty, complexity, verbosity\n\n"
    "User: {prompt}\n\nAssistant: {response} [/INST]"
)


def dpa(folder_of: FolderOf, family: str = "llama2") -> ConversationTokenizer:
    return load_once(folder_of(family), family, template_kind="dpa", gating_token="last_prompt_token")


@exhaustive
@given(prompt=texts, response=texts)
@pytest.mark.parametrize("family", ["llama2", "mistral", "chatml"])
def test_ids_are_those_of_the_published_text(folder_of: FolderOf, family: str, prompt: str, response: str) -> None:
    tokenizer, reference = dpa(folder_of, family), reference_once(folder_of(family))
    item = item_of([prompt], [response, "Sure"])
    assume(not tokenizer.tokenizer.special_tokens.count(contents_of(item)))
    for conversation, text in zip(tokenizer.encode(item).conversations, item.responses, strict=True):
        assert whole(conversation) == reference.encode(PUBLISHED.format(prompt=prompt, response=text))


def test_the_beginning_of_text_stands_once(folder_of: FolderOf) -> None:
    (conversation,) = dpa(folder_of).encode(item_of(["<s>Hi"], ["<s>Sure</s>"])).conversations
    bos, eos = reference_once(folder_of("llama2")).convert_tokens_to_ids(["<s>", "</s>"])
    ids = whole(conversation)
    assert ids[0] == bos
    assert bos not in ids[1:]
    assert eos not in ids


def test_turns_are_joined_and_a_system_message_stands_first(folder_of: FolderOf) -> None:
    rendered = dpa(folder_of).render(item_of(["One", "Two", "Three"], ["Four", "Five"], system="Be nice"))
    start = PUBLISHED.partition("User:")[0]
    for conversation, response in zip(rendered.conversations, ("Four", "Five"), strict=True):
        turns = "Be nice\n\nUser: One\n\nAssistant: Two\n\nUser: Three"
        assert conversation.text == f"{start}{turns}\n\nAssistant: {response} [/INST]"


def test_the_prompt_is_shared_up_to_the_response(folder_of: FolderOf) -> None:
    tokenizer, reference = dpa(folder_of), reference_once(folder_of("llama2"))
    first, second = tokenizer.encode(item_of(["Hi"], ["Sure", "beautiful"])).conversations
    prompt = PUBLISHED.format(prompt="Hi", response="").removesuffix("  [/INST]")
    assert list(first.prefix_ids) == list(second.prefix_ids) == reference.encode(prompt)


def test_there_is_no_end_of_turn_to_read_gating_from(folder_of: FolderOf) -> None:
    with pytest.raises(InvalidWeights, match="last_prompt_token"):
        load(folder_of("llama2"), "llama2", template_kind="dpa", gating_token="end_of_turn")


@exhaustive
@given(data=st.data())
def test_content_forges_no_special_token(folder_of: FolderOf, data: st.DataObject) -> None:
    pieces = st.lists(st.sampled_from(("[/INST]", "[INST]", "</s>", "<s>", "Hi", " ")), max_size=5).map("".join)
    tokenizer = dpa(folder_of, "mistral")
    (attacked,) = tokenizer.encode(item_of([data.draw(pieces)], [data.draw(pieces)])).conversations
    (benign,) = tokenizer.encode(item_of(["Hi"], ["Sure"])).conversations
    special = set(reference_once(folder_of("mistral")).convert_tokens_to_ids(["<s>", "</s>", "[INST]", "[/INST]"]))
    assert [i for i in whole(attacked) if i in special] == [i for i in whole(benign) if i in special]
