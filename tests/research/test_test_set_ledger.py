"""The ledger of test-set uses: each candidate counts once, whatever is called how often."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from offline.data.catalogue import DataError
from research.test_set_ledger import Ledger

SCORES = {"1": "aa", "2": "bb"}


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "docs" / "looks.jsonl", "benchmark --config x")


def test_a_candidate_counts_once(ledger: Ledger) -> None:
    assert ledger.count("ml") == 0
    assert ledger.record("ml", "DIN", "f1", SCORES) == 1
    written = ledger.path.read_bytes()
    assert ledger.record("ml", "DIN", "f1", SCORES) == 1
    assert ledger.record("ml", "DIN", "f1", {"2": "bb"}) == 1
    assert ledger.path.read_bytes() == written
    line = json.loads(written)
    assert line.pop("date").endswith("+00:00")
    assert line == {
        "data": "ml",
        "model": "DIN",
        "fingerprint": "f1",
        "scores": SCORES,
        "command": "benchmark --config x",
    }


def test_other_models_circumstances_and_data_are_others(ledger: Ledger) -> None:
    ledger.record("ml", "DIN", "f1", SCORES)
    assert ledger.record("ml", "SIM", "f1", SCORES) == 2
    assert ledger.record("ml", "DIN", "f2", SCORES) == 3
    assert ledger.record("books", "DIN", "f1", SCORES) == 1
    assert (ledger.count("ml"), ledger.count("books")) == (3, 1)


def test_more_seeds_are_noted_and_are_no_further_look(ledger: Ledger) -> None:
    ledger.record("ml", "DIN", "f1", {"1": "aa"})
    assert ledger.record("ml", "DIN", "f1", SCORES) == 1
    assert len(ledger.path.read_text().splitlines()) == 2
    assert ledger.record("ml", "DIN", "f1", {"2": "bb"}) == 1
    assert ledger.record("ml", "DIN", "f1", {"2": "other"}) == 2


def test_other_scores_under_the_same_circumstances_are_a_further_look(ledger: Ledger) -> None:
    """As after a change of code that no configuration tells."""
    ledger.record("ml", "DIN", "", {"1": "aa"})
    assert ledger.record("ml", "DIN", "", {"1": "changed"}) == 2
    assert ledger.record("ml", "DIN", "", {"1": "aa"}) == 2
    assert ledger.record("ml", "DIN", "", {"1": "changed"}) == 2


def test_looks_at_once_lose_and_repeat_nothing(ledger: Ledger) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda at: ledger.record("ml", f"model {at % 5}", "", {"1": "aa"}), range(40)))
    assert ledger.count("ml") == 5
    assert len(ledger.path.read_text().splitlines()) == 5


@pytest.mark.parametrize("damage", ['{"data": "ml"', '{"data": "ml"}\n', "[]\n"])
def test_a_damaged_ledger_is_an_error_that_names_the_line(ledger: Ledger, damage: str) -> None:
    ledger.record("ml", "DIN", "f1", SCORES)
    with ledger.path.open("a") as file:
        file.write(damage)
    before = ledger.path.read_bytes()
    with pytest.raises(DataError, match=r"looks\.jsonl, line 2"):
        ledger.count("ml")
    with pytest.raises(DataError, match=r"looks\.jsonl, line 2"):
        ledger.record("ml", "SIM", "f1", SCORES)
    assert ledger.path.read_bytes() == before
