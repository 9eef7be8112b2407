"""Where everything is joined: settings → engine → queue → batcher → service → routes.

The port opens at once; the engine is loaded in a thread of its own (`app.loading`). Until it is there and has proved
right, trainers' requests wait for it, and other routes that need it answer 503.
"""

import asyncio
import logging
import math
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from app import __version__
from app.api import documentation, operations, scoring, stream
from app.api.authentication import Authentication
from app.api.background import in_daemon_thread
from app.api.documentation import openapi_document
from app.api.head_as_get import HeadAsGet
from app.api.problems import install_problem_responses, problem_response
from app.api.request_context import AnswerFailure, RequestContext
from app.api.security_headers import SecurityHeaders
from app.api.server import DrainingServer
from app.api.state import Limits, ServedModel, ServerState
from app.api.trainers import get_reward, routes
from app.domain import Item, Message, ModelInfo
from app.engine import Engine
from app.errors import DevicePoisoned, InvalidSetting, RequestError
from app.preferences import PreferenceDirection, preference_direction
from app.serving.batcher import Batcher
from app.serving.metrics import Metrics
from app.serving.pack_plan import PACK_SECONDS, PackPlan
from app.serving.queue import JobQueue
from app.serving.service import ScoringService
from app.settings import Settings, inherited_descriptors
from app.text.foreign_templates import own_format as own_format_of
from app.text.turn_formats import Render as RenderText

if TYPE_CHECKING:
    from app.api.tracing import Tracing
    from app.serving.record import TracePack

log = logging.getLogger(__name__)

DESCRIPTION = "Readable, steerable rewards: a score per response, what each objective contributes, and intensities."


def load_engine(settings: Settings) -> Engine:
    """Load weights and tokenizer, and see them give the answers that they must; takes as long as that takes.

    Raises:
        InvalidWeights, InvalidSetting: one line that says what is wrong.
    """
    # torch and transformers take seconds to import: the port opens first.
    from app.loading import load_checked_engine  # noqa: PLC0415

    return load_checked_engine(settings)


def follow_torchrun(settings: Settings) -> None:
    """Compute with the process that answers, until it has ended; only that one is told to end by a signal.

    Raises:
        InvalidWeights, InvalidSetting: one line that says what is wrong.
    """
    for number in (signal.SIGTERM, signal.SIGINT):  # torchrun passes them on to all, and the other has to finish first
        signal.signal(number, signal.SIG_IGN)
    from app.loading import follow_torchrun as follow  # noqa: PLC0415

    follow(settings)


def weights_revision(settings: Settings) -> str:
    """Return the revision of the weights that the settings name; they are digested, not loaded.

    Raises:
        InvalidWeights, InvalidSetting: one line that says what is wrong.
    """
    from app.loading import weights_revision as read_revision  # noqa: PLC0415

    return read_revision(settings)


async def start_model(
    engine: Engine,
    settings: Settings,
    registry: CollectorRegistry,
    on_fatal: Callable[[Exception], None],
    trace_pack: "TracePack | None" = None,
) -> ServedModel:
    """Put an engine behind a queue and a batcher, and start them.

    Raises:
        InvalidSetting: the default preference does not fit these weights.
    """
    direction = _default_direction(settings, engine.info)
    metrics = Metrics(registry, engine.info)
    queue = JobQueue(
        metrics,
        _pack_plan(settings, engine),
        max_queued_tokens=settings.max_queued_tokens,
        max_wait_seconds=settings.max_wait_seconds,
    )
    batcher = Batcher(
        queue,
        engine.forward,
        metrics,
        watchdog_seconds=settings.watchdog_seconds,
        on_fatal=lambda: on_fatal(DevicePoisoned("the device is beyond repair; a new process is needed")),
        trace_pack=trace_pack,
    )
    service = ScoringService(engine.encode, queue, batcher, metrics)
    metrics.watch_device_memory(engine.memory)
    metrics.watch_prefix_cache(engine.prefix_memory)
    await service.start()
    own_format = cache(partial(own_format_of, _text_renderer(engine)))
    return ServedModel(
        engine.info,
        service,
        metrics,
        engine.encode_rollout,
        engine.render,
        queue.is_full,
        own_format,
        direction,
    )


class Application(FastAPI):
    """The web application; its OpenAPI document describes the weights that it serves."""

    def openapi(self) -> dict[str, Any]:
        model: ServedModel | None = self.state.server.model
        return openapi_document(self, None if model is None else model.info)


def create_app(settings: Settings, load: Callable[[Settings], Engine] = load_engine) -> Application:
    """Build the application; `load` is called once it starts, in a thread.

    Raises:
        InvalidSetting: a key file that holds no key, or a collector without what speaks to it.
    """
    registry = _process_registry()
    limits = Limits(
        settings.max_body_bytes, settings.max_items, settings.stream_stall_seconds, settings.max_wait_seconds
    )
    state = ServerState(limits, registry, operations.versions())
    app = Application(
        title="armoserve",
        version=__version__,
        description=DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=partial(_lifespan, settings=settings, load=load),
    )
    app.state.server = state
    state.tracing = _tracing(settings)
    for router in (
        scoring.router,
        stream.router,
        get_reward.router,
        routes.router,
        operations.router,
        documentation.router,
    ):
        app.include_router(router)
    install_problem_responses(app)
    _install_layers(app, settings, state)
    return app


