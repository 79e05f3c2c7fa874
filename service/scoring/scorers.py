"""Scores of samples by ONNX sessions: of a whole model, or of one in parts whose items were computed before.

Knows sessions and the contract's encoder. Does not know files, manifests of releases or how a model is cut.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from models.contract.artifact import ArtifactManifest
from models.contract.encoding import (
    HISTORY_ITEM_INPUTS,
    ItemBatch,
    Tensors,
    encode,
    encode_histories,
    encode_items,
    encode_users,
    without_knowledge,
)
from models.contract.items import Allocate, Columns, IntArray, ItemTable
from models.contract.knowledge import FloatArray
from models.onnx_runtime import InferenceSession
from service.ranking.degraded import ScoringError
from service.ranking.types import Sample
from service.scoring.partial import HISTORY_ROWS, ITEM_ROWS

OUTPUT = "score"

INLINE_CANDIDATES = 256
"""Slates up to here are scored on the event loop, until somebody knows how long that takes."""

INLINE_SECONDS = 0.001
"""A run that is shorter costs less than moving it to a thread; a longer one would hold up other requests."""

INLINE_SECONDS_ALONE = 0.005
"""The same where a thread would only take the event loop's own core: until small requests wait noticeably."""

CHUNK = 2048
"""Items whose columns one run computes."""

log = logging.getLogger(__name__)


class OnnxScorer(ABC):
    """The port ``Scorer``. Safe for concurrent use. ``inline`` candidates are scored on the event loop at most."""

    inline = INLINE_CANDIDATES

    async def score(self, sample: Sample) -> FloatArray:
        """See the port. Longer slates run in a thread, where onnxruntime releases the interpreter lock."""
        # Nobody has measured slates of which a model in parts computes candidates anew.
        measured = sample.knowledge and sample.described is None
        most = self.inline if measured else min(self.inline, INLINE_CANDIDATES)
        return self.run(sample) if len(sample.rows) <= most else await asyncio.to_thread(self.run, sample)

    @abstractmethod
    def run(self, sample: Sample) -> FloatArray:
        """float32 [C], in the calling thread. ScoringError as in the port."""


class WholeScorer(OnnxScorer):
    """Scores by one session."""

    def __init__(self, session: InferenceSession, artifact: ArtifactManifest, table: ItemTable) -> None:
        self._session = session
        self._artifact = artifact
        self._table = table

    def run(self, sample: Sample) -> FloatArray:
        """See the base."""
        tensors = encode(
            self._artifact.feature_schema,
            self._table,
            sample.user,
            _items(self._table, sample),
            knowledge=sample.knowledge,
        )
        return _scores(self._session, {name: tensors[name] for name in self._artifact.inputs}, len(sample.rows))


@dataclass(frozen=True, slots=True)
class SideSession:
    """What computes the columns of one side of a model in parts."""

    session: InferenceSession
    inputs: tuple[str, ...]
    names: tuple[str, ...]

    @classmethod
    def on(cls, session: InferenceSession) -> SideSession:
        inputs, columns = session.get_inputs(), session.get_outputs()
        return cls(session, tuple(one.name for one in inputs), tuple(one.name for one in columns))

    def columns(self, tensors: Tensors) -> Columns:
        """Columns, by the names that the rest of the model takes them by, of rows of inputs. ScoringError as in the
        port."""
        found = _answers(self.session, self.names, {name: tensors[name] for name in self.inputs})
        return dict(zip(self.names, found, strict=True))

    def of_table(
        self, table: ItemTable, encode: Callable[[ItemTable, IntArray], Tensors], allocate: Allocate
    ) -> Columns:
        """Columns of all rows of a table."""
        made: Columns = {}
        for start in range(0, len(table), CHUNK):
            rows = np.arange(start, min(start + CHUNK, len(table)))
            for name, part in self.columns(encode(table, rows)).items():
                if name not in made:
                    made[name] = allocate(name, (len(table), *part.shape[1:]), part.dtype)
                made[name][rows] = part
        return made


