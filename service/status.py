"""The answer of ``/v1/status``: the release that is served or was refused, here or by the jobs' gate, stages that are
off or degraded, and why."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from models.contract.ids import NOBODY
from models.contract.reranker import FittedTo
from service.ab.reloading import ReloadingExperiments
from service.exposures import ExposureLog
from service.ranking.degraded import Degraded
from service.ranking.ports import Release
from service.releases.watcher import Releases
from service.reranking.vllm import VllmReranker
from service.settings import Settings
from service.telemetry import LastMinute

_STAGE_OF = {
    Degraded.NO_POINTER: "features", Degraded.NO_FEATURES: "features", Degraded.NO_KNOWLEDGE: "knowledge",
    Degraded.NO_RETRIEVAL: "retrieval", Degraded.PRIOR_ORDER: "scoring",
}  # fmt: skip
"""What is at fault where requests took a step of the ladder. The reranker has a watch of its own."""


def status_document(
    settings: Settings,
    releases: Releases,
    experiments: ReloadingExperiments,
    exposures: ExposureLog,
    reranker: VllmReranker | None,
    last_minute: LastMinute,
) -> dict[str, Any]:
    """The document, as JSON takes it. Stages are as requests met them in the last minute, where any did."""
    answers, steps = last_minute.counts()
    release = releases.current()
    refusal, refused_model = releases.refusal, releases.refused_model
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
            "in_parts": release.scorer.in_parts,
            "nobody": list(NOBODY if release.manifest.nobody is None else release.manifest.nobody),
            "indexes": {
                role: index.model_dump(include={"space", "kind", "effort", "items", "top", "recall"})
                for role, index in release.manifest.indexes.items()
            },
        },
        "refused": None if refusal is None else asdict(refusal),
        "model_refused": None if refused_model is None else refused_model.model_dump(mode="json"),
        "pinned": {
            name: {
                "loaded": releases.pinned(name) is not None,
                "refused": releases.refusals[name].reason if name in releases.refusals else None,
            }
            for name in experiments.current.releases
        },
        "experiments": experiments.status(None if release is None else release.schema),
        "private_network": settings.private_network,
        "redis": {
            "reachable": releases.redis_error is None,
            "error": releases.redis_error,
            "pointer": releases.pointer,
        },
        "last_minute": {"answers": answers, "degraded": steps},
        "stages": _as_met(_stages(releases, exposures) | {"reranking": _reranking(reranker, release)}, answers, steps),
        "reranker": None if reranker is None else reranker.description,
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
    problems = [] if release is None else [release.items_problem, release.scorer.problem]
    problem = "; ".join(filter(None, problems))
    knowledge = reads
    if release is not None and not release.spaces:
        knowledge = _stage("off", "the model of this release uses no knowledge")
    return {
        "features": reads,
        "knowledge": knowledge,
        "retrieval": loaded if release is None else _retrieval(release),
        "scoring": loaded if not problem else _stage("degraded", problem),
        "exposures": _stage("degraded", exposures.failing) if exposures.failing else _stage("on", ""),
    }


def _as_met(stages: dict[str, dict[str, str]], answers: int, steps: Mapping[str, int]) -> dict[str, dict[str, str]]:
    """Stages that are on but failed requests of the last minute are degraded."""
    for step, stage in _STAGE_OF.items():
        if steps.get(step) and stages[stage]["state"] == "on":
            reason = f"{steps[step]} of {answers} answers in the last minute: {step}"
            stages[stage] = _stage("degraded", reason)
    return stages


def _reranking(reranker: VllmReranker | None, release: Release | None) -> dict[str, str]:
    """Degraded, that is at work with a weight that was found beside another CTR model, where that is known."""
    if reranker is None or reranker.watch.off:
        return _stage("off", "no reranker is configured" if reranker is None else reranker.watch.off)
    if release is None:
        return _stage("on", "")
    live = FittedTo(model=release.manifest.model, artifact_sha256=release.manifest.artifact_sha256)
    mismatch = reranker.manifest.mismatch(live)
    return _stage("degraded", mismatch) if mismatch else _stage("on", "")


def _retrieval(release: Release) -> dict[str, str]:
    if release.retriever.problem is not None:
        return _stage("degraded", release.retriever.problem)
    if not release.manifest.indexes:
        return _stage("off", "this release has no index of items; popular ones are found")
    return _stage("on", "")


def _stage(state: str, reason: str) -> dict[str, str]:
    return {"state": state, "reason": reason}
