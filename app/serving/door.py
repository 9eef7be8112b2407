"""Who is inside: lets requests in until it is closed, and tells when the last one has left. Knows no jobs."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

from app.errors import ArmoserveError

Refusal: TypeAlias = Callable[[], ArmoserveError]
"""Makes a fresh error for each caller that is turned away."""


class Door:
    """Counts those inside; once closed it stays closed, for the first reason given."""

    def __init__(self) -> None:
        self._refusal: Refusal | None = None
        self._num_inside = 0
        self._is_empty = asyncio.Event()
        self._is_empty.set()

    @contextmanager
    def entrance(self) -> Iterator[None]:
        """Be inside for a while.

        Raises:
            Draining, NotReady: the door is closed.
        """
        if self._refusal is not None:
            raise self._refusal()
        self._num_inside += 1
        self._is_empty.clear()
        try:
            yield
        finally:
            self._num_inside -= 1
            if self._num_inside == 0:
                self._is_empty.set()

    def close(self, refusal: Refusal) -> None:
        """Let nobody in any more; those inside go on."""
        self._refusal = self._refusal or refusal

    async def join(self) -> None:
        """Return once nobody is inside."""
        await self._is_empty.wait()
