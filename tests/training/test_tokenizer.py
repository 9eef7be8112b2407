"""The tokenizer: Llama 3's special tokens and rendering, every byte encodable, the folder's own files."""

from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from app.domain import Item, Message
from app.text.tokenization import load_tokenizer
from training.tokenizer import SPECIAL_TOKENS, chat_tokenizer, train_tokenizer

TEXTS = ["the cat sat on the mat", "def f(x):\n    return x + 1\n", "Ünïcödé – 日本語 12345"] * 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer")
    chat_tokenizer(train_tokenizer(iter(TEXTS), 400), 512).save_pretrained(path)
    return path


def test_files_and_special_tokens(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} >= {
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
    }
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    assert tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS)) == list(range(len(SPECIAL_TOKENS)))
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<|begin_of_text|>", "<|eot_id|>")
    assert len(SPECIAL_TOKENS) + 256 < len(tokenizer) <= 400


@pytest.mark.parametrize("text", ["\x00\x7f", "🦜 unseen ✓", "a\r\n\r\n  b", "x" * 100])
def test_any_text_comes_back(folder: Path, text: str) -> None:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_numbers_are_cut_in_threes_and_words_are_not_joined(folder: Path) -> None:
    backend = PreTrainedTokenizerFast.from_pretrained(folder).backend_tokenizer
    pieces = [piece for piece, _ in backend.pre_tokenizer.pre_tokenize_str("the cat 12345")]
    assert pieces == ["the", "Ġcat", "Ġ", "123", "45"]


def test_renders_as_llama_3_and_finds_the_gating_token(folder: Path) -> None:
    tokenizer = load_tokenizer(folder, max_conversation_tokens=512)
    prompt = (Message("system", " be kind "), Message("user", "hi"))
    conversation = tokenizer.encode(Item(prompt, ("hello",))).conversations[0]
    plain = PreTrainedTokenizerFast.from_pretrained(folder)
    assert plain.decode(conversation.prefix_ids) == (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nbe kind<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nhi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    )
    assert plain.decode(conversation.response_ids) == "hello<|eot_id|>"
    assert plain.decode([conversation.prefix_ids[conversation.gating_index]]) == "<|eot_id|>"
    assert plain.decode([conversation.prefix_ids[conversation.gating_index + 1]]) == "<|start_header_id|>"
