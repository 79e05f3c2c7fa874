"""The page of a training: complete, escaped, in need of nothing else, and never the reason why a training fails."""

from __future__ import annotations

import sys
from dataclasses import asdict, fields, replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from offline.data.files import write_json
from offline.training import page as module
from offline.training.page import page, svg_figures, write_page
from offline.training.report import PAGE_FILE, TrainingReport, markdown, summary
from tests.offline.training.reports import DIN, POPULARITY, TREES, report_of

MOVED = {
    "artifact": "shop-before.onnx",
    "rows": [{"name": "interactions", "before": 2000.0, "now": 1000.0}],
    "stability": 0.31,
    "sentences": ["the log has fewer <interactions>"],
}


class Reader(HTMLParser):
    """Text of a page, its tags, and what it would fetch."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text, self.tags, self.fetched = "", list[str](), list[str]()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.fetched += [
            value or "" for name, value in attrs if name in ("src", "href") and not (value or "").startswith("#")
        ]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_says_what_the_report_has() -> None:
    report = report_of(verdict=f"{DIN} is not shown better than {TREES}", drift=MOVED)
    html = page(report)
    reader = Reader(html)
    assert reader.fetched == []
    assert "script" not in reader.tags
    for words in (
        DIN, TREES, POPULARITY, "the <simplest>", "files <of> a shop",
        "2023-11-14 22:14 UTC", "1,200 test", "+0.0100 [+0.0020, +0.0200]",
        "item <fields>", "repeat <an> item", "the log has fewer <interactions>.", "is not shown better",
        "2,000", "0.310", "undefined", "AUC of the trees", "(ECE): 0.0123",
    ):  # fmt: skip
        assert words in reader.text, words
    assert "<of>" not in html
    assert reader.tags.count("svg") == 5
    assert page(report) == html, "the same report is the same page"


@pytest.fixture
def _undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages without figures, which take most of the time."""
    monkeypatch.setattr(module, "svg_figures", lambda _: {})


@pytest.mark.usefixtures("_undrawn")
def test_without_remarks_the_page_says_that_nothing_speaks_against_the_model() -> None:
    text = Reader(page(report_of())).text
    assert "nothing moved much" in text
    assert "no report of a former training" in text


def test_figures_are_drawings_of_what_there_is() -> None:
    drawings = svg_figures(report_of())
    assert set(drawings) == {"rivals", "calibration", "epochs", "slices", "importance"}
    for text in drawings.values():
        assert ElementTree.fromstring(text).tag.endswith("svg")
    undefined = [{"model": TREES, "auc": None, "logloss": None}]
    bare = report_of(rivals=undefined, importance=[], calibration=[], epochs=[{"auc": 0.7}], slices=[])
    assert svg_figures(bare) == {}
    assert set(svg_figures(report_of(epochs=[{"auc": 0.7}, {"auc": 0.8}]))) == set(drawings)


@pytest.mark.usefixtures("_undrawn")
def test_a_report_of_an_earlier_version_loads_and_has_a_page(tmp_path: Path) -> None:
    later = {"data", "written_ms", "verdict", "rivals", "epochs", "calibration", "histogram", "importance", "profile"}
    earlier = {name: value for name, value in asdict(report_of()).items() if name not in later | {"drift"}}
    write_json(tmp_path / "report.json", earlier)
    report = TrainingReport.load(tmp_path / "report.json")
    assert {field.name for field in fields(report)} >= later
    assert report.warnings == []
    assert "An earlier version wrote this report" in Reader(page(report)).text


@pytest.mark.usefixtures("_undrawn")
def test_the_page_is_written_beside_the_report(tmp_path: Path) -> None:
    assert write_page(report_of(), tmp_path) == tmp_path / PAGE_FILE
    assert (tmp_path / PAGE_FILE).read_text(encoding="utf-8") == page(report_of())


def test_the_summary_warns_and_says_where_the_page_lies(tmp_path: Path) -> None:
    report = report_of(verdict="DIN is not good", drift=MOVED)
    table = markdown(report.table, report.notes)
    assert summary(report_of(), tmp_path) == table
    (tmp_path / PAGE_FILE).touch()
    assert summary(report, tmp_path).removeprefix(table).splitlines() == [
        "", "  ! DIN is not good", "  ! the log has fewer <interactions>",
        f"  the report as a page: {tmp_path / PAGE_FILE}",
    ]  # fmt: skip


def test_without_matplotlib_there_are_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    reader = Reader(page(report_of()))
    assert "svg" not in reader.tags
    assert "figures need matplotlib" in reader.text
    assert "+0.0100 [+0.0020, +0.0200]" in reader.text


def test_a_page_that_fails_costs_no_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And no page of an earlier training stays to be taken for this one's."""
    (tmp_path / PAGE_FILE).write_text("an earlier page", encoding="utf-8")
    monkeypatch.setattr(module, "_plot_slices", lambda *_: 1 / 0)
    assert write_page(replace(report_of(), log_rows=7), tmp_path) is None
    assert capsys.readouterr().out == "no page of this training: ZeroDivisionError: division by zero\n"
    assert not (tmp_path / PAGE_FILE).exists()
