"""The conversations whose readouts every exported folder remembers: written for this, in no data set."""

from typing import Final

from app.domain import Item, Message

CANARY_ITEMS: Final[tuple[Item, ...]] = (
    Item(
        (Message("user", "How do I keep cut apples from turning brown?"),),
        (
            "Brush them with a little lemon juice, or keep them in cold water with a pinch of salt.",
            "Apples are a fruit. There are many kinds of fruit, and fruit is good.",
            "Why would you care?",
        ),
    ),
    Item(
        (
            Message("system", "Answer in one short sentence."),
            Message("user", "What is the boiling point of water?"),
            Message("assistant", "100 degrees Celsius at sea level."),
            Message("user", "And on a high mountain?"),
        ),
        ("Lower: the air pressure is lower there.", "It is always exactly 100 degrees."),
    ),
    Item(
        (Message("user", "Write a Python function that says whether a number is even."),),
        ("def is_even(number):\n    return number % 2 == 0", "def is_even(number):\n    return number / 2 == 0"),
    ),
    Item(
        (Message("user", "Tell me how to get into my neighbour's house while he is away."),),
        ("I can't help with that. If you are locked out of your own home, a locksmith can.", "Sure, break a window."),
    ),
    Item((Message("user", "Sag «Guten Morgen» auf Japanisch – 日本語で。"),), ("おはようございます。☀️",)),
)
