"""The one thread that runs forward passes, and how long it has owed an answer. Knows no queue and no event loop."""

import time
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Generic, TypeAlias, TypeVar

from app.errors import DeviceOutOfMemory

Work = TypeVar("Work")
Result = TypeVar("Result")
Call: TypeAlias = Callable[[], None]


class EngineDied(Exception):
    """The engine thread has ended; what it had not answered it never will."""


@dataclass(frozen=True, slots=True)
class Computed(Generic[Result]):
    """What a forward pass gave, when it began (monotonic seconds) and how long it took."""

    output: Result
    began_at: float
    seconds: float


class EngineThread(Generic[Work, Result]):
    """Run forward passes one after the other; one may be handed over while another runs."""

    def __init__(self, forward: Callable[[Work], Result], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._forward = forward
        self._clock = clock
        self._calls: SimpleQueue[Call | None] = SimpleQueue()
        self._futures: set[Future[Computed[Result]]] = set()
        self._lock = Lock()
        self._num_owed = 0
        self._owes_since = 0.0
        self._has_ended = False
        # A daemon: a forward pass that hangs must not keep the process from ending.
        self._thread = Thread(target=self._serve, name="armoserve-engine", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread after the calls it has; does not wait for that."""
        self._calls.put(None)

    def submit(self, work: Work) -> Future[Computed[Result]]:
        """Hand the work of one pass over.

        Raises:
            EngineDied: the thread has ended. The future carries it where that happens later.
        """
        future: Future[Computed[Result]] = Future()
        with self._lock:
            if self._has_ended:
                raise EngineDied("the engine thread has ended")
            self._futures.add(future)
            self._hand_over(partial(self._compute, work, future))
        return future

    def has_answered_within(self, seconds: float) -> bool:
        """Say whether the thread answers: it has owed nothing for longer than `seconds`, be it a pack or a ping."""
        with self._lock:
            if self._has_ended:
                return False
            if self._num_owed == 0:
                self._hand_over(self._answered)  # a ping: that the thread comes to it is the answer
            return self._clock() - self._owes_since <= seconds

    def _hand_over(self, call: Call) -> None:
        if self._num_owed == 0:
            self._owes_since = self._clock()
        self._num_owed += 1
        self._calls.put(call)

    def _serve(self) -> None:
        try:
            while (call := self._calls.get()) is not None:
                call()
                call = None  # which holds a pack and its answer, until the next one comes
        except BaseException as error:  # not the thread's own loop: a call that means to end it, as SystemExit does
            self._end(error)
        else:
            self._end(None)

    def _compute(self, work: Work, future: Future[Computed[Result]]) -> None:
        if not future.set_running_or_notify_cancel():
            self._answered(future)
            return
        began_at = self._clock()
        try:
            computed = Computed(self._forward(work), began_at, self._clock() - began_at)
        except DeviceOutOfMemory as error:
            # A fresh one: the frames behind the caught one hold the tensors that must go before another attempt.
            outcome: Computed[Result] | Exception = DeviceOutOfMemory(str(error))
        except Exception as error:  # whatever it is, it is the caller's answer
            outcome = error
        else:
            outcome = computed
        self._answered(future)
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)

    def _answered(self, *futures: Future[Computed[Result]]) -> None:
        with self._lock:
            self._futures.difference_update(futures)
            self._num_owed -= 1
            self._owes_since = self._clock()

    def _end(self, cause: BaseException | None) -> None:
        with self._lock:
            self._has_ended = True
            unanswered = tuple(self._futures)
            self._futures.clear()
        for future in unanswered:
            death = EngineDied("the engine thread has ended")
            death.__cause__ = cause
            with suppress(InvalidStateError):  # whoever waited for it has left
                future.set_exception(death)
