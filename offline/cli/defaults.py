"""Every key of a configuration with its meaning and its default, as a TOML file in which all defaults are commented."""

from __future__ import annotations

import json
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

from models.contract.unknown_keys import models_in
from offline.cli.meanings import meaning
from offline.config import JobConfig

_HEAD = """\
# Every key of a configuration. Lines that begin with "#" and a blank are about the key below them; a key behind "#"
# has the default that it shows, or none. Keys without "#" are to be said: what they say is an example, or, in a table
# of which others are left out, the default.
"""

EXAMPLES: Mapping[str, Any] = {
    "name": "mine",
    "workdir": "var/mine",
    "data.source": "movielens-100k",
    "feature_schema.name": "mine",
    "feature_schema.user_fields": [],
    "feature_schema.item_fields": [],
    "feature_schema.history_length": 50,
}
"""Keys that every configuration needs, with values that make one."""


def default_lines() -> Iterator[str]:
    """The lines of the file."""
    yield _HEAD
    yield from _table(JobConfig, None, "")


def toml_value(value: Any) -> str:
    """A value of a JSON document in one line of TOML; "" for None, which TOML does not have."""
    if value is None:
        return ""
    if isinstance(value, Mapping):
        entries = (f"{json.dumps(name)} = {toml_value(entry)}" for name, entry in value.items() if entry is not None)
        return f"{{ {', '.join(entries)} }}" if value else "{}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(toml_value, value))}]"
    return json.dumps(value, ensure_ascii=False)


def _table(model: type[BaseModel], values: BaseModel | None, path: str, mark: str = "") -> Iterator[str]:
    """Keys of a table, then the tables in it; defaults are those in ``values``. A table that is behind the ``mark`` "#"
    has no key that counts."""
    for name, field in model.model_fields.items():
        if _table_of(field) is None:
            yield from _key(model, name, values, path, mark)
    for name, field in model.model_fields.items():
        inside = f"{path}.{name}" if path else name
        if (table := _table_of(field)) is not None:
            default = _default(field, name, values)
            is_there = isinstance(default, BaseModel) or (field.is_required() and not mark)
            below = mark if is_there else "#"
            yield f"\n# {meaning(model, name)}\n{below}[{inside}]"
            yield from _table(table, default if isinstance(default, BaseModel) else None, inside, below)
    for name, field in model.model_fields.items():
        inside = f"{path}.{name}" if path else name
        if _table_of(field) is None and (element := _element_of(field)) is not None:
            header = f"[{inside}.NAME]" if _is_a(field, Mapping) else f"[[{inside}]]"
            yield f"\n# one of {inside}\n#{header}"
            yield from _table(element, None, inside, "#")


def _key(model: type[BaseModel], name: str, values: BaseModel | None, path: str, mark: str) -> Iterator[str]:
    field, inside = model.model_fields[name], f"{path}.{name}" if path else name
    choices = " | ".join(dict.fromkeys(map(str, _choices(field.annotation))))
    yield f"# {meaning(model, name)}{f' ({choices})' if choices else ''}"
    if field.is_required():
        example = toml_value(EXAMPLES.get(inside)) if not mark else ""
        yield f"{mark}{name} = {example}".rstrip()
    else:
        default = _default(field, name, values)
        # a table that is there has the defaults of its class, which may not be those of its place
        mark = "#" if mark or default == _default(field, name, None) else ""
        yield f"{mark}{name} = {toml_value(to_jsonable_python(default))}".rstrip()


def _default(field: FieldInfo, name: str, values: BaseModel | None) -> Any:
    if values is not None:
        return getattr(values, name)
    return None if field.is_required() else field.get_default(call_default_factory=True)


def _table_of(field: FieldInfo) -> type[BaseModel] | None:
    """The model of a field that is one table; None for values, lists of tables and tables by name."""
    model = next(models_in(field.annotation), None)
    return None if _is_a(field, Sequence) or _is_a(field, Mapping) else model


def _element_of(field: FieldInfo) -> type[BaseModel] | None:
    """The model of the elements of a collection; None if they are values."""
    element = next((inner for inner in reversed(typing.get_args(field.annotation)) if inner is not Ellipsis), None)
    while typing.get_origin(element) is typing.Annotated:
        element = typing.get_args(element)[0]
    return element if isinstance(element, type) and issubclass(element, BaseModel) else None


def _is_a(field: FieldInfo, kind: type) -> bool:
    """Whether a field's values are collections of this kind."""
    origin = typing.get_origin(field.annotation)
    return isinstance(origin, type) and issubclass(origin, kind)


def _choices(annotation: Any) -> Iterator[Any]:
    """Values that a key may have, if they are listed."""
    if typing.get_origin(annotation) is typing.Literal:
        yield from typing.get_args(annotation)
    else:
        for inner in typing.get_args(annotation):
            yield from _choices(inner)
