"""Cuts the ONNX graph of a CTR model where the user comes in; models/split_model.py runs the parts.

Two graphs give the values that lie on the cut, of candidates and of events of a history. The request graph gathers
rows of these values and does the rest. The nodes are the same ones in all, so the scores are too.

Knows ONNX graphs and the names of the contract's inputs. Does not know files, item tables or requests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, shape_inference

from models.contract.encoding import HISTORY_ITEM_INPUTS, ITEM_INPUTS
from models.split_model import HISTORY_GRAPH, HISTORY_ROWS, ITEM_GRAPH, ITEM_ROWS, REQUEST_GRAPH

NARROW = 64
"""Values of up to so many numbers a row lie side by side in one column, so that a row costs one place in memory."""

_AXES = ("lorank/axis0", "lorank/axis1", "lorank/axis2")
"""Constants of every part, each its number."""


class UncutError(ValueError):
    """A graph that cannot be cut, or whose parts do not give the scores of the whole."""


def cut(model: ModelProto) -> dict[str, ModelProto]:
    """The parts of a model whose inputs are the contract's, by the names of their files; no history graph where nothing
    of a history's items can be computed before a request. UncutError if nothing of any item can.

    Whether rows depend on each other cannot be seen in a graph's shapes: compare the parts' scores with the whole's.
    """
    if model.functions or any(map(_branches, model.graph.node)):
        raise UncutError("the graph has functions or branches")
    return _Cut(model, shape_inference.infer_shapes(model, data_prop=True).graph).parts()


def _branches(node: NodeProto) -> bool:
    return any(attribute.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS) for attribute in node.attribute)


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
        """A value of the request graph whose shape begins as that of the inputs."""
        return f"{self.rows}/like"


class _Cut:
    """Walks from the score backwards. A value that only single rows of one side need is on the cut, unless its shape
    says otherwise; what is on the way is the request graph."""

    def __init__(self, model: ModelProto, inferred: GraphProto) -> None:
        graph = model.graph
        self._model, self._graph = model, graph
        infos: Sequence[ValueInfoProto] = (*inferred.value_info, *graph.input, *graph.output)
        self._info = {info.name: info for info in infos}
        self._constants = {constant.name: constant for constant in graph.initializer}
        self._producers = {name: node for node in graph.node for name in node.output if name}
        self._items = _Rows(frozenset(ITEM_INPUTS), ITEM_ROWS, 1)
        self._history = _Rows(frozenset(HISTORY_ITEM_INPUTS), HISTORY_ROWS, 2)
        self._needs = dict.fromkeys(self._constants, frozenset[str]())
        self._needs |= {info.name: frozenset([info.name]) for info in graph.input}
        for node in graph.node:
            needed = frozenset[str]().union(*(self._needs[name] for name in node.input if name))
            self._needs |= dict.fromkeys(node.output, needed)

    def parts(self) -> dict[str, ModelProto]:
        nodes, inputs = self._walk()
        if not self._items.values:
            raise UncutError("nothing in the graph depends on items alone")
        parts = {ITEM_GRAPH: self._side(self._items), REQUEST_GRAPH: self._request(nodes, inputs)}
        return parts | ({HISTORY_GRAPH: self._side(self._history)} if self._history.values else {})

    def _walk(self) -> tuple[list[NodeProto], set[str]]:
        """Nodes of the request graph and the inputs of the whole that it takes; fills the sides' values."""
        nodes: dict[str, NodeProto] = {}
        inputs: set[str] = set()
        seen = {"", *self._constants}
        stack = [info.name for info in self._graph.output]
        while stack:
            name = stack.pop()
            if name in seen:
                continue
            seen.add(name)
            side = self._side_of(name)
            if side is not None and self._is_of_rows(name, side):
                side.values.append(name)
            elif name not in self._producers:
                inputs.add(name)
            else:
                node = self._producers[name]
                seen.update(node.output)
                counted = self._counted(node)
                nodes[name] = counted or node
                stack.extend([] if counted else node.input)
        order = {name: at for at, node in enumerate(self._graph.node) for name in node.output}
        return [nodes[name] for name in sorted(nodes, key=order.__getitem__)], inputs

    def _side_of(self, name: str) -> _Rows | None:
        needs = self._needs[name]
        return next((side for side in (self._items, self._history) if needs and needs <= side.inputs), None)

    def _is_of_rows(self, name: str, side: _Rows) -> bool:
        """Whether a value has the rows that the inputs have, and cells of known shape."""
        shape, like = self._shape(name), self._shape(min(self._needs[name]))
        return shape[: side.rank] == like[: side.rank] and all(isinstance(size, int) for size in shape[side.rank :])

    def _shape(self, name: str) -> list[int | str]:
        info = self._info.get(name)
        if info is None or not info.type.tensor_type.HasField("shape"):
            return []
        return [
            int(axis.dim_value) if axis.HasField("dim_value") else axis.dim_param
            for axis in info.type.tensor_type.shape.dim
        ]

    def _cells(self, name: str, side: _Rows) -> list[int]:
        return [int(size) for size in self._shape(name)[side.rank :]]

    def _counted(self, node: NodeProto) -> NodeProto | None:
        """A node that only counts rows, counting those of the request graph instead; None if it does anything else."""
        side = self._side_of(node.output[0])
        if node.op_type != "Shape" or side is None or not self._is_of_rows(node.input[0], side):
            return None
        bounds = {attribute.name: attribute.i for attribute in node.attribute}
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
                cells = [sum(self._width(name, side) for name in values)]
            infos.append(helper.make_tensor_value_info(column, self._kind(values[0]), [f"{side.rows}/all", *cells]))
        return infos

    def _side(self, side: _Rows) -> ModelProto:
        """The graph of a side's columns: all that its values need."""
        needed, stack = set[str](), list(side.values)
        while stack:
            name = stack.pop()
            if name not in needed:
                needed.add(name)
                stack.extend(self._producers[name].input if name in self._producers else ())
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
        inputs = [info for info in self._graph.input if info.name in needed]
        return self._packed(nodes, inputs, self._column_infos(side))

    def _request(self, nodes: list[NodeProto], names: set[str]) -> ModelProto:
        """The request graph: the whole's inputs ``names``, ``nodes``, and nodes that bring them the values on the
        cut."""
        inputs = [info for info in self._graph.input if info.name in names]
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
        cells = [self._cells(name, side) for name in values]
        split = [name if cell else f"{name}/cell" for name, cell in zip(values, cells, strict=True)]
        sizes = f"{column}/sizes"
        nodes.append(_constant(sizes, [self._width(name, side) for name in values]))
        nodes.append(helper.make_node("Split", [taken, sizes], split, axis=-1))
        return nodes + [
            _squeezed(part, name, side.rank) for part, name in zip(split, values, strict=True) if part != name
        ]

    def _packed(
        self, nodes: Sequence[NodeProto], inputs: Sequence[ValueInfoProto], outputs: Sequence[ValueInfoProto]
    ) -> ModelProto:
        taken = {name for node in nodes for name in node.input}
        constants = [constant for name, constant in self._constants.items() if name in taken]
        axes = [(at, name) for at, name in enumerate(_AXES) if name in taken]
        constants += [helper.make_tensor(name, TensorProto.INT64, [1], [at]) for at, name in axes]
        graph = helper.make_graph(list(nodes), "part", list(inputs), list(outputs), constants)
        return helper.make_model(graph, opset_imports=self._model.opset_import, ir_version=self._model.ir_version)


def _same(name: str, other: str) -> NodeProto:
    return helper.make_node("Identity", [name], [other])


def _constant(name: str, numbers: list[int]) -> NodeProto:
    return helper.make_node("Constant", [], [name], value_ints=numbers)


def _squeezed(name: str, other: str, axis: int) -> NodeProto:
    return helper.make_node("Squeeze", [name, _AXES[axis]], [other])


def _unsqueezed(name: str, other: str, axis: int) -> NodeProto:
    return helper.make_node("Unsqueeze", [name, _AXES[axis]], [other])
