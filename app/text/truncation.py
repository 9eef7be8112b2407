"""How a prompt is shortened from the left so that its longest response fits. Knows no template and no token id."""

from collections.abc import Callable
from dataclasses import replace

from app.domain import Item, Message
from app.errors import TooManyTokens


def shorten_prompt(item: Item, excess_tokens: Callable[[Item], int], drop_tokens: Callable[[str, int], str]) -> Item:
    """Drop as few leading user and assistant pairs as fit, then leading tokens of the one turn that is left.

    A system message always stays, and so do the responses.

    Args:
        item: the item that is too long.
        excess_tokens: by how many tokens the longest conversation of an item is over the limit.
        drop_tokens: a text without so many of its leading tokens; shorter by at least one character.

    Raises:
        TooManyTokens: the responses leave no room for the prompt.
    """
    num_turns = sum(message.role != "system" for message in item.prompt)
    fewest, most = 1, num_turns // 2
    while fewest < most:
        middle = (fewest + most) // 2
        if excess_tokens(_without_pairs(item, middle)) <= 0:
            most = middle
        else:
            fewest = middle + 1
    return _shorten_last_turn(_without_pairs(item, most), excess_tokens, drop_tokens)


def _shorten_last_turn(
    item: Item, excess_tokens: Callable[[Item], int], drop_tokens: Callable[[str, int], str]
) -> Item:
    """Drop leading tokens of the last turn until the item fits; a turn may lose its start, not its all."""
    while (excess := excess_tokens(item)) > 0:
        content = drop_tokens(item.prompt[-1].content, excess)
        if not content.strip():
            raise TooManyTokens("the longest response leaves no room for the prompt, however short it is cut")
        item = replace(item, prompt=(*item.prompt[:-1], Message("user", content)))
    return item


def _without_pairs(item: Item, num_pairs: int) -> Item:
    """Drop the first pairs of user and assistant turns."""
    first_turn = 1 if item.prompt[0].role == "system" else 0
    return replace(item, prompt=item.prompt[:first_turn] + item.prompt[first_turn + 2 * num_pairs :])
