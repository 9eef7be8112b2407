"""The loop between queue and engine: take what waits, compute it, settle exactly those jobs, go on.

There is no batching timer: a pack is whatever waits, up to the token budget, when the engine is free. All of it runs
on the event loop except the forward pass. It knows no route, no text and no tensor.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from itertools import compress, takewhile
from typing import NamedTuple, TypeAlias

import numpy as np

from app.domain import Readout
from app.errors import (
    DeviceOutOfMemory,
    DevicePoisoned,
    Draining,
    InferenceFailed,
    NonFiniteReadout,
    NotReady,
)
from app.pack_builder import PackBuilder, builder_of
from app.packing import Pack, PackOutput
from app.serving.door import Refusal
from app.serving.engine import Computed, EngineDied, EngineThread
from app.serving.jobs import Job, JobResult, Priority
from app.serving.metrics import FailureKind, Metrics
from app.serving.queue import JobQueue
from app.serving.record import PackRun, RequestRecord, TracePack

logger = logging.getLogger(__name__)

Forward: TypeAlias = Callable[[Pack], PackOutput]


class Answered(NamedTuple):
    """A pack that was computed, and what it says of each of its responses."""

    pack: Pack
    readouts: list[Readout]
    is_finite: list[bool]
    computed_tokens: list[int]

    @property
    def per_response(self) -> tuple[list[Readout], list[bool], list[int]]:
        return self.readouts, self.is_finite, self.computed_tokens


class Batcher:
    """Run one pack after the other; a failed pack fails its own jobs and nothing else."""

    def __init__(
        self,
        queue: JobQueue,
        forward: Forward,
        metrics: Metrics,
        *,
        watchdog_seconds: float,
        on_fatal: Callable[[], None],
        trace_pack: TracePack | None = None,
    ) -> None:
        """`on_fatal` is called on the event loop once the device is beyond repair and all jobs have been failed.

        It should end the process, a moment later so that the answers still go out.
        """
        self._queue = queue
        self._metrics = metrics
        self._watchdog_seconds = watchdog_seconds
        self._on_fatal = on_fatal
        self._trace_pack = trace_pack
        self._forward = forward
        self._engine = EngineThread(self._compute, clock=queue.clock)
        self._task: asyncio.Task[None] | None = None
        self._running: Sequence[Job] = ()
        self._num_packs = 0
        self._is_usable = True
        self._is_poisoned = False

    async def start(self) -> None:
        """Start the engine thread and the loop."""
        self._engine.start()
        self._task = asyncio.create_task(self._run(), name="armoserve-batcher")

    async def drain(self, timeout_seconds: float) -> bool:
        """Let no new request in and finish those inside; say whether that was done in time."""
        self._queue.door.close(_draining)
        with suppress(TimeoutError):
            await asyncio.wait_for(self._queue.door.join(), timeout_seconds)
            return True
        return False

    async def stop(self) -> None:
        """End the loop and fail what is left with Draining; a forward pass that still runs is not waited for."""
        self._abandon(_draining)
        self._engine.stop()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    def alive(self) -> bool:
        """Say whether the loop runs and the engine thread has answered within the watchdog's time."""
        is_looping = self._task is not None and not self._task.done()
        return is_looping and self._engine.has_answered_within(self._watchdog_seconds)

    def has_ended(self) -> bool:
        """Say whether nothing will be computed any more, whatever the reason."""
        return self._task is not None and self._task.done()

    async def _run(self) -> None:
        try:
            while self._is_usable:
                await self._queue.wait_for_jobs()
                builder = self._queue.new_pack()
                self._running = self._queue.take(builder)
                if self._running:
                    await self._settle(self._running, builder)
                    self._queue.released()
        except Exception:
            logger.exception("the batcher failed: every job fails and liveness is lost")
        finally:
            self._abandon(_stopped)
        if self._is_poisoned:
            self._on_fatal()

    def _abandon(self, refusal: Refusal) -> None:
        for job in self._running:
            job.fail(refusal())
        self._queue.abandon(refusal)

    async def _settle(self, jobs: Sequence[Job], builder: PackBuilder) -> None:
        """Compute a pack of these jobs and give each of them a readout or an error."""
        self._num_packs += 1
        began_at = self._queue.clock()
        try:
            computed = await asyncio.wrap_future(self._engine.submit(builder))
        except DeviceOutOfMemory as error:
            self._trace(jobs, builder, began_at, error)
            if len(jobs) == 1:
                self._fail(jobs, error)
                return
        except Exception as error:  # whatever it is, it is these jobs' answer
            self._trace(jobs, builder, began_at, error)
            self._fail(jobs, error)
            return
        else:
            self._trace(jobs, builder, computed.began_at)
            self._resolve(jobs, computed)
            return
        # Only here, where the error is gone and with it all that it kept in memory.
        await self._settle_parts(jobs)

    async def _settle_parts(self, jobs: Sequence[Job]) -> None:
        """Compute these jobs in packs of half the size at most, with nothing recalled: that would be in memory too."""
        logger.warning("out of memory: pack %d of %d responses is halved", self._num_packs, len(jobs))
        half_tokens = builder_of([job.conversation for job in jobs]).num_tokens // 2
        budget_tokens = min(half_tokens, self._queue.max_pack_tokens)
        while self._is_usable and (jobs := [job for job in jobs if not job.future.done()]):
            part = PackBuilder(budget_tokens, max_tokens=self._queue.max_pack_tokens)
            taken = list(takewhile(partial(_joins, part), jobs))
            await self._settle(taken, part)
            jobs = jobs[len(taken) :]

    def _compute(self, builder: PackBuilder) -> Answered:
        """Lay a pack out, compute it, and split what it gave; in the engine thread, since large packs take long."""
        pack = builder.build()
        output = self._forward(pack)
        readouts = _readouts(output, pack)
        answered = Answered(pack, readouts, output.is_finite_R.tolist(), _computed_tokens(pack))
        self._observe(answered, output)
        return answered

    def _resolve(self, jobs: Sequence[Job], computed: Computed[Answered]) -> None:
        pack, began_at, seconds = computed.output.pack, computed.began_at, computed.seconds
        spoilt = []
        waited_seconds: dict[Priority, list[float]] = {}
        for job, readout, is_finite, cost_tokens in zip(jobs, *computed.output.per_response, strict=True):
            queue_seconds = began_at - job.enqueued_at
            waited_seconds.setdefault(job.priority, []).append(queue_seconds)
            if is_finite:
                job.resolve(JobResult(readout, cost_tokens, queue_seconds, seconds))
            else:
                spoilt.append(job)
        if spoilt:
            self._fail(spoilt, NonFiniteReadout())
        self._queue.measured(pack.num_tokens, seconds, pack.num_cached_tokens)
        self._metrics.observe_pack(pack, seconds)
        for priority, waited in waited_seconds.items():
            self._metrics.observe_queue(priority, waited)

    def _observe(self, answered: Answered, output: PackOutput) -> None:
        pack = answered.pack
        try:
            self._metrics.observe_readouts(list(compress(answered.readouts, answered.is_finite)))
            self._metrics.observe_lengths(output.scores_R, pack)
        except ValueError:  # more objectives than the model says, say: no reason to stop scoring
            logger.exception("the metrics do not take the readouts of pack %d", self._num_packs)

    def _trace(self, jobs: Sequence[Job], pack: PackBuilder, began_at: float, cause: Exception | None = None) -> None:
        """Tell of a pack to the traces of those requests that have one."""
        if self._trace_pack is None:
            return
        enqueued_at: dict[RequestRecord, float] = {}
        for job in jobs:
            if job.record.span is not None:
                enqueued_at.setdefault(job.record, job.enqueued_at)
        if not enqueued_at:
            return
        failure = "" if cause is None else _verdict(cause)[0]
        run = PackRun(self._num_packs, began_at, self._queue.clock(), pack.num_tokens, pack.num_responses, failure)
        span = self._trace_pack(run, [record.span for record in enqueued_at])
        for index, (record, since) in enumerate(enqueued_at.items()):
            record.computed(since, run, span if index else None)

    def _fail(self, jobs: Sequence[Job], cause: Exception) -> None:
        """Fail `jobs` with a fresh error each; the cause goes to the log, and the pack's number to both."""
        kind, error_type, what = _verdict(cause)
        logger.error("pack %d: %s (%d responses)", self._num_packs, what, len(jobs), exc_info=cause)
        self._metrics.failures.labels(kind).inc(len(jobs))
        for job in jobs:
            job.fail(error_type(f"{what} (pack {self._num_packs})"))
        self._is_poisoned |= isinstance(cause, DevicePoisoned)
        self._is_usable &= not isinstance(cause, DevicePoisoned | EngineDied)


