"""Numbers with a decimal comma, and cells that are arrays."""

from __future__ import annotations

import polars as pl
import pytest

from offline.data.notations import array_of, with_point


def test_decimal_commas() -> None:
    cells = ["12,5", " 3 ", "1.234,50", "-0,1", "1.234.567", "1.5", "1,2,3", "12,5 kg", "", None]
    read = with_point(pl.Series("price", cells)).to_list()
    assert read == ["12.5", "3", "1234.50", "-0.1", "1234567", *[None] * 5]


@pytest.mark.parametrize(
    ("cell", "texts"),
    [
        ('["a", " b "]', ["a", "b"]),
        ("['a', \"b's\"]", ["a", "b's"]),
        ("[1, 2.5]", ["1", "2.5"]),
        ('[{"id": 1, "name": "a"}]', ["a"]),
        ("[]", []),
        ("", []),
        (None, []),
        ("a, b", None),
        ("[a, b]", None),
        ('["a", null]', None),
        ("{1: 2}", None),
        ("[" * 5000, None),
    ],
)
def test_arrays(cell: str | None, texts: list[str] | None) -> None:
    assert array_of(cell) == texts
