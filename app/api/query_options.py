"""Options that stand in a URL, in words: one of some words, or `name:weight,name:weight`. It knows no route's options.

A typo that is passed over would give another reward, so each fault is named: which option, and what is allowed.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Final, NoReturn

from app.api.schemas import LARGEST_WEIGHT
from app.errors import MalformedBody
from app.preferences import shown

NUMBER: Final = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)(e[+-]?[0-9]+)?", re.IGNORECASE)
LONGEST_NUMBER: Final = 64


def one_of(option: str, value: str, allowed: Sequence[str]) -> str:
    """Return a value that is among those allowed.

    Raises:
        MalformedBody: it is not.
    """
    if value not in allowed:
        refuse(option, f"allowed {'is' if len(allowed) == 1 else 'are'} {', '.join(allowed)}")
    return value


def weights_of(option: str, value: str) -> Mapping[str, float]:
    """Read `name:weight,name:weight`; a name may itself hold a colon.

    Raises:
        MalformedBody: it is something else, or names something twice.
    """
    pairs = pairs_of(option, value, "name:weight,name:weight")
    return {name: _weight(option, written) for name, written in pairs.items()}


def pairs_of(option: str, value: str, allowed: str) -> dict[str, str]:
    """Split `name:value,name:value`; `allowed` says in an error what was.

    Raises:
        MalformedBody: it is something else, or names something twice.
    """
    pairs: dict[str, str] = {}
    for part in value.split(","):
        name, colon, written = (word.strip() for word in part.rpartition(":"))
        if not (name and colon and written):
            refuse(option, f"allowed are {allowed}")
        if name in pairs:
            refuse(option, f"names {shown(name)} twice")
        pairs[name] = written
    return pairs


def refuse(option: str, words: str) -> NoReturn:
    raise MalformedBody(f"query option {option}: {words}", ((f"?{option}", words),))


def _weight(option: str, written: str) -> float:
    is_number = len(written) <= LONGEST_NUMBER and NUMBER.fullmatch(written) is not None
    weight = float(written) if is_number else math.nan
    if not abs(weight) <= LARGEST_WEIGHT:
        refuse(option, f"a weight is a number of at most {LARGEST_WEIGHT:g}")
    return weight
