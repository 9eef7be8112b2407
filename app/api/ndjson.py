"""One line of NDJSON in, one line out: an item, what its caller calls it, and its scores or what is wrong with it.

`POST /score/stream` and `python -m app score` both go through here. Knows no file, no socket and no order.
"""

import asyncio
import logging
import math
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import orjson
from pydantic import Field

from app.api.json_body import PARSE_IN_THREAD_BYTES, fit
from app.api.lines import Line, LineAnswer
from app.api.problems import UNFORESEEN, problem_of
from app.api.schemas import ItemBody, Text
from app.api.state import ServedModel
from app.api.strict_json import parse_json
from app.api.views import score_result
from app.domain import Item, Truncation, is_unicode
from app.errors import ArmoserveError, BodyTooLarge, MalformedBody
from app.preferences import PreferenceDirection
from app.serving.jobs import Priority

log = logging.getLogger(__name__)

LONGEST_ID = 512
"""Characters."""
LineId = str | int


class LineBody(ItemBody):
    """One line: an item, and what its caller calls it."""

    id: Annotated[Text, Field(max_length=LONGEST_ID)] | int | None = None
    """Comes back with the answer; a line without one is called by its number."""


@dataclass(frozen=True, slots=True)
class ParsedLine:
    """What a line holds: its id, also where the rest is at fault, and its item."""

    id: LineId | None
    item: Item | ArmoserveError


@dataclass(frozen=True, slots=True)
class LineScoring:
    """Scores lines with one model; `timeout_seconds` is each line's own, from when it was read."""

    model: ServedModel
    max_line_bytes: int
    truncation: Truncation = "never"
    priority: Priority = "bulk"
    scalar: PreferenceDirection | None = None
    directions: Sequence[PreferenceDirection] = ()
    timeout_seconds: float | None = None

    async def answer(self, line: Line) -> LineAnswer:
        """Return the line's one answer, with its number and its id. Nothing that a line holds is raised."""
        deadline = None if self.timeout_seconds is None else time.monotonic() + self.timeout_seconds
        names: dict[str, object] = {"line": line.number, "id": line.number}
        try:
            parsed = await self._parse(line)
            names["id"] = line.number if parsed.id is None else parsed.id
            if isinstance(parsed.item, ArmoserveError):
                return _error_answer(names, parsed.item)
            return LineAnswer(orjson.dumps({**names, **await self._score(parsed.item, deadline)}), is_error=False)
        except Exception as error:  # of this line alone: the others go on
            return _error_answer(names, error)

    async def _parse(self, line: Line) -> ParsedLine:
        if line.content is None:
            return ParsedLine(None, BodyTooLarge(f"the line is larger than {self.max_line_bytes} bytes"))
        if len(line.content) > PARSE_IN_THREAD_BYTES:
            return await asyncio.to_thread(parse_line, line.content)
        return parse_line(line.content)

    async def _score(self, item: Item, deadline: float | None) -> Mapping[str, Any]:
        """Score one item, however long the queue is too full for it."""
        scored = await self.model.service.score(
            [item], truncation=self.truncation, priority=self.priority, deadline=deadline, waits_until=math.inf
        )
        (outcome,) = scored.results
        if isinstance(outcome, ArmoserveError):
            raise outcome
        return score_result(outcome, self.scalar, self.directions)


def parse_line(content: bytes) -> ParsedLine:
    """Parse one line strictly."""
    given_id = None
    try:
        parsed = parse_json(content, "line")
        if not isinstance(parsed, dict):
            raise MalformedBody("the line must be a JSON object")
        given_id = _sound_id(parsed.get("id"))
        return ParsedLine(given_id, fit(parsed, LineBody).to_item())
    except ArmoserveError as error:
        return ParsedLine(given_id, error)


def _sound_id(given: object) -> LineId | None:
    if isinstance(given, str):
        return given if len(given) <= LONGEST_ID and is_unicode(given) else None
    return given if type(given) is int else None


def _error_answer(names: Mapping[str, object], error: Exception) -> LineAnswer:
    problem = problem_of(error)
    message = str(error)
    if problem is UNFORESEEN:
        # Its message may hold a caller's text, so only the kind and the place are logged.
        log.error("a line failed: %s\n%s", type(error).__name__, "".join(traceback.format_tb(error.__traceback__)))
        message = "the cause is in the log under this request's id"
    fault = {"type": problem.type, "message": message}
    return LineAnswer(orjson.dumps({**names, "error": fault}), is_error=True)
