"""JSON as RFC 8259 has it, read strictly; and how a place in it is written. It knows no schema and no request.

Stricter than JSON readers commonly are, because what they let pass ends in wrong rewards: NaN and infinity (also as
1e999), names given twice, integers beyond 64 bits and lone surrogates are refused. Messages never show the text.
"""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from app.domain import is_unicode
from app.errors import MalformedBody
from app.preferences import NAME_NOT_SHOWN, is_showable, shortened, shown

SMALLEST_INTEGER, LARGEST_INTEGER = -(2**63), 2**63 - 1
LONGEST_NUMBER = 400
"""Digits; the longest number that a float64 needs has fewer."""
LONGEST_PART_SHOWN = 64
"""Longer than any name of a field or an objective."""
BODY = "body"
"""The place that is no field: the whole."""


def parse_json(body: bytes, whole: str = BODY) -> Any:
    """Parse JSON as RFC 8259 has it, and refuse what cannot mean a value; a byte order mark is passed over.

    `whole` is what messages call all of it.

    Raises:
        MalformedBody: says what is wrong and, where known, at which field or character.
    """
    numbers = _Numbers()
    try:
        content = json.loads(
            body.decode("utf-8-sig"),
            object_pairs_hook=_unique_names,
            parse_constant=numbers.constant,
            parse_float=numbers.fraction,
            parse_int=numbers.integer,
        )
        if numbers.refused:
            _refuse_number(numbers.refused[0], content)
    except UnicodeDecodeError:
        raise MalformedBody(
            f"the {whole} is not valid UTF-8; content encodings such as gzip are not supported"
        ) from None
    except json.JSONDecodeError as error:
        raise MalformedBody(f"the {whole} is not JSON: {error.msg} at character {error.pos}") from None
    except RecursionError:
        raise MalformedBody(f"the {whole} is nested too deeply") from None
    return content


def field_path(location: Iterable[int | str], longest: int = LONGEST_PART_SHOWN) -> str:
    """Return a place in a body as people write it: `items[3].messages[0].role`."""
    path = ""
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        elif not part.startswith("("):  # the tag of a union's variant, which says nothing to a caller
            path += f".{shortened(part, longest) if is_showable(part) else f'a field {NAME_NOT_SHOWN}'}"
    return path.removeprefix(".") or BODY


@dataclass(eq=False, frozen=True, slots=True)
class _Refused:
    """Stands where a number cannot be one, until its field is known."""

    words: str


@dataclass(frozen=True, slots=True)
class _Numbers:
    """Reads numbers; what cannot be represented is remembered."""

    refused: list[_Refused] = field(default_factory=list)

    def constant(self, name: str) -> _Refused:
        return self._refuse(f"{name} is not a JSON number")

    def fraction(self, digits: str) -> float | _Refused:
        number = float(digits) if len(digits) <= LONGEST_NUMBER else math.inf
        return number if math.isfinite(number) else self._refuse("a number is too large or too long to be represented")

    def integer(self, digits: str) -> int | _Refused:
        number = int(digits) if len(digits) <= LONGEST_NUMBER else LARGEST_INTEGER + 1
        fits = SMALLEST_INTEGER <= number <= LARGEST_INTEGER
        return number if fits else self._refuse("an integer has more than 64 bits")

    def _refuse(self, words: str) -> _Refused:
        self.refused.append(_Refused(words))
        return self.refused[-1]


def _refuse_number(refused: _Refused, content: Any) -> None:
    place = field_path(_location_of(refused, content) or ())
    raise MalformedBody(f"{place}: {refused.words}", ((place, refused.words),))


def _location_of(wanted: object, part: Any) -> tuple[int | str, ...] | None:
    """Return where in a parsed document an object stands; None where it does not."""
    if part is wanted:
        return ()
    members = part.items() if isinstance(part, dict) else enumerate(part) if isinstance(part, list) else ()
    for name, member in members:
        location = _location_of(wanted, member)
        if location is not None:
            return (name, *location)
    return None


def _unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for position, name in enumerate(names) if name in names[:position])
        raise MalformedBody(f"a field {shown(twice)} is given twice in one object")
    if not all(map(is_unicode, members)):
        raise MalformedBody("a name holds a lone surrogate, which is no character")
    return members
