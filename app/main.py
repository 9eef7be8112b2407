"""Where everything is built and joined: settings → weights → tokenizer → checks → queue → batcher → service → routes.

The only file that knows all layers. The port opens at once; the weights are loaded in a thread of their own, and
routes that need them answer 503 until they are there and have proved right.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from starlette.middleware.cors import CORSMiddleware

from app import __version__
from app.api import documentation, operations, scoring
from app.api.authentication import Authentication
from app.api.background import in_daemon_thread
from app.api.documentation import openapi_document
from app.api.problems import install_problem_responses, problem_response
from app.api.request_context import RequestContext
from app.api.server import DrainingServer
from app.api.state import Limits, ServedModel, ServerState
from app.canary import PROBE_ITEMS, check_canary, check_packed_equals_alone, read_canary
from app.domain import Item, ModelInfo, Truncation
from app.errors import DevicePoisoned, InvalidSetting
from app.hub import is_hub_id, local_weights
from app.known_answer import check_known_answer, has_known_answer
from app.model.weights import load_reward_model
from app.preferences import PreferenceDirection, preference_direction
from app.serving.batcher import Batcher
from app.serving.engine import Forward
from app.serving.metrics import Metrics
from app.serving.queue import JobQueue
from app.serving.service import Encode, ScoringService
from app.settings import Settings
from app.text.tokenization import RenderedItem, load_tokenizer

log = logging.getLogger(__name__)

DESCRIPTION = "Readable, steerable rewards: a score per response, what each objective contributes, and intensities."


@dataclass(frozen=True, slots=True)
class Engine:
    """Loaded weights as the rest of the service sees them: functions, and a description."""

    info: ModelInfo
    encode: Encode
    forward: Forward
    render: Callable[[Item, Truncation], RenderedItem]


def load_engine(settings: Settings) -> Engine:
    """Load weights and tokenizer, and see them give the answers that they must; takes as long as that takes.

    Raises:
        InvalidWeights, InvalidSetting: one line that says what is wrong.
    """
    folder = local_weights(settings.weights)
    model = load_reward_model(
        folder,
        device=settings.device,
        dtype=settings.dtype,
        moslim_weights=settings.moslim_weights,
        name=settings.weights if is_hub_id(settings.weights) else None,
    )
    limit = _conversation_limit(settings, model.info)
    tokenizer = load_tokenizer(
        folder,
        template_kind=model.manifest.template.kind,
        frozen_date=model.manifest.template.frozen_date,
        gating_token="last_prompt_token" if model.manifest.gating is None else model.manifest.gating.token,
        max_conversation_tokens=limit,
    )
    info = replace(model.info, template=tokenizer.template_digest, max_conversation_tokens=limit)
    engine = Engine(info, tokenizer.encode, model.forward, tokenizer.render)
    check_engine(engine, folder)
    return engine


def check_engine(engine: Engine, folder: Path) -> None:
    """Warm the engine with what it must be able to do: give its known answers, the same in company as alone.

    Raises:
        InvalidWeights: it does not.
    """
    check_packed_equals_alone(PROBE_ITEMS, engine.encode, engine.forward, engine.info.dtype)
    if (canary := read_canary(folder)) is not None:
        check_canary(canary, engine.encode, engine.forward, engine.info.dtype, engine.info.objective_names)
    if has_known_answer(engine.info):
        check_known_answer(engine.info, engine.encode, engine.forward)


async def start_model(
    engine: Engine, settings: Settings, registry: CollectorRegistry, on_fatal: Callable[[Exception], None]
) -> ServedModel:
    """Put an engine behind a queue and a batcher, and start them.

    Raises:
        InvalidSetting: the default preference does not fit these weights.
    """
    direction = _default_direction(settings, engine.info)
    metrics = Metrics(registry, engine.info)
    queue = JobQueue(
        metrics,
        max_pack_tokens=settings.max_pack_tokens,
        max_queued_tokens=settings.max_queued_tokens,
        max_wait_seconds=settings.max_wait_seconds,
    )
    batcher = Batcher(
        queue,
        engine.forward,
        metrics,
        watchdog_seconds=settings.watchdog_seconds,
        on_fatal=lambda: on_fatal(DevicePoisoned("the device is beyond repair; a new process is needed")),
    )
    service = ScoringService(engine.encode, queue, batcher, metrics)
    await service.start()

    def is_full() -> bool:
        return (queue.estimated_wait_seconds("interactive") or 0.0) > settings.max_wait_seconds

    return ServedModel(engine.info, service, metrics, engine.render, is_full, direction)


class Application(FastAPI):
    """The web application; its OpenAPI document describes the weights that it serves."""

    def openapi(self) -> dict[str, Any]:
        model: ServedModel | None = self.state.server.model
        return openapi_document(self, None if model is None else model.info)


def create_app(settings: Settings, load: Callable[[Settings], Engine] = load_engine) -> Application:
    """Build the application; `load` is called once it starts, in a thread.

    Raises:
        InvalidSetting: a key file that holds no key.
    """
    registry = _process_registry()
    state = ServerState(Limits(settings.max_body_bytes, settings.max_items), registry, operations.versions())
    app = Application(
        title="armoserve",
        version=__version__,
        description=DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        lifespan=partial(_lifespan, settings=settings, load=load),
    )
    app.state.server = state
    for router in (scoring.router, operations.router, documentation.router):
        app.include_router(router)
    install_problem_responses(app)
    _install_layers(app, settings, state)
    return app


def serve(settings: Settings, load: Callable[[Settings], Engine] = load_engine) -> Exception | None:
    """Serve until a signal or a failure ends it; return the failure, if there was one."""
    app = create_app(settings, load)
    server = DrainingServer(
        app,
        app.state.server,
        (settings.host, settings.port),
        drain_delay=settings.drain_delay_seconds,
        drain_timeout=settings.drain_timeout_seconds,
    )
    server.run()
    return server.failure


@asynccontextmanager
async def _lifespan(app: FastAPI, settings: Settings, load: Callable[[Settings], Engine]) -> AsyncIterator[None]:
    state: ServerState = app.state.server
    loading = asyncio.create_task(_load(state, settings, load))
    yield
    loading.cancel()
    if state.model is not None:
        await state.model.service.stop()


async def _load(state: ServerState, settings: Settings, load: Callable[[Settings], Engine]) -> None:
    try:
        engine = await in_daemon_thread(partial(load, settings))
        state.model = await start_model(engine, settings, state.registry, state.on_fatal)
    except Exception as error:  # whatever it is, the process cannot serve
        log.debug("loading failed", exc_info=True)
        state.on_fatal(error)
    else:
        log.info("serving %s, revision %s, on %s", engine.info.name, engine.info.revision, engine.info.device)


def _install_layers(app: FastAPI, settings: Settings, state: ServerState) -> None:
    """Wrap the routes: keys inside, then other origins' pages, then what every request gets."""
    open_paths = {"/livez", "/readyz"} | (set() if settings.metrics_auth else {"/metrics"})
    app.add_middleware(Authentication, keys=settings.keys(), open_paths=open_paths)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=settings.cors_origins, allow_methods=["*"], allow_headers=["*"]
        )
    paths = frozenset(app.openapi()["paths"])

    def observe(path: str, status: int, seconds: float) -> None:
        state.observe_request(path if path in paths else "other", status, seconds)

    app.add_middleware(RequestContext, observe=observe, answer_failure=problem_response)


def _conversation_limit(settings: Settings, info: ModelInfo) -> int:
    asked = settings.max_conversation_tokens
    if asked is not None and asked > info.max_conversation_tokens:
        raise InvalidSetting(
            f"max_conversation_tokens = {asked} is not allowed; "
            f"allowed: up to {info.max_conversation_tokens}, the longest that {info.name} takes"
        )
    return min(asked or info.max_conversation_tokens, settings.max_pack_tokens)


def _default_direction(settings: Settings, info: ModelInfo) -> PreferenceDirection | None:
    weights = settings.default_preference
    if weights is None:
        return None
    if info.has_scalar:
        raise InvalidSetting(f"default_preference is not allowed: {info.name} has a scalar of its own")
    return preference_direction(weights, info.objective_names, info.composites)


def _process_registry() -> CollectorRegistry:
    registry = CollectorRegistry()
    for collector in (ProcessCollector, PlatformCollector, GCCollector):
        collector(registry=registry)
    return registry
