"""Cuts the ONNX graph of a CTR model where the user comes in; models/split_model.py runs the parts.

Two graphs give the values that lie on the cut, of candidates and of events of a history. The request graph gathers
rows of these values and does the rest. The nodes are the same ones in all, so the scores are too.

Knows ONNX graphs and the names of the contract's inputs. Does not know files, item tables or requests.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, shape_inference
from onnx.utils import Extractor

from models.contract.encoding import HISTORY_ITEM_INPUTS, ITEM_INPUTS
from models.split_model import HISTORY_GRAPH, HISTORY_ROWS, ITEM_GRAPH, ITEM_ROWS, REQUEST_GRAPH

NARROW = 64
"""Values of up to so many numbers a row lie side by side in one column, so that a row costs one place in memory."""


class UncutError(ValueError):
    """A graph that cannot be cut, or whose parts do not give the scores of the whole."""


def cut(model: ModelProto) -> dict[str, ModelProto]:
    """The parts of a model whose inputs are the contract's, by the names of their files; no history graph where nothing
    of a history's items can be computed before a request. UncutError if nothing of any item can.

    Whether rows depend on each other cannot be seen in a graph's shapes: compare the parts' scores with the whole's.
    """
    if model.functions or any(map(_branches, model.graph.node)):
        raise UncutError("the graph has functions or branches")
    return _Cut(shape_inference.infer_shapes(model, data_prop=True)).parts()


def _branches(node: NodeProto) -> bool:
    return any(attribute.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS) for attribute in node.attribute)


@dataclass(frozen=True, slots=True)
class _Value:
    """A value on the cut: its type, and the shape of its cells in a row, which is () of a single number."""

    name: str
    kind: int
    cells: tuple[int, ...]

    @property
    def row(self) -> tuple[int, ...]:
        """Shape of its cells in a row of a column."""
        return self.cells or (1,)

    @property
    def is_narrow(self) -> bool:
        return self.kind == TensorProto.FLOAT and len(self.row) == 1 and self.row[0] <= NARROW


@dataclass(slots=True)
class _Side:
    """Items as candidates, or as the events of a history. ``rank`` axes come before those of a row's cells, as in the
    side's inputs, and the last of them counts rows; ``rows`` is the input of the request graph that chooses them."""

    inputs: frozenset[str]
    rows: str
    rank: int
    values: list[_Value] = field(default_factory=list)

    @property
    def like(self) -> str:
        """A value of the request graph whose shape begins as that of the inputs."""
        return f"{self.rows}/like"

    def columns(self) -> dict[str, list[_Value]]:
        """Names of columns with the values in them: narrow ones together, every other alone."""
        narrow = [value for value in self.values if value.is_narrow]
        wide = {f"{value.name}/column": [value] for value in self.values if not value.is_narrow}
        return {f"{self.rows}/column": narrow, **wide} if narrow else wide

    def infos(self) -> list[ValueInfoProto]:
        """Types and shapes of the columns."""
        infos = []
        for name, values in self.columns().items():
            shape = [f"{self.rows}/all", sum(value.row[0] for value in values), *values[0].row[1:]]
            infos.append(helper.make_tensor_value_info(name, values[0].kind, shape))
        return infos

    def give(self, graph: GraphProto) -> None:
        """Let a graph that has the values give the columns."""
        for column, values in self.columns().items():
            flat = [column] if len(values) == 1 else [f"{value.name}/flat" for value in values]
            for value, name in zip(values, flat, strict=True):
                shape = _constant(graph, f"{value.name}/shape", [-1, *value.row])
                graph.node.append(helper.make_node("Reshape", [value.name, shape], [name]))
            if len(flat) > 1:
                graph.node.append(helper.make_node("Concat", flat, [column], axis=1))
        graph.output.extend(self.infos())

    def take(self, graph: GraphProto) -> list[NodeProto]:
        """Let a graph take columns and rows of them. Nodes that bring it the values."""
        graph.input.append(helper.make_tensor_value_info(self.rows, TensorProto.INT64, [f"{self.rows}/count"]))
        graph.input.extend(self.infos())
        nodes = [self._of_rank(graph, self.rows, self.like)]
        for column, values in self.columns().items():
            nodes.append(helper.make_node("Gather", [column, self.rows], [f"{column}/rows"], axis=0))
            nodes.append(self._of_rank(graph, f"{column}/rows", f"{column}/taken"))
            names = [value.name if value.cells else f"{value.name}/cell" for value in values]
            if len(values) > 1:
                sizes = _constant(graph, f"{column}/sizes", [value.row[0] for value in values])
                nodes.append(helper.make_node("Split", [f"{column}/taken", sizes], names, axis=self.rank))
            else:
                nodes.append(helper.make_node("Identity", [f"{column}/taken"], names))
            for value, name in zip(values, names, strict=True):
                if name != value.name:
                    axis = _constant(graph, f"{name}/axis", [self.rank])
                    nodes.append(helper.make_node("Squeeze", [name, axis], [value.name]))
        return nodes

    def _of_rank(self, graph: GraphProto, name: str, other: str) -> NodeProto:
        """A node that brings rows to the rank of the side's inputs, which have a leading 1 where they are of a user."""
        if self.rank == 1:
            return helper.make_node("Identity", [name], [other])
        return helper.make_node("Unsqueeze", [name, _constant(graph, f"{other}/axis", [0])], [other])


