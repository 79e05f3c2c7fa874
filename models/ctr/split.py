"""A CTR model in parts as files, and the rehearsal that proves that they give the scores of the whole.

The files are what models/split_model.py opens. Knows ONNX files and the contract's tensors. Does not know what happens
to the files, nor where the cut is (models/ctr/cut.py).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import GraphProto, TensorProto, numpy_helper

from models.contract.encoding import Sample, UserBatch
from models.contract.events import EVENT_DTYPE
from models.contract.items import ItemTable
from models.contract.schema import FeatureSchema
from models.ctr.cut import UncutError, cut
from models.split_model import REQUEST_GRAPH, WEIGHTS, SplitModel, WholeModel

TOLERANCE = 1e-3
"""By how much scores of a model in parts may differ from those of the whole, as a share of their standard deviation
over candidates; beside it counts what single precision cannot tell."""
_PRECISION, _LEAST_SPREAD = 2e-7, 1e-6

_LARGE_BYTES = 65_536
"""Smaller weights stay in their graph, where ONNX Runtime may fold them into others."""

_PAGE = 4096


def split(content: bytes) -> dict[str, bytes]:
    """The files of the parts of an ONNX model whose inputs are the contract's, by name. UncutError if it cannot be cut.
    The model's manifest is in the request graph, too."""
    model = onnx.load_model_from_string(content)
    graphs = cut(model)
    graphs[REQUEST_GRAPH].metadata_props.extend(model.metadata_props)
    weights = _Weights()
    for graph in graphs.values():
        weights.take_out(graph.graph)
    files = {name: bytes(graph.SerializeToString()) for name, graph in graphs.items()}
    return files | ({WEIGHTS: bytes(weights.content)} if weights.content else {})


class _Weights:
    """The large weights of several graphs, each once, every one from the beginning of a page of one file."""

    def __init__(self) -> None:
        self.content = bytearray()
        self._places: dict[str, tuple[int, int]] = {}

    def take_out(self, graph: GraphProto) -> None:
        """Replace a graph's large weights by their places in the file."""
        for weight in graph.initializer:
            if weight.ByteSize() > _LARGE_BYTES:
                offset, length = self._place(weight)
                bare = TensorProto(name=weight.name, data_type=weight.data_type, dims=weight.dims)
                bare.data_location = TensorProto.EXTERNAL
                for key, value in (("location", WEIGHTS), ("offset", str(offset)), ("length", str(length))):
                    bare.external_data.add(key=key, value=value)
                weight.CopyFrom(bare)

    def _place(self, weight: TensorProto) -> tuple[int, int]:
        if weight.name not in self._places:
            cells = numpy_helper.to_array(weight).tobytes()
            self.content += bytes(-len(self.content) % _PAGE)
            self._places[weight.name] = len(self.content), len(cells)
            self.content += cells
        return self._places[weight.name]


def rehearse(content: bytes, folder: Path) -> None:
    """UncutError unless the parts in ``folder`` give the scores of the model in ``content``, and these differ among
    candidates. Both score made-up users with and without a history, with knowledge and without, for one candidate and
    several, known ones and described ones."""
    whole, parts = WholeModel.open(content, 1), SplitModel.open(folder, 1)
    table, samples = rehearsal(whole.artifact.feature_schema, whole.artifact.item_rows)
    columns = parts.table_columns(table)
    scores = [(whole.scores(sample, table, {}), parts.scores(sample, table, columns)) for sample in samples]
    spread = float(np.median([expected.std() for expected, _ in scores if len(expected) > 1]))
    difference = float(np.max([np.abs(expected - other).max() for expected, other in scores]))
    if spread <= _LEAST_SPREAD:
        raise UncutError("its scores do not tell made-up candidates apart")
    if not difference <= TOLERANCE * spread + _PRECISION:  # nor if it is not a number
        raise UncutError(f"scores of its parts differ by {difference:.1e}, among candidates by {spread:.1e}")


def rehearsal(schema: FeatureSchema, item_rows: int) -> tuple[ItemTable, list[Sample]]:
    """Made-up items, of ``item_rows`` id embeddings, and samples of them."""
    random, n = np.random.default_rng(0), 64
    limits = [spec.cardinality for spec in schema.item_fields for _ in range(spec.slots)]
    table = ItemTable.build(
        schema,
        ids=[f"item {at}" for at in range(n)],
        index=random.integers(item_rows, size=n),
        categorical=random.integers(limits, size=(n, len(limits))),
        numeric=random.normal(size=(n, schema.item_numbers)),
        vectors=random.normal(size=(n, schema.item_width)).astype(np.float32),
        expires_at=np.ones((n, len(schema.item_knowledge))),
    )
    samples = []
    for events in (0, 1, min(7, schema.history_length), min(150, schema.history_length)):
        user = _user(schema, table, events, random)
        rows = random.integers(n + 1, size=20)
        described = np.asarray([3, 5]), random.integers(limits, size=(2, len(limits)))
        samples += [Sample(user, rows), Sample(user, rows, knowledge=False), Sample(user, rows[:1])]
        samples += [Sample(user, rows, described), Sample(user, rows, described, knowledge=False)]
    return table, samples


def _user(schema: FeatureSchema, table: ItemTable, events: int, random: np.random.Generator) -> UserBatch:
    """A made-up user with knowledge in every space."""
    knowledge = {
        name: random.normal(size=(1, columns.stop - columns.start)) for name, columns in schema.user_columns.items()
    }
    if schema.sequence is not None:
        knowledge[schema.sequence.name] = random.normal(size=(schema.sequence.rows, schema.sequence.dim))
    vectors = {name: rows.astype(np.float32) for name, rows in knowledge.items()}
    user = UserBatch.single(schema, table, {}, np.zeros(events, EVENT_DTYPE), vectors, 0)
    user.history_rows[0, :events] = random.integers(1, len(table), size=events)
    user.history_values[0, :events] = random.uniform(schema.value_min, schema.value_max, size=events)
    user.history_times[0, :events] = -random.integers(10**10, size=events)
    return user
