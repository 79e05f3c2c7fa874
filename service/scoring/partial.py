"""Partial evaluation of a CTR model's graph: what depends on single items is computed once for all requests.

Most of a model's work on a candidate needs nothing but the item: embeddings, projections of its knowledge, its part of
the first layer. The graph is cut where the user comes in. Two graphs give the values that lie on the cut, of candidates
and of events of a history; they run over the item table when it is loaded. The third graph, which requests run, gathers
rows of these values and does the rest. The nodes are the same ones in all, so the scores are too.

Knows ONNX graphs and the names of the contract's inputs. Does not know item tables, sessions or requests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, shape_inference

from models.contract.encoding import HISTORY_ITEM_INPUTS, ITEM_INPUTS

ITEM_ROWS, HISTORY_ROWS = "item_rows", "history_rows"
"""Inputs of the third graph: int64 [C] and [T], rows of the columns."""

NARROW = 64
"""Values of up to so many numbers a row lie side by side in one column, so that a row costs one place in memory."""

_SMALL_BYTES = 4096
"""Constants up to here may be shapes and axes, which inference reads."""

_AXES = ("lorank/axis0", "lorank/axis1", "lorank/axis2")
"""Constants of every part, each its number."""


@dataclass(frozen=True, slots=True)
class Parts:
    """A model in three graphs. Those of ``items`` and, if anything of its items can be computed before, of ``history``
    give columns [rows, ..]; ``rest`` takes these by their names, rows of them as ``ITEM_ROWS`` and ``HISTORY_ROWS``,
    and the inputs that tell of no item."""

    items: bytes = field(repr=False)
    history: bytes | None = field(repr=False)
    rest: bytes = field(repr=False)


class UncutError(ValueError):
    """A graph that this module cannot cut."""


def cut(content: bytes) -> Parts:
    """The parts of an ONNX model whose inputs are the contract's. UncutError if nothing can be computed before.

    Whether rows depend on each other cannot be seen in a graph's shapes: compare the parts' scores with the whole's.
    """
    model = onnx.load_model_from_string(content)
    if model.functions or any(map(_branches, model.graph.node)):
        raise UncutError("the graph has functions or branches")
    return _Cut(model, _inferred(model)).parts()


def _inferred(model: ModelProto) -> GraphProto:
    """The graph with the shapes of its values. Weights are left out of what is inferred: copying them would hold the
    interpreter's lock, and with it the requests that are being served."""
    graph = model.graph
    small = [one for one in graph.initializer if one.ByteSize() <= _SMALL_BYTES]
    large = [one for one in graph.initializer if one.ByteSize() > _SMALL_BYTES]
    weights = [helper.make_tensor_value_info(one.name, one.data_type, one.dims) for one in large]
    stub = helper.make_graph(
        graph.node, "shapes", [*graph.input, *weights], graph.output, small, value_info=graph.value_info
    )
    shapes = helper.make_model(stub, opset_imports=model.opset_import, ir_version=model.ir_version)
    return shape_inference.infer_shapes(shapes, data_prop=True).graph


def _branches(node: NodeProto) -> bool:
    return any(one.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS) for one in node.attribute)


@dataclass(slots=True)
class _Rows:
    """One side: the values on the cut. ``rank`` axes come before those of a row's cells, as in the side's inputs, and
    the last of them counts rows."""

    inputs: frozenset[str]
    rows: str
    rank: int
    values: list[str] = field(default_factory=list)

    @property
    def like(self) -> str:
        """A value of the third graph whose shape begins as that of the inputs."""
        return f"{self.rows}/like"


