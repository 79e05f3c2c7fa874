"""The table of rules, and how what breaks them is told."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from offline.data.catalogue import DataError
from offline.data.rules import RULES, Place, Problems, rule_lines

SOURCES = Path(__file__).parents[3] / "offline" / "data"


def test_every_rule_is_used_and_told() -> None:
    code = "".join(path.read_text() for path in SOURCES.glob("*.py") if path.name != "rules.py")
    assert set(re.findall(r'"([a-z_]+)"', code)) >= set(RULES)
    lines = rule_lines()
    assert len(lines) == len(RULES)
    for rule, line in zip(RULES.values(), lines, strict=True):
        assert line.split()[:2] == [rule.name, rule.severity]
        assert rule.demands in line


def test_the_guide_tells_every_rule() -> None:
    guide = (SOURCES.parents[1] / "docs" / "data.md").read_text()
    for rule in RULES.values():
        assert f"| `{rule.name}` | {rule.severity} | {rule.demands} |" in guide


@pytest.mark.parametrize(
    ("place", "text"),
    [
        (Place("a.csv", 3, "at", "x"), "a.csv, row 3, column 'at': 'x'"),
        (Place("a.csv", 3, None, "x", "why"), "a.csv, row 3: 'x': why"),
        (Place("a.csv"), "a.csv"),
        (Place(note="why"), "why"),
        (Place("a.csv", None, "at", ""), "a.csv, column 'at': ''"),
        (Place(value="y" * 60), "'" + "y" * 39 + "..."),
        (Place("a.csv", 1, "at", "two\nlines"), "a.csv, row 1, column 'at': 'two\\nlines'"),
    ],
)
def test_places(place: Place, text: str) -> None:
    assert str(place) == text


def test_problems_are_told_by_rule_in_the_order_of_the_table() -> None:
    problems = Problems()
    problems.add("time_value", *(Place("a.csv", row) for row in range(1, 8)))
    problems.add("blank_row", Place("a.csv", 9))
    problems.add("id_empty", Place("a.csv", 1), count=3)
    other = Problems()
    other.include(problems)
    other.add("time_value", Place("b.csv", 1))
    report = other.findings(["fact"])
    assert report.facts == ["fact"]
    assert [line.split(":")[0] for line in report.errors] == ["id_empty", "time_value"]
    assert report.errors[0].endswith("not empty: a.csv, row 1 | and 2 more")
    assert report.errors[1].startswith("time_value: 8 break the rule that a time is written as")
    assert "b.csv" not in report.errors[1]
    assert report.warnings == [
        "blank_row: 1 breaks the rule that no row is blank (it is skipped): a.csv, row 9",
    ]
    assert other.broken
    with pytest.raises(DataError, match=r"the data cannot be used: id_empty: .*; time_value: ") as raised:
        other.raise_if_broken()
    assert "\n" not in str(raised.value)


def test_warnings_alone_break_nothing() -> None:
    problems = Problems()
    problems.add("blank_row", Place("a.csv", 9))
    assert not problems.broken
    problems.raise_if_broken()
