"""A CTR model as ONNX graphs: as a whole, or split where the user comes in, opened from the files of one folder.

Most of a model's work on a candidate needs nothing but the item. Two graphs compute that once for the rows of an item
table, as columns: of items as candidates, and of items as events of a history. The request graph takes rows of these
columns and what is known of the user. models/ctr/split.py makes the files at export, the jobs publish them, the service
opens them. Knows their names and inputs. Does not know where item tables come from.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from models.contract.arrays import FloatArray, IntArray
from models.contract.artifact import ArtifactError, ArtifactManifest
from models.contract.encoding import (
    HISTORY_ITEM_INPUTS,
    ItemBatch,
    Sample,
    Tensors,
    encode,
    encode_histories,
    encode_items,
    encode_users,
    without_knowledge,
)
from models.contract.items import Columns, ItemTable
from models.onnx_runtime import InferenceSession, open_session

ITEM_GRAPH, HISTORY_GRAPH, REQUEST_GRAPH = "items.onnx", "history.onnx", "request.onnx"
WEIGHTS = "weights.bin"
"""The file of the large weights of all graphs, which ONNX Runtime maps: processes and graphs share one copy of them."""

SCORE = "score"
"""Output of a whole model and of a request graph: float32 [C]."""

ITEM_ROWS, HISTORY_ROWS = "item_rows", "history_rows"
"""Inputs of the request graph: int64 [C] and [T], rows of the columns."""

CHUNK = 2048
"""Items whose columns one run computes."""


def parts_folder(artifact: Path) -> Path:
    """The folder of the parts of a model, beside its file."""
    return artifact.with_name(f"{artifact.name}.parts")


@dataclass(frozen=True, slots=True)
class WholeModel:
    """A model in one graph. Safe for concurrent use."""

    artifact: ArtifactManifest
    session: InferenceSession

    @classmethod
    def open(cls, graph: bytes | Path, threads: int, *, cuda: bool = False) -> WholeModel:
        """The model in an ONNX file. ArtifactError if it has no manifest that is understood; any error of ONNX Runtime.
        Blocks."""
        session = open_session(graph, threads, cuda=cuda)
        return cls(ArtifactManifest.from_metadata(session.get_modelmeta().custom_metadata_map), session)

    @property
    def inputs(self) -> frozenset[str]:
        """Names of the graph's inputs."""
        return frozenset(cell.name for cell in self.session.get_inputs())

    def scores(self, sample: Sample, table: ItemTable, columns: Columns) -> FloatArray:
        """Scores [C] of a sample of ``table``; no columns of it are needed. Any error of ONNX Runtime."""
        schema, items = self.artifact.feature_schema, sample.items(table)
        tensors = encode(schema, table, sample.user, items, knowledge=sample.knowledge)
        scores: FloatArray = self.session.run([SCORE], {name: tensors[name] for name in self.artifact.inputs})[0]
        return scores


@dataclass(frozen=True, slots=True)
class ColumnGraph:
    """A graph that computes columns, ``names``, from rows of ``inputs``."""

    session: InferenceSession
    inputs: tuple[str, ...]
    names: tuple[str, ...]

    @classmethod
    def open(cls, graph: Path, threads: int) -> ColumnGraph:
        session = open_session(graph, threads)
        inputs, outputs = session.get_inputs(), session.get_outputs()
        return cls(session, tuple(cell.name for cell in inputs), tuple(cell.name for cell in outputs))

    def columns(self, tensors: Tensors) -> Columns:
        """Arrays [rows, ..] by name, of the rows of ``tensors``. ArtifactError if the graph fails."""
        try:
            outputs = self.session.run(list(self.names), {name: tensors[name] for name in self.inputs})
        except Exception as error:  # onnxruntime has no common exception class
            raise ArtifactError(f"columns of items cannot be computed: {error}") from error
        return dict(zip(self.names, outputs, strict=True))