def _joins(part: PackBuilder, job: Job) -> bool:
    return part.try_add(job.conversation)


def _verdict(cause: Exception) -> tuple[FailureKind, type[InferenceFailed], str]:
    match cause:
        case DeviceOutOfMemory():
            return "oom", DeviceOutOfMemory, "this response alone does not fit into the device's memory"
        case NonFiniteReadout():
            return "nan", NonFiniteReadout, "the model gave NaN or infinity for this conversation"
        case DevicePoisoned():
            return "cuda", DevicePoisoned, "the device failed beyond repair"
        case _:
            return "other", InferenceFailed, "the forward pass failed"


def _readouts(output: PackOutput, pack: Pack) -> list[Readout]:
    """Split `output`, refusing one that does not fit `pack`: a shifted answer would be a wrong number."""
    per_response = (output.rewards_RK, output.scores_R, *output.intensities.values())
    per_prompt = (output.gating_PK, output.coefficients_PK)
    if not (
        np.array_equal(output.prefix_of_response_R, pack.prefix_of_response_R)
        and all(rows is None or len(rows) == pack.num_responses for rows in per_response)
        and all(rows is None or len(rows) == len(pack.gating_indices_P) for rows in per_prompt)
    ):
        raise InferenceFailed(f"the forward pass gave {len(output.rewards_RK)} rows for {pack.num_responses} responses")
    return output.readouts()


def _computed_tokens(pack: Pack) -> list[int]:
    """Share the pack's tokens out: a prefix is the cost of the first response that brought it."""
    costs_R = pack.response_tokens_R.copy()
    _, firsts_P = np.unique(pack.prefix_of_response_R, return_index=True)
    costs_R[firsts_P] += pack.computed_prefix_tokens_P
    costs: list[int] = costs_R.tolist()
    return costs


def _draining() -> Draining:
    return Draining("the service is shutting down")


def _stopped() -> NotReady:
    return NotReady("the engine has stopped; a new process is needed")
