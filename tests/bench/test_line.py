from __future__ import annotations

import numpy as np
import pytest

from bench.serving.line import Line
from bench.serving.spread import Spread, markdown_table


def test_a_line_is_found_again() -> None:
    x = [1.0, 10.0, 100.0, 1000.0] * 5
    noise = np.random.default_rng(1).normal(1.0, 0.01, len(x))
    line = Line.through(x, ((0.3 + 0.002 * np.asarray(x)) * noise).tolist())
    assert line.low < 0.3 < line.high
    assert line.fixed == pytest.approx(0.3, rel=0.05)
    assert line.slope == pytest.approx(0.002, rel=0.05)
    assert line.fit > 0.99


def test_an_exact_line_has_no_interval() -> None:
    line = Line.through([0, 1, 2, 3], [1.0, 3.0, 5.0, 7.0])
    assert (line.fixed, line.slope, line.fit) == pytest.approx((1.0, 2.0, 1.0))
    assert line.high - line.low == pytest.approx(0.0, abs=1e-6)


def test_two_points_are_no_measurement() -> None:
    with pytest.raises(ValueError, match="three points"):
        Line.through([1, 2], [1.0, 2.0])


def test_spreads_and_tables_as_text() -> None:
    spread = Spread.of([3.0, 1.0, 2.0])
    assert (str(spread), f"{spread:.0f}") == ("2.00 (1.00 to 3.00)", "2 (1 to 3)")
    assert markdown_table(("a", "b"), [(1, "x")]) == "| a | b |\n| --- | --- |\n| 1 | x |"
