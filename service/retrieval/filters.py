"""Attributes that a request asks of items (``where``), as rows of the item table that have them."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from models.contract.arrays import BoolArray, IntArray
from models.contract.artifact import Role
from models.contract.items import ItemTable
from models.contract.schema import UNKNOWN, FeatureSchema, FieldSpec
from service.errors import InvalidRequest
from service.retrieval.index import Bits

EXACT_UP_TO = 20_000
"""Number of items that pass a filter up to which all of them are scored: an index would visit few of them."""

_COMPARED_VALUES, _COMPARED_CHARACTERS = 2_000, 40
"""Values of a vocabulary that an unknown one is compared with, and characters of it."""
_LISTED_VALUES = 10

Where = tuple[tuple[str, tuple[str | None, ...]], ...]
"""Names of fields, each with the values of which an item has to have one."""


@dataclass(slots=True)
class Filter:
    """Rows that may be found: ``mask`` bool [N], None for all; ``rows`` lists them if they are few. ``bits`` by role,
    made when an index is searched."""

    mask: BoolArray | None = None
    rows: IntArray | None = None
    bits: dict[Role, Bits] = field(default_factory=dict)


def attributes(schema: FeatureSchema, table: ItemTable, where: Where) -> Filter:
    """Rows with one of the values of each field. InvalidRequest for a field that items have not, and for a value that
    the field cannot have: it would find nothing, for ever and without a word."""
    masks = [_having(schema, table, name, values) for name, values in where]
    if not masks:
        return Filter()
    mask = np.logical_and.reduce(masks)
    return Filter(mask, np.flatnonzero(mask) if int(np.count_nonzero(mask)) <= EXACT_UP_TO else None)


def _having(schema: FeatureSchema, table: ItemTable, name: str, values: Sequence[str | None]) -> BoolArray:
    """bool [N]: rows with one of ``values`` in a field."""
    at = 0
    for spec in schema.item_fields:
        if spec.name == name:
            break
        at += spec.slots
    else:
        names = ", ".join(spec.name for spec in schema.item_fields if spec.vocab)
        raise InvalidRequest(f"items have no such field; there are {names}", field=f"where.{name}")
    if not spec.vocab:
        raise InvalidRequest("the field is cut into ranges and has no single values", field=f"where.{name}")
    codes = {value: spec.encode(value)[0] for value in values}
    if unknown := [value for value, code in codes.items() if code == UNKNOWN]:
        raise InvalidRequest(_no_such_value(spec, unknown[0]), field=f"where.{name}")
    mask = np.asarray(np.isin(table.categorical[:, at : at + spec.slots], list(codes.values())).any(axis=1))
    mask[0] = False
    return mask


def _no_such_value(spec: FieldSpec, value: str | None) -> str:
    """Words on a value outside of a field's vocabulary, with the nearest one that is in it."""
    if value is None:
        return f"null is no value of {spec.name}; without the field all items pass"
    head = value[:_COMPARED_CHARACTERS]
    text = f"{head if head == value else head + '...'!r} is no value of {spec.name}"
    by_folded = {entry.casefold(): entry for entry in spec.vocab[:_COMPARED_VALUES]}
    if near := difflib.get_close_matches(head.casefold(), by_folded, 1):
        return f"{text}; the nearest is {by_folded[near[0]]!r}"
    more = ", ..." if len(spec.vocab) > _LISTED_VALUES else ""
    return f"{text}; there are {', '.join(map(repr, spec.vocab[:_LISTED_VALUES]))}{more}"
