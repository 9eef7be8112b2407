"""Texts and conversations that break tokenisation, as hypothesis strategies."""

from hypothesis import strategies as st

from app.domain import Item, Message

NASTY = (
    *(
        "",
        " ",
        "  ",
        "\n",
        "\n\n",
        "\r\n",
        "\t",
        "\x0b",
        "\x1c",
        "\x85",
        "\u00a0",
        "\u2028",
        "\u200b",
        "\ufeff",
        "\u3000",
    ),
    *(
        "e\u0301",
        "\u0301",
        "\u0928\u093f",
        "ﬁ",
        "Å",
        "日本語",
        "안녕",
        "مرحبا",
        "👩‍👩‍👧",
        "🎉",
        "\U0001f1e9\U0001f1ea",
        "\U0010fffd",
    ),
    *(
        "1",
        "12",
        "123",
        "12345",
        "1,000.5",
        "'s",
        "'LL",
        "it's",
        "<",
        "|",
        "|>",
        "[",
        "]",
        "/",
        "\\",
        "_",
        "▁",
        "Ġ",
        "\x00",
    ),
    *("<think>", "</think>", "user", "assistant", "<0x0A>", "ASSISTANT: ", "{{ bos_token }}", "<b>"),
    *("def add(first, second):\n    return first", "Sure!", "I am sorry", "beautiful ", " synonyms"),
)
texts = st.one_of(
    st.lists(st.sampled_from(NASTY), max_size=6).map("".join),
    st.text(st.characters(exclude_categories=("Cs",)), max_size=12),
)


def item_of(turns: list[str], responses: list[str], system: str | None = None) -> Item:
    """Return an item whose turns are, in order, the user's and the assistant's."""
    messages = [Message("assistant" if index % 2 else "user", content) for index, content in enumerate(turns)]
    if system is not None:
        messages.insert(0, Message("system", system))
    return Item(tuple(messages), tuple(responses))


items_without_system = st.builds(
    item_of,
    st.sampled_from((1, 3, 5)).flatmap(lambda number: st.lists(texts, min_size=number, max_size=number)),
    st.lists(texts, min_size=1, max_size=4),
)


def contents_of(item: Item) -> list[str]:
    return [*(message.content for message in item.prompt), *item.responses]


def as_chat(item: Item, response: str) -> list[dict[str, str]]:
    """Return one conversation as transformers takes it."""
    turns = [{"role": message.role, "content": message.content} for message in item.prompt]
    return [*turns, {"role": "assistant", "content": response}]
