"""The page: goals judged from results, parts between markers, prose left alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.serving import page
from bench.serving.goals import auc_of, goal_results, goals_text
from bench.serving.results import Result, load_result, save_result
from bench.serving.tails import queue_ratio

ROOT = Path(__file__).parents[2]


def result(part: str, numbers: dict[str, Any]) -> Result:
    return Result(part=part, commit="abc", effort="full", at=0.0, seconds=9.0, found=numbers)


def rates(**each: float) -> dict[str, list[dict[str, float]]]:
    return {name.replace("_", " "): [{"requests_per_second": rate, "p99": 1.0}] * 3 for name, rate in each.items()}


@pytest.fixture
def results() -> dict[str, Result]:
    servers = rates(ours=800.0, plain_FastAPI=300.0, bare=1000.0)
    cases = {f"{count} {kind}": servers for count in (100, 500) for kind in ("top50", "all")}
    cost = {str(n): [{"cpu_ms": 0.5 + 0.002 * n, "p50": 1.0}] * 2 for n in (1, 100, 1000)}
    events = {str(n): [{"cpu_ms": 1.0, "p50": 1.0}] * 2 for n in (50, 10_000)}
    curves = {"candidates": cost, "events": events, "items": events, "users": events, "history_length": 1024}
    memory = {str(n): {"pss": 100.0 + 10 * n, "rss": 120.0 * n, "processes": 1.0} for n in (1, 2, 3)}
    rounds = {str(n): [{"cpu_ms": 1.0, "requests_per_second": 900.0, "least_over_most": 0.9}] for n in (1, 2)}
    return {
        "facts": result("facts", {"processor": "made up", "cores": "2"}),
        "sides": result("sides", {"cases": cases}),
        "scaling": result("scaling", curves),
        "workers": result("workers", {"rounds": rounds, "memory": memory, "items": 1000}),
    }


def test_goals_are_judged_from_what_was_measured(results: dict[str, Result]) -> None:
    lines = {(line.number, line.goal): line for line in goal_results(results)}
    assert [line.met for line in lines.values() if line.number == "1"] == [True] * 6
    fixed = next(line for line in lines.values() if "fixed part" in line.goal)
    assert fixed.met is False
    assert fixed.measured.startswith("0.500 ms")
    assert [line.met for line in lines.values() if line.number == "5"] == [True, True]
    assert [line.met for line in lines.values() if line.number == "2"] == [None]
    assert "not met" in goals_text(results)


def test_speed_counts_only_with_the_better_auc() -> None:
    page = (ROOT / "docs" / "quality.md").read_text()
    assert 0.5 < auc_of("DIN (FuxiCTR)", page) < auc_of("Lorank", page) < 1.0
    with pytest.raises(ValueError, match="no row of SIM"):
        auc_of("SIM", page)


def test_the_page_keeps_its_prose(results: dict[str, Result], tmp_path: Path) -> None:
    path = tmp_path / "performance.md"
    text = (ROOT / "docs" / "performance.md").read_text()
    path.write_text(text.replace("## What stands in the way", "## What stands in the way\n\nMuch."))
    page.write_page(path, results)
    written = path.read_text()
    assert "## What stands in the way\n\nMuch." in written
    assert "| processor | made up |" in written
    assert "| 4 | 10,000 events cost at most 1.2 times 50 | 1.00 (1.00 to 1.00) | met |" in written
    assert "![Processor time per request](figures/performance-scaling.svg)" in written
    drawn = {path.name for path in (tmp_path / "figures").iterdir()}
    assert drawn == {f"performance-{part}.svg" for part in ("sides", "scaling", "workers")}
    page.write_page(path, results)
    assert path.read_text() == written


def test_a_page_without_a_place_is_refused() -> None:
    with pytest.raises(page.PageError, match="no place for tails"):
        page.placed("# Performance\n", "tails", "x")


def test_the_page_has_a_place_for_every_part() -> None:
    text = (ROOT / "docs" / "performance.md").read_text()
    for part in ["goals", *page.PARTS]:
        page.placed(text, part, "x")


def test_results_are_kept_by_part(tmp_path: Path) -> None:
    saved = save_result("tails", "quick", 1.0, {"p50": 2.0}, tmp_path)
    assert load_result("tails", tmp_path) == saved
    assert load_result("sides", tmp_path) is None


def test_a_queue_of_random_arrivals_has_a_known_spread() -> None:
    """M/D/1: nobody waits for a server that is idle, and waiting grows with the load."""
    assert queue_ratio(0.01) == pytest.approx(1.0, abs=0.1)
    assert 2.0 < queue_ratio(0.5) < queue_ratio(0.8)
