"""Builds the service: the whole object graph, in one place, in the order in which things depend on each other."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import AsyncIterator, Callable

from fastapi import FastAPI

from models.contract.keys import Keys
from models.contract.leaving import Outlet, in_words
from models.contract.reranker import RerankerError
from models.valkey.embedded import embedded_redis
from service.ab.reloading import ReloadingExperiments
from service.access import Access
from service.admission import Admission
from service.api import routes, users
from service.api.fast_path import FastPathApp
from service.api.schemas import Limits, openapi_schemas
from service.configuration import check_redis_url, with_prefix
from service.exposures import ExposureLog
from service.features.feedback import RedisFeedback
from service.features.rules import FeedbackRules
from service.features.users import RedisUserFeatures
from service.forgetting.erasure import Erasure
from service.forgetting.requests import Requests
from service.forgetting.retention import Retention
from service.forgetting.tombstones import KnownTombstones
from service.forgetting.traces import UserTraces
from service.ranking.ranker import Ranker
from service.redis_cluster import open_port
from service.releases.loader import Loader
from service.releases.watcher import Releases
from service.reranking.server import ModelServer
from service.reranking.vllm import Gates, Tuned, VllmReranker, read_reranker
from service.reranking.watch import CanaryWatch
from service.server.connections import ConnectionLimits, Connections
from service.server.descriptors import fitting
from service.settings import Settings, SettingsError
from service.status import status_document
from service.telemetry import Telemetry

WAIT_SECONDS = 0.1
"""Between two looks at whether a release is loaded."""

_LIST = "set it to {commas} to let them (docs/security.md), or use a server on this machine"
_TUNE_AGAIN = "run `python -m offline tune-reranker`, which notes them"

log = logging.getLogger(__name__)


def create_app(settings: Settings, others_serve: Callable[[], bool] = lambda: False) -> FastAPI:
    """The application; it connects to nothing before its lifespan, which lasts until a release is loaded for as long as
    ``others_serve``.

    ExperimentsError if an arm cannot take effect, SettingsError if the Redis URL or the keys cannot.
    """
    check_redis_url(settings)
    access = Access(settings.keys, settings.release_poll_seconds, settings.workers, is_private=settings.private_network)
    tuned = _tuned(settings)
    experiments = ReloadingExperiments(settings.experiments, settings.release_poll_seconds, reranks=tuned is not None)

    limits = Limits(settings.max_candidates, settings.default_deadline_ms, settings.max_deadline_ms)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with contextlib.AsyncExitStack() as stack:
            service = app.state.service = await _assemble(settings, limits, experiments, access, tuned, stack)
            if service.live.current() is None and others_serve():
                log.info("other workers have a release: requests are left to them until this one has it, too")
            while service.live.current() is None and others_serve():  # noqa: ASYNC110 - others are other processes
                await asyncio.sleep(WAIT_SECONDS)
            connections.on_refusal = lambda status: service.telemetry.requests.labels("refused", str(status)).inc()
            connections.on_surplus = service.telemetry.connections_refused.inc
            connections.on_sweep = lambda: _gauge(connections, service.telemetry)
            connections.limits = fitting(connections.limits, settings.redis_connections + settings.rerank_slots)
            await stack.enter_async_context(connections.swept())
            yield
            try:
                await stack.aclose()
            except Exception:  # whose words uvicorn would write
                log.exception("not all could be closed")

    connections = Connections(_connection_limits(settings), Admission(settings.queue_seconds))
    app = FastPathApp(lifespan)
    app.state.connections = connections
    routes.mount(app, requires_keys=access.is_required)
    users.mount(app, requires_keys=access.is_required)
    app.schemas = openapi_schemas(limits, users.REPLIES)
    return app


def _gauge(connections: Connections, telemetry: Telemetry) -> None:
    admission = connections.admission
    telemetry.connections.set(len(connections))
    telemetry.at_work.set(admission.at_work)
    telemetry.at_work_limit.set(math.floor(admission.limit))


def _connection_limits(settings: Settings) -> ConnectionLimits:
    return ConnectionLimits(
        header_bytes=settings.max_header_bytes,
        headers=settings.max_headers,
        header_seconds=settings.header_seconds,
        body_bytes=settings.max_body_bytes,
        body_seconds=settings.body_seconds,
        unfinished_bytes=settings.max_unfinished_bytes,
        connections=settings.max_connections,
    )


def _tuned(settings: Settings) -> Tuned | None:
    """The reranker of the settings. SettingsError if it cannot be used."""
    if settings.reranker is None:
        return None
    try:
        tuned = read_reranker(settings.reranker)
    except (RerankerError, OSError) as error:
        raise SettingsError(
            f"LORANK_RERANKER: {settings.reranker} cannot be used: {error}; `python -m offline tune-reranker` writes it"
        ) from error
    carried, outlet = tuned[0].carried, _outlet(settings)
    if refusal := outlet.refusal(carried, "LORANK_RERANKER_MAY_LEAVE", _TUNE_AGAIN if carried is None else _LIST):
        raise SettingsError(refusal)
    log.info("the reranker's prompts go to %s (%s) and carry %s", outlet.address, outlet.place, in_words(carried))
    return tuned


def _outlet(settings: Settings) -> Outlet:
    return Outlet.to(settings.reranker_url or "", settings.reranker_may_leave)


async def _assemble(
    settings: Settings,
    limits: Limits,
    experiments: ReloadingExperiments,
    access: Access,
    tuned: Tuned | None,
    stack: contextlib.AsyncExitStack,
) -> routes.Service:
    """Start everything; ``stack`` stops it in reverse, exposures before the connection, the connection before Redis."""
    settings = await asyncio.to_thread(with_prefix, settings)
    url = settings.redis_url
    if url is None:
        embedded = contextlib.ExitStack()
        stack.push_async_callback(asyncio.to_thread, embedded.close)
        url = await asyncio.to_thread(embedded.enter_context, embedded_redis(settings.embedded_folder, keep_alive=True))
    redis = open_port(url, settings.redis_connections, settings.redis_reads)
    stack.push_async_callback(redis.close)

    keys = Keys(settings.served_prefix)
    telemetry = Telemetry()
    loader = Loader.of(settings, redis, keys, telemetry)
    releases = Releases(loader, settings.release_poll_seconds, pins=lambda: experiments.current.releases)
    tombstones = KnownTombstones(redis, keys, settings.release_poll_seconds)
    erasure = Erasure(UserTraces(redis, keys), tombstones, Requests(redis, keys), settings.feedback_fsyncs)
    stack.push_async_callback(erasure.close)
    exposures = await stack.enter_async_context(
        ExposureLog(
            erasure,
            telemetry,
            capacity=settings.exposure_queue,
            stream_max=settings.exposure_stream_max,
            served_seconds=settings.served_seconds,
        )
    )
    reranker = None if tuned is None else _reranker(settings, tuned, telemetry, stack)
    users = RedisUserFeatures(redis, keys, telemetry)
    ranker = Ranker(
        releases,
        lambda: experiments.current,
        users,
        reranker,
        exposures,
        telemetry,
        is_opted_out=lambda user_id: tombstones.current.opted_out(user_id),
    )
    stack.push_async_callback(ranker.close)
    feedback = RedisFeedback(
        erasure,
        telemetry,
        settings.history_max_events,
        stream_max=settings.interaction_stream_max,
        fsyncs=settings.feedback_fsyncs,
        history_days=settings.history_days or 0.0,
    )
    await releases.refresh()  # ready with the first request if everything is in place
    await tombstones.refresh()
    watches = {
        "releases": releases.watch, "experiments": experiments.watch, "keys": access.watch,
        "tombstones": erasure.watch, "retention": Retention(redis, keys, settings.stream_days).watch,
    }  # fmt: skip
    for name, watch in watches.items():
        stack.push_async_callback(_stop, asyncio.create_task(watch(), name=name))
    return routes.Service(
        ranker=ranker,
        feedback=feedback,
        rules=FeedbackRules(redis, keys, access, settings.served_seconds),
        live=releases,
        telemetry=telemetry,
        limits=limits,
        max_body_bytes=settings.max_body_bytes,
        access=access,
        erasure=erasure,
        status=lambda: {
            **status_document(settings, releases, experiments, exposures, reranker, telemetry.last_minute),
            "access": access.status(),
            "forgetting": erasure.status(),
        },
    )


def _reranker(settings: Settings, tuned: Tuned, telemetry: Telemetry, stack: contextlib.AsyncExitStack) -> VllmReranker:
    """The reranker with its watch. The service starts without waiting for the model server."""
    manifest, items = tuned
    slots = max(1, settings.rerank_slots // settings.workers)
    model = settings.reranker_model or manifest.name
    server = ModelServer(settings.reranker_url or "", model, settings.reranker_api_key, at_once=slots)
    stack.push_async_callback(server.close)
    watch = CanaryWatch(server, manifest, settings.rerank_check_seconds)
    gates = Gates(slots, settings.rerank_least_ms / 1000.0, settings.rerank_margin)
    stack.push_async_callback(_stop, asyncio.create_task(watch.watch(), name="reranker"))
    return VllmReranker(server, manifest, items, watch, gates, telemetry, _outlet(settings))


async def _stop(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
