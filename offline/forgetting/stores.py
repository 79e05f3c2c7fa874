"""The stores of the work folder that users are in: the one list by which they are forgotten and exported."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from models.contract.requests import Records
from offline.data.log import InteractionLog
from offline.forgetting import archives, contents, journal, rows
from offline.jobs.steps import Job
from offline.publish.erasure import Removed


@dataclass(frozen=True, slots=True)
class WorkStore:
    """One store, or several that change together.

    remove   removes users until their times (unix ms), and counts their records by name
    records  what there is of one user, readable, under the names by which ``remove`` counts

    Both get the log, empty where there is none, and change nothing else. CacheError, JournalError and DataError for a
    store that is damaged.
    """

    remove: Callable[[Job, InteractionLog, Mapping[str, int], Removed], None]
    records: Callable[[Job, InteractionLog, str], Records]


WORK_STORES = (
    WorkStore(journal.remove_half_written, journal.half_written_records),
    WorkStore(contents.remove_contents, contents.content_records),
    WorkStore(journal.remove_from_journal, journal.journal_records),
    WorkStore(journal.remove_from_write_cache, journal.write_cache_records),
    WorkStore(journal.remove_from_bad_rows, journal.bad_row_records),
    WorkStore(journal.remove_from_ledger, journal.ledger_records),
    WorkStore(archives.remove_from_archives, archives.archive_records),
    WorkStore(journal.remove_reranker_scores, journal.reranker_score_records),
    WorkStore(rows.remove_from_copies, rows.copy_records),
    WorkStore(rows.remove_rows, rows.row_records),
)
"""The log is last, because what is found by its rows and numbers must go before."""
