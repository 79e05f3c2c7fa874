"""Checks on parsed data before anything is computed from it: against each other, and against the feature schema."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
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

    ``problems`` are those of the reading; ``place`` tells where the interaction of a number (from 0) stands.
    """
    problems = Problems() if problems is None else problems
    # a table that could not be read at all is empty for that reason
    empty = [name for name, content in (("interactions", rows), ("items", catalogue.items)) if not content]
    if not problems.broken:
        for name in empty:
            problems.add("no_rows", Place(name))
    interactions = _Interactions(rows, place, problems)
    interactions.check(schema)
    if catalogue.users:  # else there is no table of users
        interactions.check_described("user_undescribed", 0, catalogue.users)
    interactions.check_described("item_undescribed", 1, catalogue.items)
    _forms("users", chain(catalogue.users, (row[0] for row in rows)), problems)
    _forms("items", chain(catalogue.items, (row[1] for row in rows)), problems)
    liked = sum(row[2] > schema.liked_above for row in rows)
    if rows and liked in (0, len(rows)) and not one_label_is_fine:
        problems.add("one_label", Place(note=f"{liked} of {len(rows)} are above {schema.liked_above:g}"))
    sides = ("users", schema.user_fields, catalogue.users), ("items", schema.item_fields, catalogue.items)
    for table, fields, described in sides:
        for spec in fields:
            _field(table, spec, [features.get(spec.name) for features in described.values()], problems)
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


@dataclass(frozen=True, slots=True)
class _Interactions:
    """Rows with their places, and the collection of what is wrong with them."""

    rows: Sequence[Row]
    place: Callable[[int], Place]
    problems: Problems

    def flag(self, rule: str, column: int | None, numbers: Sequence[int]) -> None:
        """Note that the rows of these numbers break a rule, by the cell in ``column`` or as a whole."""
        places = []
        for number in numbers[:SHOWN]:
            where, row = self.place(number), self.rows[number]
            places.append(Place(where.file, where.row, where.column, row if column is None else row[column]))
        if places:
            self.problems.add(rule, *places, count=len(numbers))

    def check(self, schema: FeatureSchema) -> None:
        """Each row by itself, and repetitions."""
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
            self.flag(rule, column, [number for number, row in enumerate(self.rows) if broken(row)])
        seen: set[Row] = set()
        repeated = []
        for number, row in enumerate(self.rows):
            if row in seen:
                repeated.append(number)
            seen.add(row)
        self.flag("interaction_repeated", None, repeated)

    def check_described(self, rule: str, column: int, described: Mapping[str, object]) -> None:
        """Whether there is a description of each id in ``column``; its first row is shown."""
        first: dict[object, int] = {}
        for number, row in enumerate(self.rows):
            if row[column] not in described:
                first.setdefault(row[column], number)
        self.flag(rule, column, list(first.values()))


def _forms(table: str, ids: Iterable[str], problems: Problems) -> None:
    """Ids that are other bytes and the same text: letters with their accents in one code point, or in two."""
    forms: dict[str, str] = {}
    for other in dict.fromkeys(name for name in ids if not name.isascii()):
        first = forms.setdefault(unicodedata.normalize("NFC", other), other)
        if first != other:
            problems.add("id_form", Place(table, note=f"{first!a} and {other!a}"))


def _field(table: str, spec: FieldSpec, values: Sequence[object], problems: Problems) -> None:
    """Values that a schema field does not understand, the most frequent first."""
    unknown: Counter[str] = Counter()
    understood = 0
    for value in values:
        understood += any(spec.encode(value))
        for part in value if isinstance(value, (list, tuple)) else (value,):
            if part not in (None, "") and not spec.encode(part)[0]:
                unknown[str(part)] += 1
    if not understood:
        problems.add("field_empty", Place(table, None, spec.name))
    elif unknown:
        common = [Place(table, None, spec.name, value, f"{n} times") for value, n in unknown.most_common(SHOWN)]
        problems.add("field_unknown", *common, count=len(unknown))
