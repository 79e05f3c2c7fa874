"""Every rule that data has to keep, in one table, and the collection of what breaks them.

A finding names rule, file, data row (from 1, without the header), column and value; the first five per rule are shown
and the rest counted. A breach that another one explains is not told. Nothing here knows how files are read.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from offline.data.bad_rows import SKIPPED, TOO_MANY, BadRows, Breach
from offline.data.catalogue import DataError, DataLine, joined, lasting

Severity = Literal["error", "warning"]

SHOWN = 5
_SHOWN_CHARS = 40


@dataclass(frozen=True, slots=True)
class Rule:
    """``demands`` is what must hold; ``advice`` says what to do, if that is not plain."""

    name: str
    severity: Severity
    demands: str
    advice: str = ""


RULES = {
    rule.name: rule
    for rule in (
        Rule("file_absent", "error", "every path names at least one file", "paths start where the job is started"),
        Rule("file_damaged", "error", "a file is whole and of the kind its name says", "write it again"),
        Rule("encoding", "error", "text is in the declared encoding", 'set encoding, for instance "latin-1"'),
        Rule("byte_order_mark", "warning", "UTF-8 text starts without a byte order mark", "it is skipped"),
        Rule("line_ends", "error", "lines end with \\n or \\r\\n"),
        Rule("separator", "error", "the separator splits the header into columns", "set separator"),
        Rule("header", "error", "column names are unique and not empty"),
        Rule("index_column", "warning", "every column has a name", "the first one, an index, is left out"),
        Rule("row_shape", "error", "a row has as many fields as the header", "quote fields that hold the separator"),
        Rule(
            "quotes",
            "error",
            "a quoted field is closed and ends at a separator",
            'quote = "" switches quoting off, or set escape',
        ),
        Rule("last_line", "warning", "a last line without an end is whole", "was the file cut?"),
        Rule("blank_row", "warning", "no row is blank", "it is skipped"),
        Rule("bad_rows", "error", "no more rows are bad than bad_rows_at_most says", "mend the file, or raise it"),
        Rule(
            "row_skipped", "warning", "a row breaks no rule", "it is left out; bad_rows.csv in the work folder lists it"
        ),
        Rule("missing_column", "error", "every column that the configuration names is there"),
        Rule("no_rows", "error", "there is at least one interaction and one item"),
        Rule("id_type", "error", "an id column holds text or whole numbers", "cast it; 12 and 12.0 are different ids"),
        Rule("id_empty", "error", "an id is not empty"),
        Rule("id_long", "error", "an id has at most 256 bytes of UTF-8"),
        Rule("id_control", "error", "an id holds no control characters"),
        Rule("id_spaces", "warning", "an id neither starts nor ends with a space", '" 1" and "1" are different ids'),
        Rule("ids_never_meet", "error", "ids of the interactions are also ids of descriptions", "write both alike"),
        Rule("id_nobody", "warning", "an id names somebody", "interactions of the ids in data.nobody are left out"),
        Rule(
            "id_form",
            "warning",
            "no two ids differ by the spelling of an accent alone",
            "ids are compared byte by byte: write all files in one form of Unicode, NFC",
        ),
        Rule("time_value", "error", "a time is written as time_unit or time_format says (UTC unless it says)"),
        Rule("time_negative", "error", "a time is not before 1970"),
        Rule("time_unit", "error", "times are of the declared unit", "set time_unit"),
        Rule("time_future", "error", "a time is at most a day ahead of now"),
        Rule("time_far", "error", "no time lies 20 years or more from most others", "correct it, or leave its row out"),
        Rule("split_value", "error", "a row belongs to one of the parts of split_values"),
        Rule("value_number", "error", "a value is a finite number"),
        Rule("value_binary", "error", "a binary label is 0 or 1 (also true or false)"),
        Rule("value_range", "error", "a value lies from the schema's value_min to its value_max"),
        Rule("labels_schema", "error", "the feature schema fits the kind of labels"),
        Rule("number", "error", "what is read as a number is one, or empty", "list such words in nulls of its table"),
        Rule("array", "error", 'a cell of a list with the separator "[]" is an array', 'such as ["a", "b"]; or empty'),
        Rule("feature_type", "error", "a feature is text, a number, true or false, a date, or a list of those"),
        Rule("profile", "error", "a user's features fit into the record that the service reads"),
        Rule("control_characters", "warning", "texts hold no control characters", "is the encoding right?"),
        Rule(
            "id_repeated",
            "error",
            "an id is described once, or each time alike",
            'set repeated = "first" or "last" in its table, and that row counts',
        ),
        Rule("row_repeated", "warning", "no description is repeated", "it counts once"),
        Rule("column_repeated", "error", "an item column comes from one table only", "rename one with columns"),
        Rule("template_column", "error", "templates name columns that items have"),
        Rule(
            "item_nameless", "warning", "an item has a value in a column of texts.item", "else nothing is known of it"
        ),
        Rule("extra_unknown", "warning", "item_extra describes known items", "others are left out"),
        Rule("item_undescribed", "warning", "an item of an interaction is described", "else nothing is known of it"),
        Rule("user_undescribed", "warning", "a user of an interaction is described", "else nothing is known of them"),
        Rule("interaction_repeated", "warning", "no interaction is repeated exactly", "it counts once"),
        Rule("field_empty", "error", "a schema field understands some user's or item's value"),
        Rule(
            "field_unknown",
            "warning",
            "schema fields understand all values",
            "extend vocab, or leave it: they count as unknown",
        ),
        Rule("text_empty", "error", "an imported text is not empty"),
        Rule("text_long", "error", "an imported text has at most 8,000 characters"),
        Rule("text_owner", "error", "an imported text belongs to a known item, user, or closed partition"),
        Rule("text_repeated", "error", "one imported text per item, user or partition"),
        Rule("record", "error", "a line of a .jsonl file is a JSON object of texts, whole numbers and null"),
    )
}


_OF_ONE_ROW = frozenset(
    (
        "row_shape", "quotes", "id_empty", "id_long", "id_control", "time_value", "time_negative", "time_unit",
        "time_future", "time_far", "value_number", "value_binary", "value_range", "split_value", "number", "array",
    )
)  # fmt: skip
"""Errors of a row by itself: the others may be used without it."""

_HIDING = frozenset(
    (
        "file_absent", "file_damaged", "encoding", "line_ends", "separator", "header", "row_shape", "quotes", "id_type",
        "id_empty", "id_long", "id_control",
    )
)  # fmt: skip
"""Errors that keep rows of a table, or their ids, from being read."""


@dataclass(frozen=True, slots=True)
class Place:
    """A place where something is wrong. ``row`` counts data rows from 1; ``value`` is data, shown cut; ``note`` is
    ours."""

    file: str = ""
    row: int | None = None
    column: str | None = None
    value: object = None
    note: str = ""

    def __str__(self) -> str:
        shown = "" if self.value is None else repr(self.value)
        shown = shown if len(shown) <= _SHOWN_CHARS else f"{shown[:_SHOWN_CHARS]}..."
        return ": ".join(part for part in (self.where, shown, self.note) if part)

    @property
    def where(self) -> str:
        """The place without what stands there; a note may quote that, too."""
        where = [self.file] if self.file else []
        where += [f"row {self.row}"] if self.row is not None else []
        where += [f"column {self.column!r}"] if self.column is not None else []
        return ", ".join(where)


@dataclass(slots=True)
class Findings:
    """Lines for people: ``errors`` make the data unusable, ``warnings`` are worth a look, ``facts`` describe it.

    ``skipped`` are the breaches of bad rows that are left out; ``left_out`` the numbers (from 0) of interactions among
    those that were read.
    """

    facts: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    skipped: list[Breach] = field(default_factory=list)
    left_out: frozenset[int] = frozenset()

    def raise_if_broken(self) -> None:
        if self.errors:
            raise DataError(joined(self.errors, "the data cannot be used: "))

    def lasting(self) -> Findings:
        """The same lines as they may be stored, quoting no data."""
        facts, warnings, errors = ([*map(lasting, lines)] for lines in (self.facts, self.warnings, self.errors))
        return Findings(facts, warnings, errors, left_out=self.left_out)


def counted(number: int, thing: str) -> str:
    """The number of things in words: "1 user", "2,000 users"."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


