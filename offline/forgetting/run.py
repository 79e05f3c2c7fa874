"""The step ``forget``: users who have a tombstone that was not carried out in this work folder leave all that it
stores, and receipts say so.

Every job that writes or publishes begins with it, before anything else reads the log. Each store is told apart from the
others and may be cleaned again; that it is done is noted last, so a run that is killed anywhere is completed by the
next.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from contextlib import suppress

from models.contract.forgetting import EVERYTHING_MS, Tombstone
from models.contract.requests import JobRequest, RequestKind, RequestState
from offline.data.catalogue import DataError
from offline.data.log import InteractionLog
from offline.data.rules import counted
from offline.forgetting import rows
from offline.jobs.runs import Run
from offline.jobs.steps import Job
from offline.publish.connection import Store
from offline.publish.erasure import Removed, erase_users, rewrite_files, rewrite_streams
from offline.publish.requests import change_request, drop_ended, open_requests, remove_requests
from offline.publish.tombstones import ForgottenUsers, synchronise, write_tombstones
from offline.training.retraining import Retraining

_SOURCE = "the source files are yours: remove the user there; the tombstone keeps their rows out until then"
_BACKUPS = "backups of Redis and of the work folder hold former states until they are replaced"
_AGGREGATES = (
    "models, codebooks and projections were made of everybody's interactions: the next training is without the user "
    "(`python -m offline status`, line `retraining`)"
)


def forget_users(run: Run, store: Store | None, at_once: Collection[str] = ()) -> Removed:
    """Carry out what is new; numbers of removed records by user and store. ``store`` None: no Redis was ever there.
    ``at_once``: users who have just got their tombstones, so that all that Redis holds of them is older.

    CacheError, JournalError and DataError for stores that are damaged, LockedError if a job goes on reading streams, or
    a replay goes on: no receipt is done then, and the next run completes it.
    """
    job = run.job
    known = synchronise(store, job.config.workdir)  # first: where nobody can tell who is forgotten nothing is changed
    rows.finish_removal(job)
    if store is not None:
        drop_ended(store)
    requests = [] if store is None else [each for each in open_requests(store) if each.kind is RequestKind.FORGET]
    if store is not None:
        _write_lost(store, known, requests)
    forgotten = synchronise(store, job.config.workdir)
    log, removed = InteractionLog.empty(), Removed()
    if (forgotten.has_pending or requests or len(forgotten.salts) > 1) and InteractionLog.is_saved(job.log):
        log = InteractionLog.load(job.log)
        forgotten = synchronise(store, job.config.workdir, log.user_ids)
    # A request may come after its tombstone was carried out, which knew the user by no name then.
    if forgotten.has_pending or requests:
        from offline.forgetting.journal import without_replay

        with run.step("forget") as watch, without_replay(job, store):
            _set_state(store, requests, RequestState.RUNNING)
            until_ms = _pending(job, forgotten, log, requests)
            in_redis = until_ms | {user: EVERYTHING_MS for user in at_once if user in until_ms}
            if store is not None:
                removed.update(erase_users(store, in_redis))
                # Of whom no service has said what it removed, it may have been stopped before it removed requests.
                unsaid = [each.user_id for each in requests if each.user_id is not None and not each.remaining]
                remove_requests(store, until_ms, {*at_once, *unsaid})
            notes = _carry_out(job, store, until_ms, log, removed)
            forgotten.all_done().save(job.config.workdir)
            watch.done(f"{counted(len(until_ms), 'user')} removed, {removed_line(removed)}")
    else:
        notes = []
    if store is not None:
        _close(store, job, requests, removed, notes)
    if job.config.retention.exposure_days is not None:
        from offline.forgetting.archives import end_exposures

        if ended := end_exposures(job, store):
            print(f"  retention: {counted(ended, 'row')} of exposures and interactions ended", flush=True)
    return removed


def removed_line(removed: Removed) -> str:
    """Numbers by store, for people."""
    stores = _by_store(removed)
    return ", ".join(f"{count:,} {store}" for store, count in sorted(stores.items())) or "nothing was stored of them"


def _write_lost(store: Store, known: ForgottenUsers, requests: list[JobRequest]) -> None:
    """Write the tombstones of those whose requests are there and who have none, because Redis lost them."""
    lost = {each.user_id: each.asked_ms for each in requests if each.user_id and known.of(each.user_id) is None}
    if lost:
        write_tombstones(store, {user: Tombstone(forgotten_ms=asked_ms) for user, asked_ms in lost.items()})


def _pending(job: Job, forgotten: ForgottenUsers, log: InteractionLog, requests: list[JobRequest]) -> dict[str, int]:
    """The users whose tombstones are to be carried out, as far as any store or request names them; nothing of theirs
    may stay until these times (unix ms)."""
    from offline.forgetting.archives import archived_users
    from offline.forgetting.journal import journaled_users

    names = {*log.user_ids, *(each.user_id for each in requests if each.user_id is not None)}
    names |= archived_users(job) | journaled_users(job) | rows.imported_users(job)
    for folder in rows.former_logs(job):
        with suppress(DataError):  # one that cannot be read goes as a whole
            names.update(InteractionLog.load(folder).user_ids)
    tombstones = {name: forgotten.pending(name) for name in sorted(names)}
    tombstones |= {each.user_id: forgotten.of(each.user_id) for each in requests if each.user_id is not None}
    return {name: tombstone.until_ms for name, tombstone in tombstones.items() if tombstone is not None}


def _carry_out(
    job: Job, store: Store | None, until_ms: Mapping[str, int], log: InteractionLog, removed: Removed
) -> list[str]:
    """Remove the users from every store; sentences about what could not be told."""
    from offline.forgetting.contents import note_owners
    from offline.forgetting.stores import WORK_STORES

    notes = [note_owners(job)] if rows.numbers_of(log, until_ms) else []
    for work_store in WORK_STORES:
        work_store.remove(job, log, until_ms, removed)
    if store is not None:
        notes += [rewrite_streams(store), rewrite_files(store)]
    return [note for note in notes if note]


def _set_state(store: Store | None, requests: list[JobRequest], state: RequestState) -> None:
    if store is not None:
        for request in requests:
            change_request(store, request.changed(state))


def _close(store: Store, job: Job, requests: list[JobRequest], removed: Removed, notes: list[str]) -> None:
    """Let receipts say what was removed and what is left."""
    models = [_AGGREGATES] if Retraining.load(job.config.workdir).users else []
    for request in requests:
        of_user = Removed({key: count for key, count in removed.items() if key[0] == request.user_id})
        total = Counter(request.removed) + _by_store(of_user)
        left = (*notes, _SOURCE, _BACKUPS, *models)
        change_request(store, request.changed(RequestState.DONE, removed=dict(total), remaining=left))


def _by_store(removed: Removed) -> Counter[str]:
    stores = Counter[str]()
    for (_, store), count in removed.items():
        stores[store] += count
    return +stores
