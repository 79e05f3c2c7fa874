"""Scores of samples by ONNX sessions: of a whole model, or of one in parts whose items were computed before.

Knows sessions and the contract's encoder. Does not know files, manifests of releases or how a model is cut.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime

from models.contract.artifact import ArtifactManifest
from models.contract.encoding import (
    HISTORY_ITEM_INPUTS,
    ItemBatch,
    Tensors,
    encode,
    encode_histories,
    encode_users,
    without_knowledge,
)
from models.contract.items import IntArray, ItemTable
from models.contract.knowledge import FloatArray
from service.errors import ScoringError
from service.ranking.types import Sample
from service.scoring.partial import HISTORY_ROWS, ITEM_ROWS, Parts, Side

OUTPUT = "score"

INLINE_CANDIDATES = 256
INLINE_CANDIDATES_IN_PARTS = 1000
"""Up to here a run is shorter than what moving it to a thread costs; beyond, it would hold up other requests."""

CHUNK = 8192
"""Items whose columns one run computes."""

Columns = dict[str, "np.ndarray[Any, Any]"]

log = logging.getLogger(__name__)


class WholeScorer:
    """The port ``Scorer`` on one session. Safe for concurrent use."""

    def __init__(self, session: onnxruntime.InferenceSession, artifact: ArtifactManifest, table: ItemTable) -> None:
        self._session = session
        self._artifact = artifact
        self._table = table

    async def score(self, sample: Sample) -> FloatArray:
        """See the port. Long slates run in a thread, where onnxruntime releases the interpreter lock."""
        if len(sample.rows) <= INLINE_CANDIDATES:
            return self.run(sample)
        return await asyncio.to_thread(self.run, sample)

    def run(self, sample: Sample) -> FloatArray:
        """float32 [C], in the calling thread. ScoringError as in the port."""
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

    session: onnxruntime.InferenceSession
    side: Side

    def columns(self, tensors: Tensors) -> Columns:
        """Columns, by the names that the rest of the model takes them by, of rows of inputs."""
        found = self.session.run(list(self.side.columns), {name: tensors[name] for name in self.side.inputs})
        return dict(zip(self.side.columns, found, strict=True))

    def of_table(self, table: ItemTable, encode: Callable[[ItemTable, IntArray], Tensors]) -> Columns:
        """Columns of all rows of a table."""
        made: Columns = {}
        for start in range(0, len(table), CHUNK):
            rows = np.arange(start, min(start + CHUNK, len(table)))
            for name, part in self.columns(encode(table, rows)).items():
                if name not in made:
                    made[name] = np.empty((len(table), *part.shape[1:]), part.dtype)
                made[name][rows] = part
        return made


@dataclass(frozen=True, slots=True)
class PartSessions:
    """A model in parts, without an item table."""

    items: SideSession
    history: SideSession | None
    rest: onnxruntime.InferenceSession
    takes: tuple[str, ...]

    @classmethod
    def of(cls, parts: Parts, session: Callable[[bytes], onnxruntime.InferenceSession]) -> PartSessions:
        history = None if parts.history is None else SideSession(session(parts.history.graph), parts.history)
        rest = session(parts.rest)
        takes = tuple(one.name for one in rest.get_inputs())
        return cls(SideSession(session(parts.items.graph), parts.items), history, rest, takes)


class PartialScorer:
    """The port ``Scorer`` on a model in parts. Safe for concurrent use.

    What is not as in the table, described candidates and slates without knowledge, has its columns computed at once.
    """

    def __init__(self, parts: PartSessions, artifact: ArtifactManifest, table: ItemTable) -> None:
        """Blocks for as long as the columns of all items take to compute."""
        self._parts = parts
        self._schema = artifact.feature_schema
        self._table = table
        self._items = parts.items.of_table(table, lambda table, rows: _item_tensors(ItemBatch.gather(table, rows)))
        self._history = parts.history.of_table(table, _history_tensors) if parts.history else {}

    async def score(self, sample: Sample) -> FloatArray:
        """See the port. Long slates run in a thread, where onnxruntime releases the interpreter lock."""
        if len(sample.rows) <= INLINE_CANDIDATES_IN_PARTS:
            return self.run(sample)
        return await asyncio.to_thread(self.run, sample)

    def run(self, sample: Sample) -> FloatArray:
        """float32 [C], in the calling thread. ScoringError as in the port."""
        feed: dict[str, Any] = encode_users(self._schema, sample.user, self._parts.takes)
        history, history_rows = self._history, sample.user.history_rows[0]
        items, item_rows = self._items, sample.rows
        if not sample.knowledge:
            feed.update(without_knowledge(feed))
            if self._parts.history is not None:
                tensors = encode_histories(self._table, sample.user)
                history = self._parts.history.columns(tensors | without_knowledge(tensors))
                history_rows = np.arange(len(history_rows))
        if not sample.knowledge or sample.described is not None:
            tensors = _item_tensors(_items(self._table, sample))
            if not sample.knowledge:
                tensors.update(without_knowledge(tensors))
            items, item_rows = self._parts.items.columns(tensors), np.arange(len(item_rows))
        feed.update(items)
        feed.update(history)
        feed[ITEM_ROWS], feed[HISTORY_ROWS] = item_rows, history_rows
        return _scores(self._parts.rest, {name: feed[name] for name in self._parts.takes}, len(item_rows))


def _items(table: ItemTable, sample: Sample) -> ItemBatch:
    items = ItemBatch.gather(table, sample.rows)
    return items if sample.described is None else items.with_categorical(*sample.described)


def _item_tensors(items: ItemBatch) -> Tensors:
    return {
        "item_index": items.index,
        "item_categorical": items.categorical,
        "item_numeric": items.numeric,
        "item_vectors": items.vectors,
    }


def _history_tensors(table: ItemTable, rows: IntArray) -> Tensors:
    """Items as the entries of one history."""
    items = _item_tensors(ItemBatch.gather(table, rows))
    return {name: column[None] for name, column in zip(HISTORY_ITEM_INPUTS, items.values(), strict=True)}


def _scores(session: onnxruntime.InferenceSession, feed: Mapping[str, Any], count: int) -> FloatArray:
    try:
        (scores,) = session.run([OUTPUT], feed)
    except Exception as error:  # onnxruntime has no common exception class
        log.exception("the model failed")
        raise ScoringError(str(error)) from error
    if scores.shape != (count,) or not np.isfinite(scores).all():
        log.error("the model gave scores of shape %s for %d candidates, or not finite", scores.shape, count)
        raise ScoringError("scores are not one finite number per candidate")
    return np.asarray(scores, np.float32)
