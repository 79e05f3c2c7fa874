"""Stage, gate, switch: how a trained model and its knowledge become the release that is served."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from models.contract.artifact import ArtifactError, ArtifactManifest, ModelName, RefusedModel, ReleaseManifest
from models.contract.keys import PREFIXES
from models.contract.knowledge import Space
from models.contract.schema import FeatureSchema
from models.split_model import parts_folder
from offline.config import JobConfig
from offline.data.catalogue import Catalogue
from offline.data.files import file_digest, write_bytes
from offline.data.log import InteractionLog
from offline.knowledge.vectors import Knowledge, Produced
from offline.publish import gate, indexes, popularity, release, snapshot
from offline.publish.comparison import NewModel, check_acceptable, refusal
from offline.publish.connection import Store
from offline.publish.features import write_histories, write_items, write_profiles
from offline.publish.producer import held_of, knowledge_publication, let_go, served, spaces_of
from offline.publish.records import Written
from offline.publish.undo import installation
from offline.training.report import TrainingReport
from offline.training.samples import statistics_until
from offline.training.validation import ValidationSamples


@dataclass(frozen=True, slots=True)
class Published:
    """The effect of a publication on ``release``; ``live_before`` is what was served when it began.

    ``records`` counts by kind; knowledge is named as its space, "user/liber". ``held_back`` names the spaces that
    somebody rolled back and that were therefore left as they are. ``refused`` is the new model if the gate keeps it
    off; ``notes`` tell how it compares.
    """

    release: str
    live_before: str | None
    switched: bool
    records: dict[str, Written]
    pruned: list[str]
    held_back: list[str]
    refused: RefusedModel | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Contents:
    """The contents that are published: a data set, the knowledge of its users and items, and the model in the folder
    ``models`` that the ``report`` is of."""

    catalogue: Catalogue
    log: InteractionLog
    knowledge: Knowledge
    report: TrainingReport
    models: Path


def publish(
    config: JobConfig,
    store: Store,
    contents: Contents,
    *,
    users: Collection[int] | None = None,
    return_to: bool = False,
    accept: bool = False,
    take_over: bool = False,
) -> Published:
    """Write what changed; a new artifact becomes a new release and goes live if the gate lets it.

    A release or a producer that was rolled back stays so, unless ``return_to`` asks for it: a cron job must not undo
    what a person did. A model that the gate refuses stays off, unless ``accept`` asks for the one that was refused
    last. The live release is then kept current instead. With ``users`` (positions in the log) only their records are
    looked at, and of the others not even expiries are renewed; items are looked at in any case. GateError for a release
    that is incomplete, when the live one is current, and if there is nothing to accept.
    SwitchError if another configuration's release is live, unless ``take_over`` says to replace it.
    """
    live = release.live_release(store)
    is_taken_over = take_over and live is not None and release.is_of_another(store, live, config.name)
    if not take_over:
        release.refuse_another(store, config.name)
    publishing, report = _Publishing(config, store, contents), contents.report
    artifact = gate.check_model(contents.models / report.artifact, publishing.schema, contents.knowledge.spaces)
    if accept:
        check_acceptable(store, publishing.release_id)
    _store_artifact(store, contents.models, report)
    installation(store)
    store.redis.sadd(PREFIXES, store.keys.prefix)
    if return_to:
        let_go(store, spaces_of(contents.knowledge.spaces))
    was_withdrawn = publishing.release_id in release.withdrawn(store)
    may_go_live = live != publishing.release_id and (return_to or is_taken_over or not was_withdrawn)
    refused: RefusedModel | None = None
    notes: tuple[str, ...] = ()
    if may_go_live and not (accept or was_withdrawn or is_taken_over):
        new = NewModel(publishing.release_id, contents.models / report.artifact, artifact)
        refused, notes = refusal(store, config, new, live, publishing.validation_samples)
    interrupted = live is not None and release.begin_change(store, live)
    stays = live if refused is not None or not may_go_live else None
    records = publishing.write_shared(users, stays)
    held_back = held_of(store, contents.knowledge.spaces)
    if stays is not None:
        publishing.keep_current(stays, records, interrupted)
        release.note_refused(store, refused)
        return Published(publishing.release_id, stays, False, records, [], held_back, refused, notes)
    # Two releases may be of one space: what was written for the new one may have changed the live one's item table.
    shared_changed = interrupted or _items_changed(records)
    try:
        records |= publishing.stage_and_switch(live, artifact)
    except gate.GateError:
        if live is not None:  # the new release is held back, and nothing else; what else may be wrong is not the cause
            with suppress(gate.GateError):
                publishing.keep_current(live, records, shared_changed)
            shared_changed = False
        raise
    finally:
        if live is not None:
            release.end_change(store, live, shared_changed)
    release.note_refused(store, None)
    pruned = release.prune(store, config.publish.keep_releases)
    snapshot.prune(store)
    return Published(publishing.release_id, live, True, records, pruned, held_back, notes=notes)


def publish_producer(
    config: JobConfig,
    store: Store,
    log: InteractionLog,
    produced: Produced,
    name: str,
    *,
    users: Collection[int] | None = None,
    return_to: bool = False,
) -> Published:
    """Write one producer's changed records within the live release, and nothing else.

    GateError if the live release reads other spaces of it, SwitchError if it is another configuration's. See
    ``publish`` for the options.
    """
    release.refuse_another(store, config.name)
    live, spaces = release.live_release(store), spaces_of(produced.spaces)
    if live is None or not spaces or served(store, name) != spaces:
        raise gate.GateError(
            f"{name!r} holds spaces {spaces}, but the live release {live} reads {served(store, name)} of it: "
            "a new space needs a new model, run `refresh`"
        )
    if return_to:
        let_go(store, spaces)
    interrupted = release.begin_change(store, live)
    with knowledge_publication(store, config, log) as publication:
        records = publication.write(name, produced, users)
    end_change(config, store, live, interrupted or _items_changed(records), log.user_ids)
    return Published(live, live, False, records, [], held_of(store, produced.spaces))


def release_id(config: JobConfig, report: TrainingReport) -> str:
    """Id of the release of a trained model."""
    return f"{config.name}-{report.sha256[:12]}"


def _items_changed(records: Mapping[str, Written]) -> bool:
    """Whether a record of items was written, of their features or of knowledge."""
    return any(count.written for name, count in records.items() if name.startswith("item"))


class _Publishing:
    """One publication of all contents."""

    def __init__(self, config: JobConfig, store: Store, contents: Contents) -> None:
        self._config, self._store, self._contents = config, store, contents
        self.schema = contents.knowledge.schema(config.feature_schema)
        self.release_id = release_id(config, contents.report)

    def validation_samples(self) -> ValidationSamples:
        """Of the training that the model is of. DataError and IncomparableError as ``ValidationSamples.of``."""
        of = self._contents
        return ValidationSamples.of(self._config, of.catalogue, of.log, of.knowledge, of.report)

    def write_shared(self, users: Collection[int] | None, stays: str | None) -> dict[str, Written]:
        """Write profiles, histories and knowledge, which do not belong to one release alone. Knowledge that only the
        release that ``stays`` live reads is made no more; it lives on as it is."""
        store, contents, log = self._store, self._contents, self._contents.log
        with knowledge_publication(store, self._config, log) as publication:
            write_cache, longest = publication.write_cache, self._config.publish.history_max_events
            records = {
                "user profiles": write_profiles(store, contents.catalogue, log, write_cache, users),
                "user histories": write_histories(store, log, longest, write_cache, users),
            }
            for name, produced in contents.knowledge.produced.items():
                records |= publication.write(name, produced, users)
            for space in self._spaces_made_no_more(stays):
                records[f"{space.key}:{space.fingerprint}"] = publication.renew(space, users)
        return records

    def _spaces_made_no_more(self, stays: str | None) -> list[Space]:
        """Spaces that a release reads and these contents do not have; none of a release that cannot be read."""
        try:
            manifest = None if stays is None else release.read_manifest(self._store, stays)
            read = () if manifest is None else release.read_model(self._store.artifacts / manifest.artifact).spaces
        except ArtifactError:
            return []
        current = {space.fingerprint for space in self._contents.knowledge.spaces}
        return [space for space in read if space.fingerprint not in current]

    def stage_and_switch(self, live: str | None, artifact: ArtifactManifest) -> dict[str, Written]:
        """Write a new release, show it to the gate, complete it and move the pointer from ``live`` to it.

        A release that the gate refuses is deleted again, unless it has been live before.
        """
        config, store, contents = self._config, self._store, self._contents
        log, report = contents.log, contents.report
        features = self._write_items(self.schema, self.release_id, self._embedding_rows())
        directory = release.write_directory(store, self.release_id, log.item_ids)
        manifest = ReleaseManifest(
            id=self.release_id,
            created_at=int(time.time()),
            artifact=report.artifact,
            artifact_sha256=report.sha256,
            model=ModelName(name=f"{config.name}-{config.training.served}", version=report.model_version),
            schema_fingerprint=self.schema.fingerprint,
            spaces=spaces_of(contents.knowledge.spaces),
            items=len(log.item_ids),
            directory_blocks=directory.written,
            metrics=report.metrics,
            parts=report.parts,
            configuration=config.name,
        )
        try:
            items = gate.check(store, config.publish, manifest, artifact)
            manifest = indexes.indexed(store, config.retrieval, manifest, log.item_ids, log.user_ids)
            days = config.retrieval.popularity_days
            manifest = popularity.with_popularity(store, manifest, log, self.schema.liked_above, days)
        except gate.GateError:
            if self.release_id not in release.releases(store):
                release.delete(store, self.release_id, manifest.directory_blocks)
            raise
        manifest = manifest.model_copy(update={"snapshot": snapshot.write_snapshot(store, manifest, items)})
        directory.add(release.write_manifest(store, manifest))
        release.switch(store, live, self.release_id)
        return {"item features": features, "item directory": directory}

    def keep_current(self, live: str, records: dict[str, Written], interrupted: bool) -> None:
        """Bring the live release's items and directory up to date, and tell the services if anything changed.

        Also finishes what an earlier publication was killed in the middle of (``interrupted``).
        """
        store, log = self._store, self._contents.log
        manifest = release.read_manifest(store, live)
        # The live release may read less knowledge, or more, than the one that stays off.
        schema = self._config.feature_schema.with_knowledge([key.partition("/")[2] for key in manifest.spaces])
        if manifest.schema_fingerprint == schema.fingerprint:
            index = self._embedding_rows() if live == self.release_id else None
            records["item features"] = self._write_items(schema, live, index)
            if manifest.items != len(log.item_ids):
                directory = release.write_directory(store, live, log.item_ids)
                grown = {"items": len(log.item_ids), "directory_blocks": directory.written}
                directory.add(release.write_manifest(store, manifest.model_copy(update=grown)))
                records["item directory"] = directory
        days = self._config.retrieval.popularity_days
        changed = popularity.update_popularity(store, live, log, self.schema.liked_above, days)
        changed |= interrupted or _items_changed(records)
        parts = self._contents.report.parts if live == self.release_id else None
        end_change(self._config, store, live, changed, log.user_ids, parts)
        release.record(store, live)

    def _write_items(self, schema: FeatureSchema, release_id: str, index: list[int] | None) -> Written:
        """Item features of a release, with the statistics of all interactions so far."""
        catalogue, log = self._contents.catalogue, self._contents.log
        statistics = statistics_until(schema, log, len(log))
        return write_items(self._store, release_id, schema, catalogue, log.item_ids, index, statistics)

    def _embedding_rows(self) -> list[int]:
        """Each item's row in the id embedding of the model: 0 for items that its training did not see."""
        log = self._contents.log
        seen = np.bincount(log.item[: self._contents.report.trained_rows], minlength=len(log.item_ids)) > 0
        rows: list[int] = np.where(seen, np.arange(1, len(log.item_ids) + 1), 0).tolist()
        return rows


def end_change(
    config: JobConfig,
    store: Store,
    live: str,
    changed: bool,
    users: Sequence[str] = (),
    parts: Mapping[str, str] | None = None,
) -> None:
    """Tell the services if records of the live release changed, or the settings of its indexes, with indexes of what
    they hold now and, if much has changed, a new snapshot. ``users`` are asked for queries of the indexes; ``parts``
    are those of the model now.

    They are told as well if the new vectors cannot be indexed well enough: their records are what they are.
    """
    try:
        try:
            if changed or indexes.outdated(config.retrieval, release.read_manifest(store, live)):
                changed |= indexes.refreshed(store, config.retrieval, live, users)
        finally:
            changed |= snapshot.refreshed(store, live, parts)
    finally:
        release.end_change(store, live, changed)


def _store_artifact(store: Store, models: Path, report: TrainingReport) -> None:
    """Put the model and its parts where the services look for them; damaged copies are replaced."""
    parts = parts_folder(Path(report.artifact))
    files = {Path(report.artifact): report.sha256} | {parts / name: digest for name, digest in report.parts.items()}
    for name, digest in files.items():
        if file_digest(store.artifacts / name) != digest:
            write_bytes(store.artifacts / name, (models / name).read_bytes())
