"""The way through every trainer route: a body's conversations are rewarded, and its wire format makes the answer."""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Protocol

from fastapi import Depends, Request, Response

from app.api.dependencies import Deadline, Server, built, given_to, json_response, unless_gone
from app.api.request_context import request_id_of
from app.api.state import ServedModel
from app.api.trainers.conversations import Conversation, rewards_for
from app.api.trainers.options import Options
from app.api.trainers.rewards import Rewarded
from app.errors import MalformedBody

WARNINGS_HEADER = "X-Template-Warnings"


@dataclass(frozen=True, slots=True)
class Stamp:
    """What wire formats say of an answer beside its values."""

    request_id: str
    created: int
    """Seconds since 1970."""
    model: str
    """The name of the weights that answer, whatever model the request names."""


class TrainerBody(Protocol):
    """A request in a wire format, and how that answers."""

    def conversations(self, template: str | None, /) -> Sequence[Conversation]:
        """Return what is to be rewarded; `template` is what the URL says the texts are in."""

    def answer(self, rewarded: Sequence[Rewarded], stamp: Stamp, /) -> object:
        """Return the answer, ready to be written as JSON."""


@dataclass(frozen=True, slots=True)
class TrainerCall:
    """One request to a trainer route: who asks for what, how long for, and what serves it."""

    request: Request
    server: Server
    options: Options
    deadline: Deadline
    arrived_at: float = field(init=False, default_factory=time.monotonic)
    """Monotonic seconds, before the body is read."""

    async def answer(self, body: TrainerBody) -> Response:
        """Reward what the body holds, and answer as its format does.

        Raises:
            ArmoserveError: what is wrong with the options, with the body, or with the service.
        """
        conversations = body.conversations(self.options.template)
        self._check_number(conversations)
        model = await self._model()
        limits = (self.deadline, self._waits_until)
        rewarded = await rewards_for(self.request, model, self.options, conversations, *limits)
        stamp = Stamp(request_id_of(self.request.scope), int(time.time()), model.info.name)
        return await built(partial(_response, body, rewarded, stamp), len(rewarded))

    @property
    def _waits_until(self) -> float:
        """When patience for the weights and for room in the queue ends together: trainers count from when they ask."""
        return self.arrived_at + self.server.limits.max_wait_seconds

    async def _model(self) -> ServedModel:
        """Return the model; trainers try a few times within seconds and then lose a step, and loading takes longer."""
        if self.server.model is not None:
            return given_to(self.server.model)
        return given_to(await unless_gone(self.request, self.server.awaited_model(self.deadline, self._waits_until)))

    def _check_number(self, conversations: Sequence[Conversation]) -> None:
        most = self.server.limits.max_items
        if len(conversations) > most:
            field = conversations[0].place.partition("[")[0]
            words = f"holds {len(conversations)} texts; at most {most} are allowed in one request"
            raise MalformedBody(f"{field} {words}", ((field, words),))


def _response(body: TrainerBody, rewarded: Sequence[Rewarded], stamp: Stamp) -> Response:
    response = json_response(body.answer(rewarded, stamp))
    if oddities := Counter(oddity for one in rewarded for oddity in one.oddities):
        response.headers[WARNINGS_HEADER] = ", ".join(f"{name}={number}" for name, number in oddities.items())
    return response


Call = Annotated[TrainerCall, Depends(TrainerCall)]
