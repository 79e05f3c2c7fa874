"""One producer alone: its records published within the live release, and taken back."""

from __future__ import annotations

from functools import partial

from offline.data.catalogue import DataError
from offline.data.log import InteractionLog
from offline.jobs.runs import Run
from offline.jobs.since import recent_users
from offline.knowledge.vectors import Knowledge
from offline.publish.connection import Store
from offline.publish.producer import rollback_producer
from offline.publish.publish import Published, end_change, publish_producer
from offline.publish.undo import JOURNAL_FILE, Journal


def publish_one(
    run: Run, store: Store, log: InteractionLog, knowledge: Knowledge, name: str, *, return_to: bool = False
) -> Published:
    """One producer's changed records, within the live release."""
    if name not in knowledge.produced:
        raise DataError(f"{name} has made nothing yet: run `refresh` or `knowledge` first")
    with run.step(f"publish: {name}") as watch:
        config, users = run.job.config, recent_users(run.job, log)
        published = publish_producer(
            config, store, log, knowledge.produced[name], name, users=users, return_to=return_to
        )
        run.published(published)
        watch.done(f"live: {published.release}, as before")
        return published


def roll_back_one(run: Run, store: Store, name: str) -> None:
    """Take back a producer's last publication within the live release; it stays held until `publish --return`."""
    with run.step(f"rollback: {name}") as watch, Journal(run.job.config.workdir / JOURNAL_FILE) as journal:
        result = rollback_producer(store, journal, name, partial(end_change, run.job.config, store))
        run.record.release = result.release
        run.record.records["restored"] = {"written": result.restored, "unchanged": result.left, "bytes": result.size}
        watch.done(
            f"{', '.join(result.spaces)}: {result.restored} records restored, {result.removed} removed, "
            f"{result.left} left as they are"
        )
