"""Markdown tables: every line has as many columns as the head."""

from __future__ import annotations

import pytest

from offline.training.bootstrap import Difference
from research.tables import difference_cell, spread_cell, table


def test_a_table() -> None:
    assert table(["model", "AUC"], [["a|b", ".5"], ["ours"]]).splitlines() == [
        "| model | AUC |",
        "|---|---|",
        "| a/b | .5 |",
        "| ours | |",
    ]
    with pytest.raises(ValueError, match="3 cells, the table 2 columns"):
        table(["model", "AUC"], [["ours", ".5", ".6"]])


def test_differences_are_bold_where_their_interval_excludes_zero() -> None:
    assert difference_cell(None) == ""
    assert difference_cell(Difference(0.1, 0.05, 0.15)) == "**+0.1000 [+0.0500, +0.1500]**"
    assert difference_cell(Difference(0.1, -0.05, 0.25)) == "+0.1000 [-0.0500, +0.2500]"


def test_one_seed_has_no_deviation() -> None:
    assert spread_cell(0.81, None) == "0.8100"
    assert spread_cell(0.81, 0.002) == "0.8100 ± 0.0020"