class Problems:
    """Breaches of rules, by rule: the first places, and the number of all.

    ``bad_rows`` has those of rows that may be left out; ``facts`` are lines about what was read; ``unread`` names the
    tables ("items") and the features ("items.year") that are not there as a whole, so that nobody complains of what
    follows from that.
    """

    def __init__(self) -> None:
        self._places: dict[str, list[Place]] = {}
        self._counts: dict[str, int] = {}
        self._totals: dict[str, int] = {}
        self.bad_rows = BadRows()
        self.facts: list[str] = []
        self.unread: set[str] = set()

    def add(self, rule: str, *places: Place, count: int | None = None, of: int | None = None) -> None:
        """Note that ``rule`` is broken at ``places``, or at ``count`` places of which those are the first; ``of`` so
        many that could break it."""
        assert rule in RULES, rule
        bad = [place for place in places if self._may_be_bad(rule, place)]
        for place in bad:
            self.bad_rows.add(rule, place)
        if bad and count is not None:
            self.bad_rows.add_uncounted(rule, bad[-1].file, count - len(places))
        others = [place for place in places if not self._may_be_bad(rule, place)] if bad else places
        if not bad or others:
            self._note(rule, others, len(others) if count is None or bad else count)
        if of is not None:
            self._totals[rule] = self._totals.get(rule, 0) + of

    def _may_be_bad(self, rule: str, place: Place) -> bool:
        return rule in _OF_ONE_ROW and place.row is not None and place.file in self.bad_rows

    def _note(self, rule: str, places: Sequence[Place], count: int) -> None:
        shown = self._places.setdefault(rule, [])
        shown += places[: SHOWN - len(shown)]
        self._counts[rule] = self._counts.get(rule, 0) + count

    def include(self, other: Problems) -> None:
        """Take over what another collection holds."""
        for rule, places in other._places.items():
            self._note(rule, places, other._counts[rule])
        for rule, total in other._totals.items():
            self._totals[rule] = self._totals.get(rule, 0) + total
        self.bad_rows.include(other.bad_rows)
        self.facts += other.facts
        self.unread |= other.unread

    def count(self, rule: str) -> int:
        return self._counts.get(rule, 0)

    @property
    def shown(self) -> int:
        """How many places of a rule are worth noting: all that may be left out, and those that are shown."""
        return SHOWN + self.bad_rows.most

    @property
    def broken(self) -> bool:
        """Whether any of them is an error."""
        return bool(self.bad_rows.excess()) or any(RULES[name].severity == "error" for name in self._counts)

    @property
    def hides_rows(self) -> bool:
        """Whether rows or ids could not be read."""
        return any(rule in _HIDING for rule in (*self._counts, *(rule for rule, _ in self.bad_rows.errors())))

    def findings(self, facts: Iterable[str] = ()) -> Findings:
        """One line per broken rule, in the order of the table."""
        every, skipped = self._with_bad_rows(), self.bad_rows.skipped()
        findings = Findings(facts=[*facts, *self.facts], skipped=skipped)
        for name, rule in RULES.items():
            if name in every._counts:
                (findings.errors if rule.severity == "error" else findings.warnings).append(every._line(rule))
        return findings

    def _with_bad_rows(self) -> Problems:
        """These problems, with bad rows as errors where there are too many, and as a warning where not."""
        every = Problems()
        every.include(self)
        for rule, place in self.bad_rows.errors():
            every._note(rule, [place], 1)
        for rule, count in self.bad_rows.uncounted().items():
            every._note(rule, [], count)
        for file, note in self.bad_rows.excess().items():
            every._note(TOO_MANY, [Place(file, note=note)], 1)
        rows = {(place.file, place.row): replace(place, note=rule) for rule, place in reversed(self.bad_rows.skipped())}
        if rows:
            every._note(SKIPPED, list(reversed(rows.values())), len(rows))
        return every

    def raise_if_broken(self) -> None:
        self.findings().raise_if_broken()

    def _line(self, rule: Rule) -> DataLine:
        places, count = self._places[rule.name], self._counts[rule.name]
        total = f" of {self._totals[rule.name]:,}" if rule.name in self._totals else ""
        breaks = f"{count:,}{total} break{'s' if count == 1 else ''} the rule that {rule.demands}"
        advice = f" ({rule.advice})" if rule.advice else ""
        more = [f"and {count - len(places):,} more"] if count > len(places) else []
        shown = " | ".join([*map(str, places), *more])
        where = " | ".join([*(place.where for place in places if place.where), *more])
        rule_line = f"{rule.name}: {breaks}{advice}"
        return DataLine(f"{rule_line}: {shown}", f"{rule_line}: {where}" if where else rule_line)


def rule_lines() -> list[str]:
    """The table of rules, one line each, for ``validate --rules``."""
    return [
        f"{rule.name:<21} {rule.severity:<8} {rule.demands}{f' ({rule.advice})' if rule.advice else ''}"
        for rule in RULES.values()
    ]