@dataclass(frozen=True, slots=True)
class PartSessions:
    """A model in parts, without an item table."""

    items: SideSession
    history: SideSession | None
    rest: InferenceSession
    takes: tuple[str, ...]

    @classmethod
    def of(
        cls,
        items: InferenceSession,
        history: InferenceSession | None,
        rest: InferenceSession,
    ) -> PartSessions:
        takes = tuple(one.name for one in rest.get_inputs())
        return cls(SideSession.on(items), None if history is None else SideSession.on(history), rest, takes)

    def columns(self, table: ItemTable, allocate: Allocate) -> Columns:
        """Columns of all rows of a table, by the names that ``rest`` takes them by. Blocks for as long as it takes to
        compute them."""
        made = self.items.of_table(table, lambda table, rows: encode_items(ItemBatch.gather(table, rows)), allocate)
        return made | (self.history.of_table(table, _history_tensors, allocate) if self.history else {})


class PartialScorer(OnnxScorer):
    """Scores by a model in parts.

    What is not as in the table, described candidates and slates without knowledge, has its columns computed at once.
    """

    def __init__(self, parts: PartSessions, artifact: ArtifactManifest, table: ItemTable, columns: Columns) -> None:
        """``columns`` are those that the parts give for the table."""
        self._parts = parts
        self._schema = artifact.feature_schema
        self._table = table
        self._items = {name: columns[name] for name in parts.items.names}
        self._history = {name: columns[name] for name in parts.history.names} if parts.history else {}

    def run(self, sample: Sample) -> FloatArray:
        """See the base."""
        feed: dict[str, Any] = encode_users(self._schema, sample.user, self._parts.takes)
        if sample.knowledge:
            feed.update(self._history)
            feed[HISTORY_ROWS] = sample.user.history_rows[0]
        else:
            feed.update(without_knowledge(feed))
            feed.update(self._history_without_knowledge(sample))
            feed[HISTORY_ROWS] = np.arange(sample.user.history_rows.shape[1])
        if sample.knowledge and sample.described is None:
            feed.update(self._items)
            feed[ITEM_ROWS] = sample.rows
        else:
            feed.update(self._items_of(sample))
            feed[ITEM_ROWS] = np.arange(len(sample.rows))
        return _scores(self._parts.rest, {name: feed[name] for name in self._parts.takes}, len(sample.rows))

    def _history_without_knowledge(self, sample: Sample) -> Columns:
        if self._parts.history is None:
            return {}
        tensors = encode_histories(self._table, sample.user)
        return self._parts.history.columns(tensors | without_knowledge(tensors))

    def _items_of(self, sample: Sample) -> Columns:
        """Columns of the candidates, computed where they are not those of the table."""
        if not sample.knowledge:
            tensors = encode_items(_items(self._table, sample))
            return self._parts.items.columns(tensors | without_knowledge(tensors))
        assert sample.described is not None
        positions, fields = sample.described
        described = Sample(sample.user, sample.rows[positions], (np.arange(len(positions)), fields))
        found = {name: column[sample.rows] for name, column in self._items.items()}
        for name, rows in self._parts.items.columns(encode_items(_items(self._table, described))).items():
            found[name][positions] = rows
        return found


def _items(table: ItemTable, sample: Sample) -> ItemBatch:
    items = ItemBatch.gather(table, sample.rows)
    return items if sample.described is None else items.with_categorical(*sample.described)


def _history_tensors(table: ItemTable, rows: IntArray) -> Tensors:
    """Items as the entries of one history."""
    items = encode_items(ItemBatch.gather(table, rows))
    return {name: column[None] for name, column in zip(HISTORY_ITEM_INPUTS, items.values(), strict=True)}


def _answers(session: InferenceSession, outputs: Sequence[str], feed: Mapping[str, Any]) -> list[np.ndarray[Any, Any]]:
    try:
        found: list[np.ndarray[Any, Any]] = session.run(list(outputs), feed)
    except Exception as error:  # onnxruntime has no common exception class
        log.exception("the model failed")
        raise ScoringError(str(error)) from error
    return found


def _scores(session: InferenceSession, feed: Mapping[str, Any], count: int) -> FloatArray:
    (scores,) = _answers(session, [OUTPUT], feed)
    if scores.shape != (count,) or not np.isfinite(scores).all():
        log.error("the model gave scores of shape %s for %d candidates, or not finite", scores.shape, count)
        raise ScoringError("scores are not one finite number per candidate")
    return np.asarray(scores, np.float32)
