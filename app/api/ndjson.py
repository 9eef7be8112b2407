"""Items line by line: NDJSON in, NDJSON out, in order, a bounded number in flight. Knows no file and no socket.

One line in gives one line out, with its number and the caller's id; a bad line gives an error line.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Iterable
from dataclasses import dataclass

import orjson

from app.api.json_body import parse
from app.api.problems import problem_of
from app.api.schemas import ItemBody
from app.api.state import ServedModel
from app.api.views import score_result
from app.domain import Truncation
from app.errors import ArmoserveError, Overloaded, PreferenceRequired

IN_FLIGHT = 64
"""Enough items to fill packs while others are tokenised, few enough for any memory."""

Numbered = tuple[int, bytes]


class LineBody(ItemBody):
    """One line: an item, and what its caller calls it."""

    id: str | int | None = None


@dataclass(frozen=True, slots=True)
class LineResult:
    """One line of output."""

    content: bytes
    is_error: bool


@dataclass(frozen=True, slots=True)
class LineScoring:
    """Scores lines with one model."""

    model: ServedModel
    truncation: Truncation = "never"
    in_flight: int = IN_FLIGHT

    async def results(self, lines: Iterable[Numbered]) -> AsyncGenerator[LineResult]:
        """Yield one line of output per line of input, in order; lines are read as there is room for them.

        Raises:
            PreferenceRequired: no line can be scored: the weights need a preference.
        """
        info = self.model.info
        if not info.has_scalar and self.model.default_direction is None:
            raise PreferenceRequired(
                f"{info.name} has several objectives and no gating: "
                "give --default-preference name:weight,name:weight over " + ", ".join(info.objective_names)
            )
        waiting: deque[asyncio.Task[LineResult]] = deque()
        try:
            for number, line in lines:
                waiting.append(asyncio.create_task(self._result(number, line)))
                if len(waiting) == self.in_flight:
                    yield await waiting.popleft()
            while waiting:
                yield await waiting.popleft()
        finally:
            for task in waiting:
                task.cancel()

    async def _result(self, number: int, line: bytes) -> LineResult:
        names: dict[str, object] = {"line": number}
        try:
            body = parse(line, LineBody, max_items=0)
            names |= {} if body.id is None else {"id": body.id}
            return LineResult(orjson.dumps(names | await self._score(body)), is_error=False)
        except ArmoserveError as error:
            fault = {"type": problem_of(error).type, "message": str(error)}
            return LineResult(orjson.dumps(names | {"error": fault}), is_error=True)

    async def _score(self, body: LineBody) -> dict[str, object]:
        item = body.to_item()
        while True:
            try:
                scored = await self.model.service.score([item], truncation=self.truncation, priority="bulk")
            except Overloaded as overload:
                await asyncio.sleep(overload.retry_after_seconds)
            else:
                break
        (outcome,) = scored.results
        if isinstance(outcome, ArmoserveError):
            raise outcome
        return dict(score_result(outcome, self.model.default_direction, ()))
