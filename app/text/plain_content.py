"""A tokenizer to which special-token strings in content are plain text.

Where content holds no such string its ids are those of the original tokenizer. Nothing here knows what a
template or a conversation is.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tokenizers import Tokenizer

from app.errors import InvalidWeights
from app.text.special_tokens import ContentMask, SpecialTokens


class PlainContentTokenizer:
    """Tokenises masked renderings. Immutable after construction, so threads may share it.

    Raises:
        InvalidWeights: the tokenizer cannot be rebuilt with private names for its special tokens.
    """

    def __init__(self, original: Tokenizer, special_tokens: SpecialTokens) -> None:
        self.special_tokens = special_tokens
        self._tokenizer = _privately_named(original, special_tokens)
        names = set(special_tokens.strings)
        self.largest_content_id = max(id_ for string, id_ in original.get_vocab().items() if string not in names)
        """The largest id that any content can become."""

    def token_ids(self, masked_texts: Sequence[str], mask: ContentMask) -> list[list[int]]:
        """Return the ids of each masked rendering; nothing is added to them."""
        texts = [mask.unmask(self.special_tokens.privatise(text)) for text in masked_texts]
        return [encoding.ids for encoding in self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)]

    def drop_tokens(self, content: str, num_tokens: int) -> str:
        """Return the content without its first tokens; whole characters go, at least one of them."""
        offsets = self._tokenizer.encode(content, add_special_tokens=False).offsets
        if num_tokens >= len(offsets):
            return ""
        return content[max(1, offsets[num_tokens - 1][1]) :]


def _privately_named(original: Tokenizer, special_tokens: SpecialTokens) -> Tokenizer:
    """Return a copy that knows the special tokens by their private names only, and adds and cuts nothing."""
    names = {string: special_tokens.private_name(string) for string in special_tokens.strings}
    try:
        spec = json.loads(original.to_str())
        for token in spec["added_tokens"]:
            token["content"] = names.get(token["content"], token["content"])
        _rename_in_model(spec["model"], names)
        spec |= {"truncation": None, "padding": None, "post_processor": None}
        copy: Tokenizer = Tokenizer.from_str(json.dumps(spec))
    except Exception as error:  # the library raises nothing narrower
        raise InvalidWeights("the tokenizer cannot be rebuilt with private names for its special tokens") from error
    if any(copy.token_to_id(names[string]) != original.token_to_id(string) for string in names):
        raise InvalidWeights("the special tokens of this tokenizer change their ids when it is read again")
    return copy


def _rename_in_model(model: dict[str, Any], names: Mapping[str, str]) -> None:
    """Rename the special tokens in the model's own vocabulary (a dict, or [piece, score] pairs), where present."""
    vocabulary = model.get("vocab")
    if isinstance(vocabulary, dict):
        model["vocab"] = {names.get(piece, piece): token_id for piece, token_id in vocabulary.items()}
    elif isinstance(vocabulary, list):
        model["vocab"] = [[names.get(piece, piece), score] for piece, score in vocabulary]
    if "unk_token" in model:
        model["unk_token"] = names.get(model["unk_token"], model["unk_token"])
