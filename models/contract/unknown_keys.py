"""What is wrong with a configuration file, in lines for people: the full path of each key, and for a key that does not
exist the one that was probably meant."""

from __future__ import annotations

import difflib
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

_SIMILAR = 0.7
_SHOWN = 3


def problem_lines(model: type[BaseModel], error: ValidationError, moved: Mapping[str, str] | None = None) -> list[str]:
    """A line ``path: what is wrong`` for each problem of a document with ``model``; ``moved`` says of former paths
    where they are now. A key that is missing because another one was written in its place is told once."""
    moved = moved or {}
    advice, meant = {}, set()
    for problem in error.errors():
        path = ".".join(map(str, problem["loc"]))
        if problem["type"] == "extra_forbidden" and path not in moved:
            paths, siblings = _meant(model, problem["loc"])
            advice[path] = f"there is no such key{_advice(paths, siblings)}"
            meant |= set(paths)
    lines = []
    for problem in error.errors():
        path = ".".join(map(str, problem["loc"]))
        if problem["type"] != "missing" or path not in meant:
            message = advice.get(path) or moved.get(path, problem["msg"])
            lines.append(f"{path}: {message}" if path else message)
    return lines


def _advice(paths: Sequence[str], siblings: Sequence[str]) -> str:
    """A question after the key that was probably meant, by its full path, or a list of what the table has."""
    if paths:
        return f"; did you mean {' or '.join(paths)}?"
    return f"; there are {', '.join(siblings)}" if siblings else ""


def _meant(model: type[BaseModel], location: Sequence[str | int]) -> tuple[list[str], list[str]]:
    """Paths of the keys that were probably meant, and the names of all keys of the table."""
    *parents, name = map(str, location)
    table = _table_at(model, location[:-1])
    siblings = list(table.model_fields) if table is not None else []
    meant = difflib.get_close_matches(name, siblings, 1, _SIMILAR)
    meant = meant or [other for other in siblings if other.startswith(name) or name.startswith(other)][:1]
    paths = [".".join([*parents, other]) for other in meant]
    if not paths:  # in another table
        known = dict.fromkeys(_keys(model))
        names = {path.rpartition(".")[2] for path in known}
        close = [name] if name in names else difflib.get_close_matches(name, names, 1, _SIMILAR)
        paths = [path for path in known if path.rpartition(".")[2] in close][:_SHOWN]
    return paths, siblings


def _table_at(model: type[BaseModel], location: Sequence[str | int]) -> type[BaseModel] | None:
    """The model of the table at a location; None where several may be meant."""
    tables = [model]
    for part in location:
        of_kind = [table for table in tables if part in _kinds(table)]
        fields = [table.model_fields[str(part)] for table in tables if part in table.model_fields]
        if of_kind:
            tables = of_kind
        elif fields:  # else the number of an element, or the key of a mapping
            tables = [inner for field in fields for inner in models_in(field.annotation)]
    return tables[0] if len(tables) == 1 else None


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models that a type is, or is made of."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in typing.get_args(annotation):
        yield from models_in(inner)


def _kinds(model: type[BaseModel]) -> tuple[Any, ...]:
    """Values of the field by which a table of several kinds says its own, none of a table of one kind."""
    field = model.model_fields.get("kind")
    return typing.get_args(field.annotation) if field is not None and field.is_required() else ()


def _keys(model: type[BaseModel], prefix: str = "", above: tuple[type[BaseModel], ...] = ()) -> Iterator[str]:
    """Paths of all keys of a model and of the tables in it; elements of lists have no number."""
    for name, field in model.model_fields.items():
        yield prefix + name
        for inner in models_in(field.annotation):
            if inner not in above:
                yield from _keys(inner, f"{prefix}{name}.", (*above, model))
