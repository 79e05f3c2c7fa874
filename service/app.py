"""Builds the service: the whole object graph, in one place, in the order in which things depend on each other."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI

from models.contract.experiments import ExperimentsError
from models.contract.keys import Keys
from models.embedded import embedded_redis
from service.api import routes
from service.api.bodies import Limits
from service.api.direct import DirectApp
from service.experiments.assignment import FileExperiments
from service.experiments.watched import WatchedExperiments
from service.exposures.stream import ExposureLog
from service.features.connection import RedisLink, is_usable_url
from service.features.feedback import RedisFeedback
from service.features.users import RedisUserFeatures
from service.loading import Loader
from service.prepare import apart
from service.ranking.ranker import Ranker
from service.release import Releases
from service.reranking.none import NoReranker
from service.scoring.scorers import PartialScorer
from service.settings import Settings, SettingsError
from service.telemetry import Telemetry

log = logging.getLogger(__name__)


def create_app(settings: Settings) -> FastAPI:
    """The application; it connects to nothing before its lifespan.

    ExperimentsError if an arm cannot take effect, SettingsError if the Redis URL cannot.
    """
    if settings.redis_url is not None and not is_usable_url(settings.redis_url):
        raise SettingsError(
            "LORANK_REDIS_URL is not understood; it looks like redis://[user:password@]host[:port][/number]"
        )  # and is not repeated here, because it may hold a password
    experiments = WatchedExperiments(settings.experiments, _can_take_effect, settings.release_poll_seconds)

    limits = Limits(settings.max_candidates, settings.default_deadline_ms, settings.max_deadline_ms)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with contextlib.AsyncExitStack() as stack:
            app.state.service = await _assemble(settings, limits, experiments, stack)
            yield

    app = DirectApp(
        title="Lorank", description="LLM-enhanced ranking", version="1", lifespan=lifespan, redirect_slashes=False
    )
    routes.mount(app, limits)
    return app


def _can_take_effect(experiments: FileExperiments) -> None:
    """ExperimentsError if an arm asks for what this installation has not."""
    if experiments.asks_for_reranking:
        raise ExperimentsError("an arm sets rerank_top_n, but no reranker is configured")


async def _assemble(
    settings: Settings, limits: Limits, experiments: WatchedExperiments, stack: contextlib.AsyncExitStack
) -> routes.Service:
    """Start everything; ``stack`` stops it in reverse, exposures before the connection, the connection before Redis."""
    url = settings.redis_url
    if url is None:
        embedded = contextlib.ExitStack()
        stack.push_async_callback(asyncio.to_thread, embedded.close)
        url = await asyncio.to_thread(embedded.enter_context, embedded_redis(settings.embedded_folder, keep_alive=True))
    redis = RedisLink(url, settings.redis_connections)
    stack.push_async_callback(redis.close)

    keys = Keys(settings.key_prefix)
    telemetry = Telemetry()
    loader = Loader.of(settings, redis, keys, telemetry)
    stack.callback(loader.close)
    releases = Releases(
        redis,
        keys,
        telemetry,
        loader,
        poll_seconds=settings.release_poll_seconds,
        pins=lambda: experiments.releases,
        apart=apart(settings, url, telemetry),
    )
    exposures = await stack.enter_async_context(
        ExposureLog(redis, keys, telemetry, capacity=settings.exposure_queue, stream_max=settings.exposure_stream_max)
    )
    ranker = Ranker(
        live=releases,
        experiments=experiments,
        users=RedisUserFeatures(redis, keys, telemetry),
        reranker=NoReranker(),
        exposures=exposures,
        telemetry=telemetry,
    )
    stack.push_async_callback(ranker.close)
    feedback = RedisFeedback(
        redis,
        keys,
        telemetry,
        history_max_events=settings.history_max_events,
        stream_max=settings.interaction_stream_max,
    )
    await releases.refresh()  # ready with the first request if everything is in place
    for name, watch in (("releases", releases.watch), ("experiments", experiments.watch)):
        stack.push_async_callback(_stop, asyncio.create_task(watch(), name=name))
    return routes.Service(
        ranker=ranker,
        feedback=feedback,
        live=releases,
        telemetry=telemetry,
        limits=limits,
        max_body_bytes=settings.max_body_bytes,
        status=lambda: status_document(settings, releases, experiments, exposures),
    )


async def _stop(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def status_document(
    settings: Settings, releases: Releases, experiments: WatchedExperiments, exposures: ExposureLog
) -> dict[str, Any]:
    """What ``/v1/status`` answers: what is served, what was refused, and why a stage is off."""
    release = releases.current()
    refusal = releases.refusal
    return {
        "release": None
        if release is None
        else {
            "id": release.id,
            "revision": release.revision,
            "model": release.manifest.model.model_dump(),
            "created_at": release.manifest.created_at,
            "items": len(release.table) - 1,
            "spaces": {space.key: space.fingerprint for space in release.spaces},
            "loaded_at": release.loaded_at,
            "swap_ms": release.swap_ms,
            "in_parts": isinstance(release.scorer, PartialScorer),
        },
        "refused": None
        if refusal is None
        else {
            "release": refusal.release,
            "reason": refusal.reason,
            "at": refusal.at,
            "attempts": refusal.attempts,
        },
        "pinned": {
            name: {
                "loaded": releases.pinned(name) is not None,
                "refused": releases.refusals[name].reason if name in releases.refusals else None,
            }
            for name in experiments.releases
        },
        "experiments": experiments.status(None if release is None else release.schema),
        "redis": {"reachable": releases.redis_error is None, "error": releases.redis_error},
        "stages": _stages(releases, exposures),
        "exposures": {"queued": exposures.depth, "dropped": exposures.dropped},
        "settings": settings.model_dump(
            mode="json",
            include={
                "key_prefix", "max_candidates", "max_body_bytes", "default_deadline_ms", "max_deadline_ms",
                "release_poll_seconds", "workers", "onnx_threads", "history_max_events", "exposure_queue",
            },
        )
        | {"redis": "embedded" if settings.redis_url is None else "external"},
        "process": os.getpid(),
        "time": time.time(),
    }  # fmt: skip


def _stages(releases: Releases, exposures: ExposureLog) -> dict[str, dict[str, str]]:
    """Each stage as on, off or degraded, with the reason."""
    release = releases.current()
    redis_error = releases.redis_error
    loaded = _stage("off", "no release is loaded") if release is None else _stage("on", "")
    reads = loaded if redis_error is None else _stage("degraded", redis_error)
    knowledge = reads
    if release is not None and not release.spaces:
        knowledge = _stage("off", "the model of this release uses no knowledge")
    return {
        "features": reads,
        "knowledge": knowledge,
        "scoring": loaded,
        "reranking": _stage("off", "no reranker is configured"),
        "exposures": _stage("degraded", exposures.failing) if exposures.failing else _stage("on", ""),
    }


def _stage(state: str, reason: str) -> dict[str, str]:
    return {"state": state, "reason": reason}
