"""Checks on parsed data before anything is computed from it: against each other, and against the feature schema."""

from __future__ import annotations

import time
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from math import isfinite

import numpy as np

from models.contract.arrays import IntArray
from models.contract.ids import id_fault
from models.contract.schema import FeatureSchema, FieldSpec
from models.contract.times import LIMIT_MS, latest_ms
from offline.data.catalogue import Catalogue
from offline.data.outliers import far_times
from offline.data.rules import SHOWN, Findings, Place, Problems, counted
from offline.data.spellings import common_spelling

Row = tuple[str, str, float, int]
"""(user id, item id, value, unix milliseconds)"""


def validate(
    schema: FeatureSchema,
    catalogue: Catalogue,
    rows: Sequence[Row],
    problems: Problems | None = None,
    place: Callable[[int], Place] = lambda number: Place("interactions", number + 1),
    *,
    implicit: bool = False,
    timed: bool = True,
    parts: IntArray | None = None,
) -> Findings:
    """Findings on ids, values, times, repetitions, and on raw features that the schema does not understand.

    ``problems`` are those of the reading, which tell what need not be looked for; ``place`` tells where the interaction
    of a number (from 0) stands; ``implicit`` says that every row is a like, ``timed`` that times are times,
    ``parts`` which row is in which part.
    """
    problems = Problems() if problems is None else problems
    # a table that could not be read at all is empty for that reason
    empty = [name for name, content in (("interactions", rows), ("items", catalogue.items)) if not content]
    if not problems.broken:
        for name in empty:
            problems.add("no_rows", Place(name))
    interactions = _Interactions(rows, place, problems)
    interactions.check(schema)
    if timed:
        interactions.check_times()
    if catalogue.users:  # else there is no table of users
        interactions.check_described("user_undescribed", 0, catalogue.users)
    interactions.check_described("item_undescribed", 1, catalogue.items)
    _forms("users", chain(catalogue.users, (row[0] for row in rows)), problems)
    _forms("items", chain(catalogue.items, (row[1] for row in rows)), problems)
    sides = ("users", schema.user_fields, catalogue.users), ("items", schema.item_fields, catalogue.items)
    for table, fields, described in sides:
        for spec in fields:
            if f"{table}.{spec.name}" not in problems.unread and (described or table not in problems.unread):
                _field(table, spec, [features.get(spec.name) for features in described.values()], problems)
    if parts is not None and len(parts):
        train, validation, test = np.bincount(parts, minlength=3).tolist()
        problems.facts.append(f"rows of the data's parts: {train} train, {validation} validation, {test} test")
    left_out = frozenset(interactions.bad)
    findings = problems.findings(
        _facts(schema, catalogue, [row for number, row in enumerate(rows) if number not in left_out], implicit)
    )
    findings.left_out = left_out
    return findings


def _facts(schema: FeatureSchema, catalogue: Catalogue, rows: Sequence[Row], implicit: bool) -> list[str]:
    users, items = counted(len(catalogue.users), "user"), counted(len(catalogue.items), "item")
    alone = f"{items} are described, and no users: models know them by their histories alone"
    facts = [f"{users} and {items} are described" if catalogue.users else alone]
    if rows:
        per_user = sorted(Counter(row[0] for row in rows).values())
        touched = counted(len({row[1] for row in rows}), "item")
        liked = sum(row[2] > schema.liked_above for row in rows) / len(rows)
        facts += [
            f"{counted(len(rows), 'interaction')} of {counted(len(per_user), 'user')} with {touched}",
            "every interaction is a like" if implicit else f"likes (value above {schema.liked_above:g}): {liked:.1%}",
            f"interactions per user: median {per_user[len(per_user) // 2]:,}, most {per_user[-1]:,}",
            f"interactions that repeat an item of their user: {1 - len({row[:2] for row in rows}) / len(rows):.1%}",
        ]
    return facts


@dataclass(frozen=True, slots=True)
class _Interactions:
    """Rows with their places, and the collection of what is wrong with them. ``bad`` are numbers of rows that break a
    rule by themselves."""

    rows: Sequence[Row]
    place: Callable[[int], Place]
    problems: Problems
    bad: set[int] = field(default_factory=set)

    def at(self, number: int, column: int | None, note: str = "") -> Place:
        """The place of a row, or of its cell in ``column``."""
        where, row = self.place(number), self.rows[number]
        return Place(where.file, where.row, where.column, row if column is None else row[column], note)

    def flag(self, rule: str, column: int | None, numbers: Sequence[int]) -> None:
        """Note that the rows of these numbers break a rule, by the cell in ``column`` or as a whole."""
        places = [self.at(number, column) for number in numbers[: self.problems.shown]]
        if places:
            self.problems.add(rule, *places, count=len(numbers))

    def flag_bad(self, rule: str, column: int, numbers: Sequence[int]) -> None:
        """Note the same of rows that others do without."""
        self.flag(rule, column, numbers)
        self.bad.update(numbers)

    def check(self, schema: FeatureSchema) -> None:
        """Each row by itself, and repetitions."""
        for column in (0, 1):
            self._check_ids(column)
        any_value = self.problems.count("labels_schema") > 0  # a scale that does not fit is no fault of the values
        for rule, column, broken in (
            ("value_number", 2, lambda row: not isfinite(row[2])),
            ("value_range", 2, lambda row: not any_value and isfinite(row[2]) and not schema.accepts(row[2])),
            ("time_negative", 3, lambda row: row[3] < 0),
            ("time_value", 3, lambda row: row[3] >= LIMIT_MS),
        ):
            self.flag_bad(rule, column, [number for number, row in enumerate(self.rows) if broken(row)])
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
            self.flag_bad(rule, column, broken)

    def check_times(self) -> None:
        """Times that lie in the future, or far from all others."""
        times = np.fromiter((row[3] if 0 <= row[3] < LIMIT_MS else -1 for row in self.rows), np.int64, len(self.rows))
        future = times > latest_ms(round(time.time() * 1000))
        self.flag_bad("time_future", 3, np.flatnonzero(future).tolist())
        believed = np.flatnonzero((times >= 0) & ~future)
        self.flag_bad("time_far", 3, believed[far_times(times[believed])].tolist())

    def check_described(self, rule: str, column: int, described: Mapping[str, object]) -> None:
        """Whether there is a description of each id in ``column``; its first row is shown."""
        table = f"{rule.partition('_')[0]}s"
        if table in self.problems.unread:
            return
        first: dict[str, int] = {}
        for number, row in enumerate(self.rows):
            first.setdefault(str(row[column]), number)
        unknown = [number for name, number in first.items() if name not in described]
        if not unknown:
            return
        note = common_spelling([str(self.rows[number][column]) for number in unknown], described)
        places = [self.at(number, column) for number in unknown[:SHOWN]]
        if described and len(unknown) == len(first):
            rule, places = "ids_never_meet", [places[0], Place(table, value=next(iter(described)), note=note)]
        elif note:
            places[0] = self.at(unknown[0], column, note)
        self.problems.add(rule, *places, count=len(unknown), of=len(first))


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
        common = [Place(table, None, spec.name, value, counted(n, "time")) for value, n in unknown.most_common(SHOWN)]
        problems.add("field_unknown", *common, count=len(unknown))