def serve(settings: Settings, load: Callable[[Settings], Engine] = load_engine) -> Exception | None:
    """Serve until a signal or a failure ends it; return the failure, if there was one."""
    app = create_app(settings, load)
    if settings.is_exposed and not settings.keys():
        log.warning("open to everyone who can reach %s: neither api_keys nor api_keys_file is set", settings.host)
    server = DrainingServer(
        app,
        app.state.server,
        (settings.host, settings.port),
        drain_delay=settings.drain_delay_seconds,
        drain_timeout=settings.drain_timeout_seconds,
    )
    inherited = [socket.socket(fileno=descriptor) for descriptor in inherited_descriptors()]
    for port in inherited:
        log.info("listening on %s, which stays open when this process ends", port.getsockname())
    server.run(inherited or None)
    return server.failure


@asynccontextmanager
async def _lifespan(app: FastAPI, settings: Settings, load: Callable[[Settings], Engine]) -> AsyncIterator[None]:
    state: ServerState = app.state.server
    loading = asyncio.create_task(_load(state, settings, load))
    yield
    loading.cancel()
    if state.model is not None:
        await state.model.service.stop()
    if state.tracing is not None:
        await state.tracing.close()


async def _load(state: ServerState, settings: Settings, load: Callable[[Settings], Engine]) -> None:
    try:
        engine = await in_daemon_thread(partial(load, settings))
        trace_pack = None if state.tracing is None else state.tracing.pack
        state.serve_model(await start_model(engine, settings, state.registry, state.on_fatal, trace_pack))
    except Exception as error:  # whatever it is, the process cannot serve
        log.error("nothing can be served: %s", " ".join(str(error).split()) or type(error).__name__)  # noqa: TRY400
        log.debug("loading failed", exc_info=True)
        state.on_fatal(error)
    else:
        log.info("serving %s, revision %s, on %s", engine.info.name, engine.info.revision, engine.info.device)


def _install_layers(app: FastAPI, settings: Settings, state: ServerState) -> None:
    """Wrap the routes: keys inside, then other origins' pages, then what every request gets."""
    open_paths = {"/livez", "/readyz"} | (set() if settings.metrics_auth else {"/metrics"})
    app.add_middleware(HeadAsGet)
    app.add_middleware(Authentication, keys=settings.keys(), open_paths=open_paths)
    answer_failure: AnswerFailure = problem_response
    if settings.cors_origins:
        other_origins = partial(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=["Retry-After", "Server-Timing", "X-Model-Revision", "X-Request-Id"],
        )
        app.add_middleware(other_origins)

        def answer_failure(error: Exception, request_id: str) -> ASGIApp:
            return other_origins(problem_response(error, request_id))  # outside that layer, a page could not read it

    routes = frozenset(app.openapi()["paths"])
    app.add_middleware(
        RequestContext,
        routes=routes,
        observe=state.observe_request,
        answer_failure=answer_failure,
        tracing=state.tracing,
    )
    app.add_middleware(SecurityHeaders)


def _tracing(settings: Settings) -> "Tracing | None":
    if settings.otlp_endpoint is None:
        return None
    try:
        # An extra, which need not be installed.
        from app.api.tracing import Tracing  # noqa: PLC0415
    except ImportError as error:
        raise InvalidSetting(
            f"otlp_endpoint = {settings.otlp_endpoint!r} is not allowed: OpenTelemetry is not installed; "
            "allowed: once the extra is, with pip install 'armoserve[otel]'"
        ) from error
    return Tracing(settings.otlp_endpoint)


def _pack_plan(settings: Settings, engine: Engine) -> PackPlan:
    recall = None if engine.prefix_memory is None else engine.prefix_memory.find
    # Where all packs take as long as the longest, small ones would only be more.
    pack_seconds = math.inf if settings.batch_invariant else PACK_SECONDS
    return PackPlan(settings.max_pack_tokens, pack_seconds=pack_seconds, recall=recall)


def _text_renderer(engine: Engine) -> RenderText:
    def render(prompt: tuple[Message, ...], response: str) -> str:
        return engine.render(Item(prompt, (response,)), "never").conversations[0].text

    return render


def _default_direction(settings: Settings, info: ModelInfo) -> PreferenceDirection | None:
    weights = settings.default_preference
    if weights is None:
        return None
    shown = ",".join(f"{name}:{weight:g}" for name, weight in weights.items())
    refused = f"default_preference = {shown!r} is not allowed"
    if info.has_scalar:
        raise InvalidSetting(f"{refused}: {info.name} has a scalar of its own; allowed: none")
    try:
        return preference_direction(weights, info.objective_names, info.composites)
    except RequestError as error:
        raise InvalidSetting(f"{refused}: {error}") from error


def _process_registry() -> CollectorRegistry:
    registry = CollectorRegistry()
    for collector in (ProcessCollector, PlatformCollector, GCCollector):
        collector(registry=registry)
    return registry
