"""Stage, gate, switch: how a trained model and its knowledge become the release that is served."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from models.contract.artifact import ModelName, ReleaseManifest
from offline.config import JobConfig
from offline.data.catalogue import Catalogue
from offline.data.files import file_digest, write_bytes
from offline.data.log import InteractionLog
from offline.knowledge.build import Knowledge
from offline.publish import gate, release
from offline.publish.connection import Store
from offline.publish.records import Written, write_items, write_knowledge, write_users
from offline.training.report import TrainingReport
from offline.training.samples import statistics_until


@dataclass(frozen=True, slots=True)
class Published:
    """What a publication did to ``release``; ``live_before`` is what was served when it began."""

    release: str
    live_before: str | None
    switched: bool
    records: dict[str, Written]
    pruned: list[str]


def publish(
    config: JobConfig,
    store: Store,
    catalogue: Catalogue,
    log: InteractionLog,
    knowledge: Knowledge,
    report: TrainingReport,
    models: Path,
    *,
    return_to: bool = False,
) -> Published:
    """Write what changed; a new artifact becomes a new release and goes live if the gate lets it.

    A release that was rolled back from stays off, unless ``return_to`` asks for it: a cron job must not undo what a
    person did. Knowledge and profiles are written all the same, since the live release may share them.
    """
    release_id = f"{config.name}-{report.sha256[:12]}"
    live = release.live_release(store)
    gate.check_model(models / report.artifact, config.feature_schema, knowledge.spaces)
    _store_artifact(store, models / report.artifact, report.sha256)
    records = _write_knowledge(config, store, catalogue, log, knowledge)
    if release_id in release.withdrawn(store) and not return_to:
        return Published(release_id, live, False, records, [])
    records["item features"] = _write_items(config, store, release_id, catalogue, log, report)
    if live == release_id:
        changed = records["item features"].written + records["item knowledge"].written
        _keep_current(store, release_id, log, changed > 0)
        return Published(release_id, live, False, records, [])
    manifest = ReleaseManifest(
        id=release_id,
        created_at=int(time.time()),
        artifact=report.artifact,
        artifact_sha256=report.sha256,
        model=ModelName(name=f"{config.name}-{config.training.served}", version=report.model_version),
        schema_fingerprint=config.feature_schema.fingerprint,
        spaces={"user": knowledge.spaces["user"].fingerprint, "item": knowledge.spaces["item"].fingerprint},
        items=len(log.item_ids),
        directory_blocks=release.write_directory(store, release_id, log.item_ids),
        metrics=report.metrics,
    )
    try:
        gate.check(store, config.publish, manifest, config.feature_schema)
    except gate.GateError:
        if release_id not in release.releases(store):
            release.delete(store, release_id, manifest.directory_blocks)
        raise
    release.write_manifest(store, manifest)
    release.switch(store, live, release_id)
    return Published(release_id, live, True, records, release.prune(store, config.publish.keep_releases))


def _keep_current(store: Store, release_id: str, log: InteractionLog, changed: bool) -> None:
    """Bring the live release's directory up to date, and tell the services if any of its records changed.

    Also finishes what an earlier publication was killed in the middle of.
    """
    manifest = release.read_manifest(store, release_id)
    if changed or manifest.items != len(log.item_ids):
        blocks = release.write_directory(store, release_id, log.item_ids)
        release.write_manifest(
            store, manifest.model_copy(update={"items": len(log.item_ids), "directory_blocks": blocks})
        )
        release.announce_change(store, release_id)
    release.record(store, release_id)


def _write_knowledge(
    config: JobConfig, store: Store, catalogue: Catalogue, log: InteractionLog, knowledge: Knowledge
) -> dict[str, Written]:
    """Profiles, histories and knowledge: what does not belong to one release alone."""
    ttl = round(config.knowledge.ttl_days * 86_400)
    partitions, dtype = config.feature_schema.partitions, config.knowledge.dtype
    users = (
        (name, knowledge.of_user(user)[-partitions:])
        for user, name in enumerate(log.user_ids)
        if len(knowledge.of_user(user))
    )
    items = ((name, knowledge.items[at : at + 1]) for at, name in enumerate(log.item_ids) if knowledge.known_items[at])
    return {
        **write_users(store, catalogue, log, config.publish.history_max_events),
        "user knowledge": write_knowledge(store, "user", knowledge.spaces["user"].fingerprint, users, dtype, ttl),
        "item knowledge": write_knowledge(store, "item", knowledge.spaces["item"].fingerprint, items, dtype, ttl),
    }


def _write_items(
    config: JobConfig,
    store: Store,
    release_id: str,
    catalogue: Catalogue,
    log: InteractionLog,
    report: TrainingReport,
) -> Written:
    """Item features of a release, with the statistics of all interactions so far."""
    seen = np.bincount(log.item[: report.trained_rows], minlength=len(log.item_ids)) > 0
    return write_items(
        store,
        release_id,
        config.feature_schema,
        catalogue,
        log.item_ids,
        np.where(seen, np.arange(1, len(log.item_ids) + 1), 0).tolist(),
        statistics_until(config.feature_schema, log, len(log)),
    )


def _store_artifact(store: Store, source: Path, digest: str) -> None:
    """Put the model where the services look for it; a damaged copy is replaced."""
    target = store.artifacts / source.name
    if file_digest(target) != digest:
        write_bytes(target, source.read_bytes())
