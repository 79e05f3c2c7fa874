"""Checks on parsed data before anything is computed from it: against each other, and against the feature schema."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import islice
from math import isfinite

from models.contract.schema import FeatureSchema, FieldSpec
from offline.data.catalogue import Catalogue
from offline.data.rules import SHOWN, Findings, Place, Problems

Row = tuple[str, str, float, int]
"""(user id, item id, value, unix milliseconds)"""

MAX_ID_BYTES = 256
TIME_LIMIT_MS = 2**53


def validate(
    schema: FeatureSchema,
    catalogue: Catalogue,
    rows: Sequence[Row],
    problems: Problems | None = None,
    place: Callable[[int], Place] = lambda number: Place("interactions", number + 1),
    *,
    one_label_is_fine: bool = False,
) -> Findings:
    """Findings on ids, values, times, repetitions, and on raw features that the schema does not understand.

    ``problems`` holds what was found before; ``place`` tells where the interaction of a number (from 0) stands.
    """
    problems = Problems() if problems is None else problems
    # a table that could not be read at all is empty for that reason
    empty = [name for name, content in (("interactions", rows), ("items", catalogue.items)) if not content]
    if not problems.broken:
        for name in empty:
            problems.add("no_rows", Place(name))
    _rows(schema, rows, problems, place)
    _descriptions(catalogue, rows, problems, place)
    liked = sum(row[2] > schema.liked_above for row in rows)
    if rows and liked in (0, len(rows)) and not one_label_is_fine:
        problems.add("one_label", Place(note=f"{liked} of {len(rows)} are above {schema.liked_above:g}"))
    for kind, fields, described in (
        ("user", schema.user_fields, catalogue.users),
        ("item", schema.item_fields, catalogue.items),
    ):
        for spec in fields:
            _field(kind, spec, [features.get(spec.name) for features in described.values()], problems)
    return problems.findings(_facts(schema, catalogue, rows, liked))


def _facts(schema: FeatureSchema, catalogue: Catalogue, rows: Sequence[Row], liked: int) -> list[str]:
    facts = [f"{len(catalogue.users)} users and {len(catalogue.items)} items are described"]
    if rows:
        users = sorted(Counter(row[0] for row in rows).values())
        items = len({row[1] for row in rows})
        facts += [
            f"{len(rows)} interactions of {len(users)} users with {items} items",
            f"{liked / len(rows):.1%} above {schema.liked_above:g}",
            f"interactions per user: median {users[len(users) // 2]}, most {users[-1]}",
        ]
    return facts


def _rows(schema: FeatureSchema, rows: Sequence[Row], problems: Problems, place: Callable[[int], Place]) -> None:
    for rule, column, broken in (
        ("id_empty", 0, lambda row: not row[0]),
        ("id_empty", 1, lambda row: not row[1]),
        ("id_long", 0, lambda row: len(row[0]) > 64 and len(row[0].encode()) > MAX_ID_BYTES),
        ("id_long", 1, lambda row: len(row[1]) > 64 and len(row[1].encode()) > MAX_ID_BYTES),
        ("value_number", 2, lambda row: not isfinite(row[2])),
        ("value_range", 2, lambda row: isfinite(row[2]) and not schema.accepts(row[2])),
        ("time_negative", 3, lambda row: row[3] < 0),
        ("time_value", 3, lambda row: row[3] >= TIME_LIMIT_MS),
    ):
        _at(rule, column, [number for number, row in enumerate(rows) if broken(row)], rows, problems, place)
    seen: set[Row] = set()
    repeated = []
    for number, row in enumerate(rows):
        if row in seen:
            repeated.append(number)
        seen.add(row)
    _at("interaction_repeated", None, repeated, rows, problems, place)


def _descriptions(catalogue: Catalogue, rows: Sequence[Row], problems: Problems, place: Callable[[int], Place]) -> None:
    for rule, column, described in (("user_undescribed", 0, catalogue.users), ("item_undescribed", 1, catalogue.items)):
        if column == 0 and not described:  # there is no table of users
            continue
        first: dict[str, int] = {}
        for number, row in enumerate(rows):
            if row[column] not in described:
                first.setdefault(str(row[column]), number)
        _at(rule, column, list(first.values()), rows, problems, place)


def _at(
    rule: str,
    column: int | None,
    numbers: Sequence[int],
    rows: Sequence[Row],
    problems: Problems,
    place: Callable[[int], Place],
) -> None:
    if not numbers:
        return
    places = []
    for number in islice(numbers, SHOWN):
        where = place(number)
        value = rows[number] if column is None else rows[number][column]
        places.append(Place(where.file, where.row, where.column, value))
    problems.add(rule, *places, count=len(numbers))


def _field(kind: str, spec: FieldSpec, values: Sequence[object], problems: Problems) -> None:
    """Values that a schema field does not understand, the most frequent first."""
    unknown: Counter[str] = Counter()
    understood = 0
    for value in values:
        understood += any(spec.encode(value))
        for part in value if isinstance(value, (list, tuple)) else (value,):
            if part not in (None, "") and not spec.encode(part)[0]:
                unknown[str(part)] += 1
    if not understood:
        problems.add("field_empty", Place(f"{kind}s", None, spec.name))
    elif unknown:
        common = [Place(f"{kind}s", None, spec.name, value, f"{n} times") for value, n in unknown.most_common(SHOWN)]
        problems.add("field_unknown", *common, count=len(unknown))