@dataclass(frozen=True, slots=True)
class SplitModel:
    """The graphs of a split model. Safe for concurrent use. ``history`` is None of a model that computes nothing of the
    items in histories before a request; ``takes`` are the inputs of the request graph."""

    artifact: ArtifactManifest
    items: ColumnGraph
    history: ColumnGraph | None
    request: InferenceSession
    takes: tuple[str, ...]

    @classmethod
    def open(cls, folder: Path, threads: int, files: Collection[str] | None = None) -> SplitModel:
        """The model whose ``files`` are in ``folder``; None: all that are there. ArtifactError if its manifest is not
        understood; any error of ONNX Runtime if a file is absent or damaged. Blocks; digests are the caller's to
        verify."""
        request = open_session(folder / REQUEST_GRAPH, threads)
        history = folder / HISTORY_GRAPH
        has_history = history.exists() if files is None else HISTORY_GRAPH in files
        return cls(
            ArtifactManifest.from_metadata(request.get_modelmeta().custom_metadata_map),
            ColumnGraph.open(folder / ITEM_GRAPH, threads),
            ColumnGraph.open(history, threads) if has_history else None,
            request,
            tuple(cell.name for cell in request.get_inputs()),
        )

    @property
    def inputs(self) -> frozenset[str]:
        """The whole model's inputs that the graphs take."""
        sides = [self.items, *([self.history] if self.history else [])]
        columns = {name for side in sides for name in side.names}
        return frozenset(self.takes).union(*(side.inputs for side in sides)) - columns - {ITEM_ROWS, HISTORY_ROWS}

    def columns(self, table: ItemTable, rows: IntArray) -> Columns:
        """Columns of these ``rows`` of an item table, by name, each an array [len(rows), ..]. ArtifactError if a graph
        fails. One run, so a few thousand rows at most."""
        items = encode_items(ItemBatch.gather(table, rows))
        columns = self.items.columns(items)
        if self.history is not None:  # the items as the events of one history
            columns |= self.history.columns(
                {name: cells[None] for name, cells in zip(HISTORY_ITEM_INPUTS, items.values(), strict=True)}
            )
        return columns

    def table_columns(self, table: ItemTable, spare: int = 0) -> Columns:
        """Columns of all rows of an item table, the unknown item's included, and so many ``spare`` rows of zeros.
        Blocks for as long as it takes to compute them; ArtifactError if a graph fails."""
        columns: Columns = {}
        for start in range(0, len(table), CHUNK):
            rows = np.arange(start, min(start + CHUNK, len(table)))
            for name, cells in self.columns(table, rows).items():
                if name not in columns:
                    columns[name] = np.zeros((len(table) + spare, *cells.shape[1:]), cells.dtype)
                columns[name][rows] = cells
        return columns

    def completed(self, columns: Columns, items: int) -> Columns:
        """The columns of a snapshot of ``items``, with those that the graphs give for its rows, spare rows included.
        As ``table_columns``."""
        spare = len(columns["index"]) - items - 1
        return columns | self.table_columns(ItemTable.of(columns, items), spare)

    def scores(self, sample: Sample, table: ItemTable, columns: Columns) -> FloatArray:
        """Scores [C] of a sample of ``table``, of which ``columns`` are the columns. Those of what is not as in the
        table, described candidates and slates without knowledge, are computed at once. Any error of ONNX Runtime."""
        schema, rows, events = self.artifact.feature_schema, sample.rows, sample.user.history_rows[0]
        tensors = encode_users(schema, sample.user, self.takes)
        if not sample.knowledge:
            tensors |= encode_histories(table, sample.user) | encode_items(sample.items(table))
            tensors |= without_knowledge(tensors)
            columns = self.items.columns(tensors) | (self.history.columns(tensors) if self.history else {})
            rows, events = np.arange(len(rows)), np.arange(len(events))
        elif sample.described is not None:
            columns = columns | self._described(table, columns, rows, sample.described)
            rows = np.arange(len(rows))
        feed: dict[str, Any] = {**tensors, **columns, HISTORY_ROWS: events, ITEM_ROWS: rows}
        scores: FloatArray = self.request.run([SCORE], {name: feed[name] for name in self.takes})[0]
        return scores

    def _described(
        self, table: ItemTable, columns: Columns, rows: IntArray, described: tuple[IntArray, IntArray]
    ) -> Columns:
        """Columns of candidates, computed for those that are described."""
        positions, fields = described
        items = ItemBatch.gather(table, rows[positions]).with_categorical(np.arange(len(positions)), fields)
        merged = {name: columns[name][rows] for name in self.items.names}
        for name, cells in self.items.columns(encode_items(items)).items():
            merged[name][positions] = cells
        return merged
