"""Loading a family's tokenizer for a test, and reading what came out."""

from functools import cache
from pathlib import Path
from typing import Any

from app.domain import TokenizedConversation
from app.text.conversation_tokenizer import ConversationTokenizer
from app.text.tokenization import load_tokenizer
from tests.text.tokenizer_families import FAMILIES, reference_of


def load(folder: Path, name: str, **options: Any) -> ConversationTokenizer:
    gating_token = "end_of_turn" if FAMILIES[name].closing else "last_prompt_token"
    return load_tokenizer(folder, **{"gating_token": gating_token, "max_conversation_tokens": 100_000} | options)


load_once = cache(load)
"""For tests of many examples on a folder that nobody changes."""
reference_once = cache(reference_of)


def whole(conversation: TokenizedConversation) -> list[int]:
    return [*conversation.prefix_ids, *conversation.response_ids]
