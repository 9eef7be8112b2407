"""Loads the tokenizer and the template of a weights folder, and refuses what could not be scored safely."""

import hashlib
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from app.domain import GatingToken
from app.errors import InvalidWeights
from app.text.chat_template import ChatTemplate, Template
from app.text.conversation_tokenizer import (
    ConversationTokenizer,
    RenderedConversation,
    RenderedItem,
    SpecialTokenPolicy,
)
from app.text.dpa_template import DpaTemplate
from app.text.plain_content import PlainContentTokenizer
from app.text.special_tokens import special_tokens_of
from app.text.template_probe import check_no_content_completes_a_token, closing_token, probe_template

__all__ = ["ConversationTokenizer", "RenderedConversation", "RenderedItem", "load_tokenizer"]

DIGEST_CHARACTERS = 12
LONGEST_REASON = 200


def load_tokenizer(
    folder: Path,
    *,
    template_kind: str = "chat",
    frozen_date: str | None = None,
    gating_token: GatingToken = "end_of_turn",  # noqa: S107 (no secret)
    special_tokens: SpecialTokenPolicy = "neutralise",
    max_conversation_tokens: int,
) -> ConversationTokenizer:
    """Load what turns items into the token ids that a folder's weights were trained on.

    Args:
        folder: holds tokenizer.json, its configuration and, for `chat`, a chat template.
        template_kind: `chat` (the folder's chat template) or `dpa` (methods.md §3).
        frozen_date: YYYY-MM-DD, what a template that prints today's date gets.
        gating_token: the prompt token at which f(x) is read; weights without gating take `last_prompt_token`.
        special_tokens: whether special-token strings in content become plain text or an error.
        max_conversation_tokens: the longest conversation taken, prompt and response.

    Raises:
        InvalidWeights: there is no tokenizer or template, or it cannot be used safely.
    """
    loaded = _load_folder(folder)
    try:
        template = _template(loaded, template_kind, frozen_date)
        probe = probe_template(template)
        tokens = special_tokens_of(loaded.backend_tokenizer, probe.written_around_turns)
        check_no_content_completes_a_token(probe, tokens)
        closing = closing_token(probe, tokens) if gating_token == "end_of_turn" else None  # noqa: S105 (no secret)
    except InvalidWeights as error:
        raise InvalidWeights(f"{folder}: {error}") from error
    return ConversationTokenizer(
        template=template,
        tokenizer=PlainContentTokenizer(loaded.backend_tokenizer, tokens),
        closing_token=closing,
        unshared_ending=probe.unshared_ending,
        policy=special_tokens,
        max_conversation_tokens=max_conversation_tokens,
        template_digest=_digest(folder, template),
    )


def _load_folder(folder: Path) -> Any:
    """Load a folder's tokenizer without touching the network or running code that came with it."""
    if not (folder / "tokenizer.json").is_file():
        raise InvalidWeights(f"{folder} has no tokenizer.json")
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # damaged files surface as almost anything
        reason = " ".join(str(error).split())[:LONGEST_REASON]
        raise InvalidWeights(f"the tokenizer in {folder} cannot be read: {type(error).__name__}: {reason}") from error


def _template(loaded: Any, template_kind: str, frozen_date: str | None) -> Template:
    if template_kind == "dpa":
        return DpaTemplate(loaded.bos_token_id)
    if template_kind != "chat":
        raise InvalidWeights(f"the template kind is {template_kind!r}; it must be chat or dpa")
    if loaded.chat_template is None:
        raise InvalidWeights("the weights folder has no chat template")
    return ChatTemplate(loaded, frozen_date)


def _digest(folder: Path, template: Template) -> str:
    digest = hashlib.sha256(template.source.encode())
    digest.update((folder / "tokenizer.json").read_bytes())
    return digest.hexdigest()[:DIGEST_CHARACTERS]
