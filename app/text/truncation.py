"""How a prompt is shortened from the left so that its longest response fits. Knows no template and no token id."""

from collections.abc import Callable
from dataclasses import replace

from app.domain import Item, Message
from app.errors import TooManyTokens


def shorten_prompt(
    item: Item, limit_tokens: int, num_tokens: Callable[[Item], int], drop_tokens: Callable[[str, int], str]
) -> Item:
    """Drop as few leading user and assistant pairs as fit, then leading tokens of the one turn that is left.

    A system message always stays, and so do the responses.

    Args:
        item: the item that is too long.
        limit_tokens: how many tokens a conversation may have.
        num_tokens: of the longest conversation of an item.
        drop_tokens: a text without so many of its leading tokens; shorter by at least one character.

    Raises:
        TooManyTokens: the responses, or the system message with them, leave no room for the prompt.
    """
    num_turns = sum(message.role != "system" for message in item.prompt)
    fewest, most = 1, num_turns // 2
    while fewest < most:
        middle = (fewest + most) // 2
        if num_tokens(_without_pairs(item, middle)) <= limit_tokens:
            most = middle
        else:
            fewest = middle + 1
    return _shorten_last_turn(_without_pairs(item, most), limit_tokens, num_tokens, drop_tokens)


def _shorten_last_turn(
    item: Item, limit_tokens: int, num_tokens: Callable[[Item], int], drop_tokens: Callable[[str, int], str]
) -> Item:
    """Drop leading tokens of the last turn until the item fits; a turn may lose its start, not its all."""
    while (excess := num_tokens(item) - limit_tokens) > 0:
        content = drop_tokens(item.prompt[-1].content, excess)
        if not content.strip():
            return _with_least_prompt(item, limit_tokens, num_tokens)
        item = _with_last_turn(item, content)
    return item


def _with_least_prompt(item: Item, limit_tokens: int, num_tokens: Callable[[Item], int]) -> Item:
    """Keep one character of the last turn; where even that is too much, say what takes the room."""
    least = _with_last_turn(item, item.prompt[-1].content.rstrip()[-1:])
    num_least = num_tokens(least)
    if num_least <= limit_tokens:
        return least
    culprit = "the longest response leaves"
    share = ""
    if len(least.prompt) > 1:
        culprit = "the system message and the longest response leave"
        share = f", {num_least - num_tokens(replace(least, prompt=least.prompt[1:]))} of them for the system message"
    raise TooManyTokens(
        f"{culprit} no room for the prompt, however short it is cut: "
        f"with one character of it there are {num_least} tokens{share}; the limit is {limit_tokens}"
    )


def _with_last_turn(item: Item, content: str) -> Item:
    return replace(item, prompt=(*item.prompt[:-1], Message("user", content)))


def _without_pairs(item: Item, num_pairs: int) -> Item:
    """Drop the first pairs of user and assistant turns."""
    first_turn = 1 if item.prompt[0].role == "system" else 0
    return replace(item, prompt=item.prompt[:first_turn] + item.prompt[first_turn + 2 * num_pairs :])
