"""Lines, figures and page say what an analysis found, and what speaks against believing it."""

from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree

import polars as pl
import pytest

from offline.ab.analysis import Analysis, analyse
from offline.ab.inputs import AnalysisSettings
from offline.ab.report import lines, page, svg_figures, verdict
from tests.offline.ab.simulate import ARMS, START_MS, World, drawn, tables
from tests.offline.ab.test_analysis import CLICKS, SETTINGS

pytest.importorskip("matplotlib")


@pytest.fixture(scope="module")
def analysis() -> Analysis:
    return analyse(*tables(World(units=600, lift=0.3, seed=2)), SETTINGS)


@pytest.fixture(scope="module")
def broken() -> Analysis:
    exposures, interactions = tables(World(units=900, seed=3))
    lossy = exposures.filter((pl.col("arm") != "treatment") | (pl.col("unit").hash(7) % 10 < 6))
    return analyse(lossy, interactions, SETTINGS)


class Reader(HTMLParser):
    """Text of a page, and what it would fetch."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text, self.fetched, self.open = "", list[str](), list[str]()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.fetched += [
            value or "" for name, value in attrs if name in ("src", "href") and not (value or "").startswith("#")
        ]
        if tag == "script":
            self.fetched.append("script")

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_lines_show_arms_and_effects(analysis: Analysis) -> None:
    text = "\n".join(lines("buttons", analysis))
    assert text.startswith("buttons: 2023-11-15 00:0")
    for word in (*ARMS, "ctr", "ndcg", "latency_p95", "better", "units as configured: yes"):
        assert word in text
    assert "nan" not in text
    assert all(line == line.rstrip() for line in text.splitlines())


def test_a_broken_split_comes_before_everything_else(broken: Analysis) -> None:
    text = list(lines("buttons", broken))
    assert text[1].startswith("  ! Sample ratio mismatch")
    assert any("units as configured: NO" in line for line in text)
    shown = Reader(page("buttons", broken)).text
    assert shown.index("Sample ratio mismatch") < shown.index("Effects")


def test_the_page_needs_nothing_else_and_says_the_same(analysis: Analysis) -> None:
    html = page("buttons <&>", analysis)
    reader = Reader(html)
    assert reader.fetched == []
    assert "buttons <&>" in reader.text
    assert "<svg" in html
    for effect in analysis.effects:
        assert effect.metric in reader.text
        assert verdict(effect, analysis.alpha) in reader.text
    assert page("buttons <&>", analysis) == html, "the same analysis is the same page"


def test_figures_are_drawings_of_what_has_intervals(analysis: Analysis) -> None:
    drawings = svg_figures(analysis)
    assert set(drawings) == {"effects", "looks"}
    for text in drawings.values():
        assert ElementTree.fromstring(text).tag.endswith("svg")
    assert svg_figures(replace(analysis, effects=())) == {}


def test_verdicts(analysis: Analysis) -> None:
    ctr = next(effect for effect in analysis.effects if effect.metric == "ctr")
    sure = replace(ctr, always_valid=replace(ctr.always_valid, p=0.01))
    unsure = replace(ctr, always_valid=replace(ctr.always_valid, p=1.0), p_holm=0.01)
    assert verdict(sure, 0.05) == "better, at any time"
    assert verdict(replace(sure, better="lower"), 0.05) == "worse, at any time"
    assert verdict(unsure, 0.05) == "better, if this look was planned"
    assert verdict(replace(unsure, p_holm=0.2), 0.05) == "no difference shown"
    assert verdict(replace(sure, difference=replace(ctr.difference, p=float("nan"))), 0.05) == "cannot be told"


def test_drawn_orders_have_their_table() -> None:
    exposures, interactions, _ = drawn(World(units=300, seed=4))
    arms = dict.fromkeys(exposures["arm"].unique().sort(), 1.0)
    settings = AnalysisSettings(control=min(arms), weights=arms, clicks=CLICKS, start_ms=START_MS)
    result = analyse(exposures, interactions, settings)
    text = "\n".join(lines("drawn", result))
    assert "clicks on the first position" in text
    assert "Drawn orders" in Reader(page("drawn", result)).text