class _Cut:
    """Walks from the score backwards. A value that only single rows of one side need is on the cut, unless its shape
    says otherwise; what is on the way is the third graph."""

    def __init__(self, model: ModelProto, inferred: GraphProto) -> None:
        graph = model.graph
        self._model, self._graph = model, graph
        infos: Sequence[ValueInfoProto] = (*inferred.value_info, *graph.input, *graph.output)
        self._info = {one.name: one for one in infos}
        self._constants = {one.name: one for one in graph.initializer}
        self._made_by = {name: node for node in graph.node for name in node.output if name}
        self._items = _Rows(frozenset(ITEM_INPUTS), ITEM_ROWS, 1)
        self._history = _Rows(frozenset(HISTORY_ITEM_INPUTS), HISTORY_ROWS, 2)
        self._needs = dict.fromkeys(self._constants, frozenset[str]())
        self._needs |= {one.name: frozenset([one.name]) for one in graph.input}
        for node in graph.node:
            needed = frozenset[str]().union(*(self._needs[name] for name in node.input if name))
            self._needs |= dict.fromkeys(node.output, needed)

    def parts(self) -> Parts:
        nodes, given = self._walk()
        if not self._items.values:
            raise UncutError("nothing in the graph depends on items alone")
        rest = self._rest(nodes, given)
        return Parts(self._side(self._items), self._side(self._history) if self._history.values else None, rest)

    def _walk(self) -> tuple[list[NodeProto], set[str]]:
        """Nodes of the third graph and the inputs of the whole that it takes; fills the sides' values."""
        nodes: dict[str, NodeProto] = {}
        given: set[str] = set()
        seen = {"", *self._constants}
        stack = [one.name for one in self._graph.output]
        while stack:
            name = stack.pop()
            if name in seen:
                continue
            seen.add(name)
            side = self._side_of(name)
            if side is not None and self._is_of_rows(name, side):
                side.values.append(name)
            elif name not in self._made_by:
                given.add(name)
            else:
                node = self._made_by[name]
                seen.update(node.output)
                counted = self._counted(node)
                nodes[name] = counted or node
                stack.extend([] if counted else node.input)
        order = {name: at for at, node in enumerate(self._graph.node) for name in node.output}
        return [nodes[name] for name in sorted(nodes, key=order.__getitem__)], given

    def _side_of(self, name: str) -> _Rows | None:
        needs = self._needs[name]
        return next((side for side in (self._items, self._history) if needs and needs <= side.inputs), None)

    def _is_of_rows(self, name: str, side: _Rows) -> bool:
        """Whether a value has the rows that the inputs have, and cells of known shape."""
        shape, like = self._shape(name), self._shape(min(self._needs[name]))
        return shape[: side.rank] == like[: side.rank] and all(isinstance(one, int) for one in shape[side.rank :])

    def _shape(self, name: str) -> list[int | str]:
        info = self._info.get(name)
        if info is None or not info.type.tensor_type.HasField("shape"):
            return []
        return [
            int(one.dim_value) if one.HasField("dim_value") else one.dim_param
            for one in info.type.tensor_type.shape.dim
        ]

    def _cells(self, name: str, side: _Rows) -> list[int]:
        return [int(one) for one in self._shape(name)[side.rank :]]

    def _counted(self, node: NodeProto) -> NodeProto | None:
        """A node that only counts rows, counting those of the third graph instead; None if it does anything else."""
        side = self._side_of(node.output[0])
        if node.op_type != "Shape" or side is None or not self._is_of_rows(node.input[0], side):
            return None
        bounds = {one.name: one.i for one in node.attribute}
        start, end = bounds.get("start", 0), bounds.get("end", len(self._shape(node.input[0])))
        if not 0 <= start < end <= side.rank:
            return None
        return helper.make_node("Shape", [side.like], list(node.output), start=start, end=end)

    def _columns(self, side: _Rows) -> dict[str, list[str]]:
        """Names of columns with the values in them: narrow ones together, every other alone."""
        narrow = [name for name in side.values if self._is_narrow(name, side)]
        alone = {f"{name}/column": [name] for name in side.values if name not in narrow}
        return {f"{side.rows}/column": narrow, **alone} if narrow else alone

    def _is_narrow(self, name: str, side: _Rows) -> bool:
        cells = self._cells(name, side)
        return self._kind(name) == TensorProto.FLOAT and (not cells or (len(cells) == 1 and cells[0] <= NARROW))

    def _width(self, name: str, side: _Rows) -> int:
        """Numbers per row of a narrow value."""
        return next(iter(self._cells(name, side)), 1)

    def _kind(self, name: str) -> int:
        return int(self._info[name].type.tensor_type.elem_type)

    def _column_infos(self, side: _Rows) -> list[ValueInfoProto]:
        infos = []
        for column, values in self._columns(side).items():
            cells = self._cells(values[0], side)
            if self._is_narrow(values[0], side):
                cells = [sum(self._width(one, side) for one in values)]
            infos.append(helper.make_tensor_value_info(column, self._kind(values[0]), [f"{side.rows}/all", *cells]))
        return infos

    def _side(self, side: _Rows) -> bytes:
        """The graph of a side's columns: all that its values need."""
        needed, stack = set[str](), list(side.values)
        while stack:
            name = stack.pop()
            if name not in needed:
                needed.add(name)
                stack.extend(self._made_by[name].input if name in self._made_by else ())
        nodes = [node for node in self._graph.node if not needed.isdisjoint(node.output)]
        for column, values in self._columns(side).items():
            flat = []
            for name in values:
                nodes.append(_squeezed(name, f"{name}/flat", 0) if side.rank == 2 else _same(name, f"{name}/flat"))
                flat.append(f"{name}/flat")
                if self._is_narrow(name, side) and not self._cells(name, side):
                    nodes.append(_unsqueezed(f"{name}/flat", f"{name}/cell", 1))
                    flat[-1] = f"{name}/cell"
            nodes.append(
                helper.make_node("Concat", flat, [column], axis=1) if len(flat) > 1 else _same(flat[0], column)
            )
        inputs = [one for one in self._graph.input if one.name in needed]
        return self._packed(nodes, inputs, self._column_infos(side))

    def _rest(self, nodes: list[NodeProto], given: set[str]) -> bytes:
        """The third graph, of ``nodes`` and what brings them the values on the cut."""
        inputs = [one for one in self._graph.input if one.name in given]
        first: list[NodeProto] = []
        for side in (self._items, self._history):
            if side.values or any(side.like in node.input for node in nodes):
                inputs.append(helper.make_tensor_value_info(side.rows, TensorProto.INT64, [f"{side.rows}/count"]))
                first.append(_same(side.rows, side.like) if side.rank == 1 else _unsqueezed(side.rows, side.like, 0))
            inputs += self._column_infos(side)
            for column, values in self._columns(side).items():
                first += self._brought(side, column, values)
        return self._packed([*first, *nodes], inputs, list(self._graph.output))

    def _brought(self, side: _Rows, column: str, values: list[str]) -> list[NodeProto]:
        """Nodes from a column to the rows of its values."""
        taken = f"{column}/taken"
        nodes = [helper.make_node("Gather", [column, side.rows], [taken], axis=0)]
        if side.rank == 2:
            nodes.append(_unsqueezed(taken, f"{taken}/row", 0))
            taken = f"{taken}/row"
        if not self._is_narrow(values[0], side):
            return [*nodes, _same(taken, values[0])]
        cells = [self._cells(one, side) for one in values]
        split = [name if cell else f"{name}/cell" for name, cell in zip(values, cells, strict=True)]
        sizes = f"{column}/sizes"
        nodes.append(_constant(sizes, [self._width(one, side) for one in values]))
        nodes.append(helper.make_node("Split", [taken, sizes], split, axis=-1))
        return nodes + [
            _squeezed(part, name, side.rank) for part, name in zip(split, values, strict=True) if part != name
        ]

    def _packed(
        self, nodes: Sequence[NodeProto], inputs: Sequence[ValueInfoProto], outputs: Sequence[ValueInfoProto]
    ) -> bytes:
        taken = {name for node in nodes for name in node.input}
        constants = [one for name, one in self._constants.items() if name in taken]
        axes = [(at, name) for at, name in enumerate(_AXES) if name in taken]
        constants += [helper.make_tensor(name, TensorProto.INT64, [1], [at]) for at, name in axes]
        graph = helper.make_graph(list(nodes), "part", list(inputs), list(outputs), constants)
        model = helper.make_model(graph, opset_imports=self._model.opset_import, ir_version=self._model.ir_version)
        return bytes(model.SerializeToString())


def _same(name: str, other: str) -> NodeProto:
    return helper.make_node("Identity", [name], [other])


def _constant(name: str, numbers: list[int]) -> NodeProto:
    return helper.make_node("Constant", [], [name], value_ints=numbers)


def _squeezed(name: str, other: str, axis: int) -> NodeProto:
    return helper.make_node("Squeeze", [name, _AXES[axis]], [other])


def _unsqueezed(name: str, other: str, axis: int) -> NodeProto:
    return helper.make_node("Unsqueeze", [name, _AXES[axis]], [other])