class _Cut:
    """Walks from the score backwards. A value that only single rows of one side need is on the cut, unless its shape
    says otherwise; what is on the way is the request graph."""

    def __init__(self, model: ModelProto) -> None:
        """``model`` has the shapes of its values."""
        self._graph = graph = model.graph
        self._extractor = Extractor(model)
        self._types = {info.name: info.type.tensor_type for info in (*graph.value_info, *graph.input, *graph.output)}
        self._producers = {name: node for node in graph.node for name in node.output if name}
        self._items = _Side(frozenset(ITEM_INPUTS), ITEM_ROWS, 1)
        self._history = _Side(frozenset(HISTORY_ITEM_INPUTS), HISTORY_ROWS, 2)
        self._needs = {constant.name: frozenset[str]() for constant in graph.initializer}
        self._needs |= {info.name: frozenset([info.name]) for info in graph.input}
        for node in graph.node:
            needed = frozenset[str]().union(*(self._needs[name] for name in node.input if name))
            self._needs |= dict.fromkeys(node.output, needed)

    def parts(self) -> dict[str, ModelProto]:
        inputs, counts = self._walk()
        if not self._items.values:
            raise UncutError("nothing in the graph depends on items alone")
        parts = {REQUEST_GRAPH: self._request(inputs, counts)}
        for name, side in ((ITEM_GRAPH, self._items), (HISTORY_GRAPH, self._history)):
            if side.values:
                values = [value.name for value in side.values]
                parts[name] = self._extracted(frozenset().union(*(self._needs[value] for value in values)), values)
                side.give(parts[name].graph)
        return parts

    def _walk(self) -> tuple[set[str], list[NodeProto]]:
        """The whole's inputs that the request graph takes, and nodes that count rows in it; fills the sides' values."""
        inputs, counts = set[str](), list[NodeProto]()
        seen = {"", *(constant.name for constant in self._graph.initializer)}
        stack = [info.name for info in self._graph.output]
        while stack:
            name = stack.pop()
            if name in seen:
                continue
            seen.add(name)
            side = self._side_of(name)
            if side is not None and self._is_of_rows(name, side):
                kind = int(self._types[name].elem_type)
                side.values.append(_Value(name, kind, tuple(map(int, self._shape(name)[side.rank :]))))
            elif name not in self._producers:
                inputs.add(name)
            else:
                node = self._producers[name]
                seen.update(node.output)
                count = self._counted(node)
                counts += [count] if count else []
                stack.extend([] if count else node.input)
        return inputs, counts

    def _side_of(self, name: str) -> _Side | None:
        needs = self._needs[name]
        return next((side for side in (self._items, self._history) if needs and needs <= side.inputs), None)

    def _is_of_rows(self, name: str, side: _Side) -> bool:
        """Whether a value has the rows that the inputs have, and cells of known shape."""
        shape, like = self._shape(name), self._shape(min(self._needs[name]))
        return shape[: side.rank] == like[: side.rank] and all(isinstance(size, int) for size in shape[side.rank :])

    def _shape(self, name: str) -> list[int | str]:
        """Sizes of a value's axes, names of those of any size; empty if it is not known."""
        if name not in self._types:
            return []
        axes = self._types[name].shape.dim
        return [int(axis.dim_value) if axis.HasField("dim_value") else axis.dim_param for axis in axes]

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

    def _request(self, inputs: set[str], counts: list[NodeProto]) -> ModelProto:
        """The graph of all that is not on the sides' part of the cut."""
        sides = [
            side
            for side in (self._items, self._history)
            if side.values or any(side.like in node.input for node in counts)
        ]
        brought = [value.name for side in sides for value in side.values]
        counted = [name for node in counts for name in node.output]
        part = self._extracted(inputs, [info.name for info in self._graph.output], [*brought, *counted])
        nodes = [node for side in sides for node in side.take(part.graph)] + counts + list(part.graph.node)
        del part.graph.node[:]
        part.graph.node.extend(nodes)
        part.graph.output.extend(self._graph.output)
        return part

    def _extracted(self, inputs: Collection[str], values: list[str], brought: Collection[str] = ()) -> ModelProto:
        """A part with all that ``values`` need of ``inputs`` and of what is ``brought`` to it, and no outputs."""
        names = [info.name for info in self._graph.input if info.name in inputs]
        part: ModelProto = self._extractor.extract_model([*names, *brought], values)
        del part.graph.input[len(names) :], part.graph.output[:], part.graph.value_info[:]
        return part


def _constant(graph: GraphProto, name: str, numbers: list[int]) -> str:
    """Give a graph a constant of int64 numbers. Its name."""
    graph.initializer.append(helper.make_tensor(name, TensorProto.INT64, [len(numbers)], numbers))
    return name
