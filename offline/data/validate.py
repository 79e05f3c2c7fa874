"""Checks on parsed data before anything is computed from it: against each other, and against the feature schema."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite

from models.contract.ids import id_fault
from models.contract.schema import FeatureSchema, FieldSpec
from offline.data.catalogue import Catalogue
from offline.data.rules import SHOWN, Findings, Place, Problems

Row = tuple[str, str, float, int]
"""(user id, item id, value, unix milliseconds)"""

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
            f"{1 - len({row[:2] for row in rows}) / len(rows):.1%} repeat an item of their user",
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
        for column in (0, 1):
            self._check_ids(column)
        for rule, column, broken in (
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

    def _check_ids(self, column: int) -> None:
        """Ids that break a rule, whatever source they come from."""
        faults = {text: fault for text in {str(row[column]) for row in self.rows} if (fault := id_fault(text))}
        for rule in {*faults.values()}:
            broken = [number for number, row in enumerate(self.rows) if faults.get(str(row[column])) == rule]
            self.flag(rule, column, broken)

    def check_described(self, rule: str, column: int, described: Mapping[str, object]) -> None:
        """Whether there is a description of each id in ``column``; its first row is shown."""
        first: dict[object, int] = {}
        for number, row in enumerate(self.rows):
            if row[column] not in described:
                first.setdefault(row[column], number)
        self.flag(rule, column, list(first.values()))


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
