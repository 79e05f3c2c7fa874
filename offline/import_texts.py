"""Ready-made knowledge texts taken over from files; producers read them in place of the language model's answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from offline import refresh as pipeline
from offline.data.arrival import OF_FORGOTTEN
from offline.data.rules import Findings, counted
from offline.data.texts_import import ImportedTexts, read_item_texts, read_user_texts
from offline.forgetting.run import forget_users
from offline.jobs.runs import Run
from offline.knowledge.knowledge_texts import closing
from offline.knowledge.liber.partitions import close_partitions
from offline.publish.connection import store_if_there
from offline.publish.tombstones import ForgottenUsers


def import_texts(run: Run, items: Path | None, users: Path | None) -> ImportedTexts:
    """Add the texts in the files to those that were imported before. DataError, and nothing is taken over, if a file
    breaks a rule.

    What the service streamed so far is read first: those interactions came before the texts, whose authors may have
    seen them, so they must not be samples that see the texts.
    """
    job = run.job
    with store_if_there(job.data_dir, job.config.name) as store:
        forget_users(run, store)
        source, catalogue = pipeline.data(run)
        log = pipeline.events(run, source, catalogue, store)
    with run.step("import") as watch:
        texts = ImportedTexts.load(job.imported)
        if items is not None:
            of_items, findings = read_item_texts(items, log.item_ids)
            texts = texts.with_items(of_items)
            _tell(findings)
        if users is not None:
            trigger = job.config.knowledge.liber.trigger
            partitions = close_partitions(log, trigger)
            closed = dict(zip(log.user_ids, np.diff(partitions.start).tolist(), strict=True))
            of_users, findings = read_user_texts(users, closed)
            _tell(findings)
            placed = texts.placed()
            if gone := len(texts.users) - len(placed.users):
                print(f"  warning: texts about partitions that did not say what closed them are dropped: {gone}")
            forgotten = ForgottenUsers.load(job.config.workdir)  # a text tells no time, as a profile does not
            allowed = {owner: text for owner, text in of_users.items() if forgotten.of(owner[0]) is None}
            if left_out := len(of_users) - len(allowed):
                print(f"  left out: {counted(left_out, 'text')} {OF_FORGOTTEN}")
            texts = placed.with_users(allowed, len(log), closing(trigger))
        texts.save(job.imported)
        watch.done(f"{len(texts.items)} items' and {len(texts.users)} users' texts are imported")
        return texts


def _tell(findings: Findings) -> None:
    for label, lines in (("fact", findings.facts), ("warning", findings.warnings)):
        for line in lines:
            print(f"  {label}: {line}")
