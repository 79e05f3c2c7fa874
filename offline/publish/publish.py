"""Stage, gate, switch: how a trained model and its knowledge become the release that is served."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass

from models.contract.artifact import RefusedModel
from models.contract.keys import PREFIXES
from offline.config import JobConfig
from offline.data.log import InteractionLog
from offline.knowledge.vectors import Produced
from offline.publish import gate, release, snapshot
from offline.publish.comparison import NewModel, check_acceptable, refusal
from offline.publish.connection import Store
from offline.publish.producer import held_of, knowledge_publication, let_go, served, spaces_of
from offline.publish.records import Written
from offline.publish.staging import (
    Contents,
    Staging,
    end_change,
    items_changed,
    restore_live,
    restore_trained,
    store_artifact,
    trained_files,
)
from offline.publish.undo import installation


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
    staging, report = Staging(config, store, contents), contents.report
    restore_trained(store, contents.models, report)
    artifact = gate.check_model(contents.models / report.artifact, staging.schema, contents.knowledge.spaces)
    if accept:
        check_acceptable(store, staging.release_id)
    store_artifact(store, contents.models, trained_files(report))
    if live is not None and live != staging.release_id:
        restore_live(store, contents.models, live)
    installation(store)
    store.redis.sadd(PREFIXES, store.keys.prefix)
    if return_to:
        let_go(store, spaces_of(contents.knowledge.spaces))
    was_withdrawn = staging.release_id in release.withdrawn(store)
    may_go_live = live != staging.release_id and (return_to or is_taken_over or not was_withdrawn)
    refused: RefusedModel | None = None
    notes: tuple[str, ...] = ()
    if may_go_live and not (accept or was_withdrawn or is_taken_over):
        new = NewModel(staging.release_id, contents.models / report.artifact, artifact)
        refused, notes = refusal(store, config, new, live, staging.validation_samples)
    interrupted = live is not None and release.begin_change(store, live)
    stays = live if refused is not None or not may_go_live else None
    records = staging.write_shared(users)
    held_back = held_of(store, contents.knowledge.spaces)
    if stays is not None:
        records |= staging.write_spaces_of(stays, users)
        staging.keep_current(stays, records, interrupted)
        release.note_refused(store, refused)
        return Published(staging.release_id, stays, False, records, [], held_back, refused, notes)
    # Two releases may be of one space: what was written for the new one may have changed the live one's item table.
    shared_changed = interrupted or items_changed(records)
    try:
        records |= staging.stage_and_switch(live, artifact)
    except gate.GateError:
        if live is not None:  # the new release is held back, and nothing else; what else may be wrong is not the cause
            records |= staging.write_spaces_of(live, users)
            with suppress(gate.GateError):
                staging.keep_current(live, records, shared_changed)
            shared_changed = False
        raise
    finally:
        if live is not None:
            release.end_change(store, live, shared_changed)
    release.note_refused(store, None)
    pruned = release.prune(store, config.publish.keep_releases)
    snapshot.prune(store)
    return Published(staging.release_id, live, True, records, pruned, held_back, notes=notes)


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
    """Write one producer's changed records within the live release, in its current space or the former one, and
    nothing else.

    GateError if the live release reads other spaces of it, SwitchError if it is another configuration's. See
    ``publish`` for the options.
    """
    release.refuse_another(store, config.name)
    if produced.former is not None and served(store, name) == spaces_of(produced.former.spaces):
        produced = produced.former
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
    end_change(config, store, live, interrupted or items_changed(records), log.user_ids)
    return Published(live, live, False, records, [], held_of(store, produced.spaces))
