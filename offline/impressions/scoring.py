"""What the service would have scored a logged request with: the exported model, fed by the contract's encoder.

A user is known at the moment of a request by the events before it, and by knowledge that was there by then: what
happens at the very moment or later is not seen. Items have the statistics and vectors of the last release before it;
after the training period these are frozen at its end, as everywhere. Unknown users and items are what they are to the
service.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from models.contract.arrays import FloatArray
from models.contract.encoding import ItemBatch, Tensors, UserBatch, encode
from models.contract.events import EVENT_DTYPE, EventArray, item_hash
from models.contract.items import ItemTable
from models.split_model import SCORE, WholeModel
from offline.data.catalogue import Catalogue, DataError
from offline.knowledge.vectors import Knowledge, as_published
from offline.progress import Progress
from offline.training.report import TrainingReport
from offline.training.samples import SampleEncoder

_DAY_MS = 86_400_000


@dataclass(frozen=True, slots=True)
class LoggedRequest:
    """A user, unix milliseconds, and the items that were shown."""

    user: str
    time_ms: int
    items: Sequence[str]


class RequestEncoder:
    """Logged requests as model inputs, with the item tables that a service had at their moments."""

    def __init__(
        self, encoder: SampleEncoder, catalogue: Catalogue, knowledge: Knowledge, report: TrainingReport
    ) -> None:
        log = encoder.log
        self._encoder, self._profiles, self._report = encoder, catalogue.users, report
        self._vectors = {spec.name: knowledge.users[spec.name] for spec in encoder.schema.user_knowledge}
        self._users = {user: at for at, user in enumerate(log.user_ids)}
        self._hashes = np.fromiter(map(item_hash, log.item_ids), np.uint64, len(log.item_ids))
        self._latest = np.maximum.accumulate(log.time_ms)  # rows that arrived late lie behind later ones
        self._tables: dict[tuple[int, int], ItemTable] = {}

    def tensors(self, request: LoggedRequest) -> Tensors:
        """Model inputs of the request: one user, and the items in the order shown."""
        row, schema = self._row(request.time_ms), self._encoder.schema
        table = self._table(row)
        events, knowledge = np.zeros(0, EVENT_DTYPE), dict[str, FloatArray]()
        at = self._users.get(request.user)
        if at is not None:
            events, seen_until = self._history(at, request.time_ms)
            knowledge = self._knowledge(at, min(row, seen_until))
        features = dict(self._profiles.get(request.user, {}))
        user = UserBatch.single(schema, table, features, events, knowledge, request.time_ms)
        return encode(schema, table, user, ItemBatch.gather(table, table.rows_of(request.items)))

    def seen_lately(self, request: LoggedRequest) -> list[bool]:
        """Whether each shown item is in an event of the user of the day before the request."""
        at = self._users.get(request.user)
        if at is None:
            return [False] * len(request.items)
        log, rows = self._encoder.log, self._encoder.index.of_user(at)
        lately = rows[(log.time_ms[rows] < request.time_ms) & (log.time_ms[rows] >= request.time_ms - _DAY_MS)]
        seen = {log.item_ids[item] for item in log.item[lately].tolist()}
        return [item in seen for item in request.items]

    def has_history(self, request: LoggedRequest) -> bool:
        """Whether the log has an event of the request's user before it."""
        at = self._users.get(request.user)
        return at is not None and len(self._history(at, request.time_ms)[0]) > 0

    def _row(self, time_ms: int) -> int:
        """The first log row that is not before a moment; after training, never one of the training period, whose
        statistics and knowledge the model was trained to read."""
        row = int(np.searchsorted(self._latest, time_ms))
        return max(row, self._report.trained_rows) if time_ms > self._report.trained_until_ms else row

    def _history(self, user: int, time_ms: int) -> tuple[EventArray, int]:
        """The last events of a user before a moment, oldest first, and the log row of the first that is not."""
        log, rows = self._encoder.log, self._encoder.index.of_user(user)
        late = np.flatnonzero(log.time_ms[rows] >= time_ms)
        end = int(late[0]) if len(late) else len(rows)
        seen = rows[max(0, end - self._encoder.schema.history_length) : end]
        events = np.zeros(len(seen), EVENT_DTYPE)
        events["item"], events["time_ms"] = self._hashes[log.item[seen]], log.time_ms[seen]
        events["value"] = log.value[seen]
        return events, int(rows[end]) if end < len(rows) else len(log)

    def _knowledge(self, user: int, row: int) -> dict[str, FloatArray]:
        """Vectors [versions, dim] of a user by producer, as a sample at a log row may see them."""
        known = {}
        for name, users in self._vectors.items():
            first = int(users.start[user])
            count = int(np.searchsorted(users.since[first : users.start[user + 1]], row))
            if count:
                last = users.vectors[first + max(0, count - users.space.rows) : first + count]
                known[name] = as_published(last, users.space)
        return known

    def _table(self, row: int) -> ItemTable:
        """The item table that a service had at a log row."""
        periods = self._encoder.releases, self._encoder.slices
        release, part = (int(np.searchsorted(period.from_row, row, side="right")) - 1 for period in periods)
        if (release, part) not in self._tables:
            self._tables[release, part] = replace(
                self._encoder.table, numeric=periods[0].values[release], vectors=periods[1].values[part]
            )
        return self._tables[release, part]


def score(model: WholeModel, encoder: RequestEncoder, requests: Sequence[LoggedRequest]) -> list[FloatArray]:
    """Scores of the items of each request, in the order shown. DataError if the model cannot be run on them."""
    scores: list[FloatArray] = []
    names = model.inputs
    with Progress("scoring", len(requests), "requests") as progress:
        for request in requests:
            tensors = encoder.tensors(request)
            try:
                scores.append(model.session.run([SCORE], {name: tensors[name] for name in names})[0])
            except Exception as error:  # ONNX Runtime has no common exception class
                raise DataError(f"model {model.artifact.model} cannot be run: {error}") from error
            if not np.isfinite(scores[-1]).all():
                raise DataError(f"model {model.artifact.model} gives scores that are no numbers")
            progress.advance()
    return scores
