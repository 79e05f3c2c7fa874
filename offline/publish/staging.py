"""Staging: the records of a publication, the release that they make, and the live release that they keep current."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from models.contract.artifact import ArtifactError, ArtifactManifest, ModelName, ReleaseManifest
from models.contract.ids import NOBODY
from models.contract.knowledge import Space
from models.contract.schema import FeatureSchema
from models.split_model import parts_folder
from offline.config import JobConfig
from offline.data.catalogue import Catalogue
from offline.data.files import file_digest, write_bytes
from offline.data.log import InteractionLog
from offline.knowledge.vectors import Knowledge
from offline.publish import gate, indexes, popularity, release, snapshot
from offline.publish.connection import Store
from offline.publish.features import record_ends, write_histories, write_items, write_profiles
from offline.publish.producer import knowledge_publication, spaces_of
from offline.publish.records import Written
from offline.publish.rewriting import are_of_other_settings, note_settings, rewrite_histories
from offline.training.candidates import as_trained
from offline.training.report import TrainingReport
from offline.training.statistics import statistics_until
from offline.training.validation import ValidationSamples


@dataclass(frozen=True, slots=True)
class Contents:
    """The contents that are published: a data set, the knowledge of its users and items, and the model in the folder
    ``models`` that the ``report`` is of."""

    catalogue: Catalogue
    log: InteractionLog
    knowledge: Knowledge
    report: TrainingReport
    models: Path


def release_id(config: JobConfig, report: TrainingReport) -> str:
    """Id of the release of a trained model."""
    return f"{config.name}-{report.sha256[:12]}"


def items_changed(records: Mapping[str, Written]) -> bool:
    """Whether a record of items was written, of their features or of knowledge."""
    return any(count.written for name, count in records.items() if name.startswith("item"))


class Staging:
    """One publication of all contents."""

    def __init__(self, config: JobConfig, store: Store, contents: Contents) -> None:
        self._config = config = as_trained(config, contents.report.architecture)
        self._store, self._contents = store, contents
        self.schema = contents.knowledge.schema(config.feature_schema)
        self.release_id = release_id(config, contents.report)

    @property
    def _nobody(self) -> tuple[str, ...] | None:
        """Ids that stand for nobody, as a manifest lists them."""
        listed = self._config.data.nobody
        return None if listed == NOBODY else listed

    def validation_samples(self) -> ValidationSamples:
        """Of the training that the model is of. DataError and IncomparableError as ``ValidationSamples.of``."""
        of = self._contents
        return ValidationSamples.of(self._config, of.catalogue, of.log, of.knowledge, of.report)

    def write_shared(self, users: Collection[int] | None) -> dict[str, Written]:
        """Write profiles, histories and knowledge, which do not belong to one release alone."""
        store, contents, log = self._store, self._contents, self._contents.log
        with knowledge_publication(store, self._config, log) as publication:
            write_cache, longest = publication.write_cache, self._config.publish.history_max_events
            watch, retention = publication.watch, self._config.retention
            profiles_end, histories_end = (
                record_ends(log, days) for days in (retention.profile_days, retention.history_days)
            )
            written = write_profiles(store, contents.catalogue, log, write_cache, users, watch, profiles_end)
            records, complete = {"user profiles": written}, True
            if are_of_other_settings(store, self._config.name, log):
                records["user histories"], complete = rewrite_histories(store, log, longest, write_cache, watch)
            else:
                written = write_histories(store, log, longest, write_cache, users, watch, histories_end)
                records["user histories"] = written
            if complete:
                note_settings(store, self._config.name, log)
            for name, produced in contents.knowledge.produced.items():
                records |= publication.write(name, produced, users)
        return records

    def write_spaces_of(self, live: str, users: Collection[int] | None) -> dict[str, Written]:
        """Write knowledge that only the ``live`` release reads, which stays: in its former space, or, if it is made no
        more, it lives on as it is."""
        records = {}
        with knowledge_publication(self._store, self._config, self._contents.log) as publication:
            made_no_more = {space.fingerprint: space for space in self._spaces_made_no_more(live)}
            for name, produced in self._contents.knowledge.produced.items():
                former = produced.former
                if former is not None and all(space.fingerprint in made_no_more for space in former.spaces):
                    for key, count in publication.write(name, former, users).items():
                        space = made_no_more.pop(spaces_of(former.spaces)[key])
                        records[f"{space.key}:{space.fingerprint}"] = count
            for space in made_no_more.values():
                records[f"{space.key}:{space.fingerprint}"] = publication.renew(space, users)
        return records

    def _spaces_made_no_more(self, live: str) -> list[Space]:
        """Spaces that a release reads and these contents do not have; none of a release that cannot be read."""
        try:
            manifest = release.read_manifest(self._store, live)
            read = release.read_model(self._store.artifacts / manifest.artifact).spaces
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
            nobody=self._nobody,
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
        changed |= _update_nobody(store, live, self._nobody)
        changed |= interrupted or items_changed(records)
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
            if changed or indexes.outdated(store, config.retrieval, release.read_manifest(store, live)):
                changed |= indexes.refreshed(store, config.retrieval, live, users)
        finally:
            changed |= snapshot.refreshed(store, live, parts)
    finally:
        release.end_change(store, live, changed)


def _update_nobody(store: Store, live: str, nobody: tuple[str, ...] | None) -> bool:
    """Let the live release's manifest list the ids that stand for nobody. True if it changed."""
    manifest = release.read_manifest(store, live)
    if manifest.nobody == nobody:
        return False
    release.write_manifest(store, manifest.model_copy(update={"nobody": nobody}))
    return True


def trained_files(report: TrainingReport) -> dict[str, str]:
    """Files of the trained model and of its parts, with their digests."""
    return _model_files(report.artifact, report.sha256, report.parts)


def _model_files(artifact: str, sha256: str, parts: Mapping[str, str]) -> dict[str, str]:
    folder = parts_folder(Path(artifact))
    return {artifact: sha256} | {str(folder / name): digest for name, digest in parts.items()}


def restore_trained(store: Store, models: Path, report: TrainingReport) -> None:
    """Put those of the trained model's files that are damaged or gone in the folder ``models`` there again, from what
    the services read. GateError if that is not whole either."""
    for name, digest in trained_files(report).items():
        path, copy = models / name, store.artifacts / name
        if (actual := file_digest(path)) == digest:
            continue
        if file_digest(copy) != digest:
            trouble = "is gone" if actual == "absent" else f"has digest {actual}, not {digest}"
            raise gate.GateError(
                f"model {path} cannot be published: {name} {trouble}, and there is no whole copy at {copy}: run "
                "`refresh` or `train --retrain`, which train it again"
            )
        write_bytes(path, copy.read_bytes())


def restore_live(store: Store, models: Path, live: str) -> None:
    """Put those of the live release's model files that are damaged or gone where the services look for them, if the
    folder ``models`` still has them. A release that cannot be read is left as it is."""
    if (manifest := release.manifest_or_none(store, live)) is not None:
        files = _model_files(manifest.artifact, manifest.artifact_sha256, manifest.parts)
        whole = {name: digest for name, digest in files.items() if file_digest(models / name) == digest}
        store_artifact(store, models, whole)


def store_artifact(store: Store, models: Path, files: Mapping[str, str]) -> None:
    """Put model files, digests by name, where the services look for them; damaged copies are replaced."""
    for name, digest in files.items():
        if file_digest(store.artifacts / name) != digest:
            write_bytes(store.artifacts / name, (models / name).read_bytes())
