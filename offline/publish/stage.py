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
from offline.publish.records import Written, write_items, write_knowledge
from offline.publish.users import write_histories, write_profiles
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
    person did. The live release is then kept current instead.
    """
    release_id = f"{config.name}-{report.sha256[:12]}"
    live = release.live_release(store)
    gate.check_model(models / report.artifact, config.feature_schema, knowledge.spaces)
    _store_artifact(store, models / report.artifact, report.sha256)
    interrupted = live is not None and release.begin_change(store, live)
    records = _write_knowledge(config, store, catalogue, log, knowledge)
    stays_off = release_id in release.withdrawn(store) and not return_to
    if live is not None and (live == release_id or stays_off):
        index = _embedding_rows(log, report) if live == release_id else None
        _keep_current(config, store, live, catalogue, log, index, records, interrupted)
        return Published(release_id, live, False, records, [])
    # Two releases may be of one space: what was written for the new one may have changed the live one's item table.
    shared_changed = interrupted or records["item knowledge"].written > 0
    try:
        records["item features"] = _stage_and_switch(config, store, release_id, live, catalogue, log, knowledge, report)
    finally:
        if live is not None:
            release.end_change(store, live, shared_changed)
    return Published(release_id, live, True, records, release.prune(store, config.publish.keep_releases))


def _stage_and_switch(
    config: JobConfig,
    store: Store,
    release_id: str,
    live: str | None,
    catalogue: Catalogue,
    log: InteractionLog,
    knowledge: Knowledge,
    report: TrainingReport,
) -> Written:
    """Write a new release, show it to the gate, complete it and move the live pointer to it.

    A release that the gate refuses is deleted again, unless it has been live before.
    """
    written = _write_items(config, store, release_id, catalogue, log, _embedding_rows(log, report))
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
    return written


def _keep_current(
    config: JobConfig,
    store: Store,
    live: str,
    catalogue: Catalogue,
    log: InteractionLog,
    index: list[int] | None,
    records: dict[str, Written],
    interrupted: bool,
) -> None:
    """Bring the live release's items and directory up to date, and tell the services if anything changed.

    Also finishes what an earlier publication was killed in the middle of (``interrupted``).
    """
    manifest = release.read_manifest(store, live)
    if manifest.schema_fingerprint == config.feature_schema.fingerprint:
        records["item features"] = _write_items(config, store, live, catalogue, log, index)
        if manifest.items != len(log.item_ids):
            blocks = release.write_directory(store, live, log.item_ids)
            grown = {"items": len(log.item_ids), "directory_blocks": blocks}
            release.write_manifest(store, manifest.model_copy(update=grown))
            interrupted = True
    changed = any(written.written for name, written in records.items() if name.startswith("item"))
    release.end_change(store, live, changed or interrupted)
    release.record(store, live)


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
        "user profiles": write_profiles(store, catalogue, log),
        "user histories": write_histories(store, log, config.publish.history_max_events),
        "user knowledge": write_knowledge(store, "user", knowledge.spaces["user"].fingerprint, users, dtype, ttl),
        "item knowledge": write_knowledge(store, "item", knowledge.spaces["item"].fingerprint, items, dtype, ttl),
    }


def _write_items(
    config: JobConfig,
    store: Store,
    release_id: str,
    catalogue: Catalogue,
    log: InteractionLog,
    index: list[int] | None,
) -> Written:
    """Item features of a release, with the statistics of all interactions so far."""
    schema = config.feature_schema
    statistics = statistics_until(schema, log, len(log))
    return write_items(store, release_id, schema, catalogue, log.item_ids, index, statistics)


def _embedding_rows(log: InteractionLog, report: TrainingReport) -> list[int]:
    """Each item's row in the id embedding of the reported model: 0 for items that its training did not see."""
    seen = np.bincount(log.item[: report.trained_rows], minlength=len(log.item_ids)) > 0
    rows: list[int] = np.where(seen, np.arange(1, len(log.item_ids) + 1), 0).tolist()
    return rows


def _store_artifact(store: Store, source: Path, digest: str) -> None:
    """Put the model where the services look for it; a damaged copy is replaced."""
    target = store.artifacts / source.name
    if file_digest(target) != digest:
        write_bytes(target, source.read_bytes())
