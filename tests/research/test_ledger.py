"""The ledger of looks: each candidate counts once, whatever is called how often."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from offline.data.catalogue import DataError
from research.ledger import look, looks

SCORES = {"1": "aa", "2": "bb"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "docs" / "looks.jsonl"


def test_a_candidate_counts_once(path: Path) -> None:
    assert looks(path, "ml") == 0
    assert look(path, "ml", "DIN", "f1", SCORES, "benchmark --config x") == 1
    written = path.read_bytes()
    assert look(path, "ml", "DIN", "f1", SCORES) == 1
    assert look(path, "ml", "DIN", "f1", {"2": "bb"}) == 1
    assert path.read_bytes() == written
    line = json.loads(written)
    assert line.pop("date").endswith("+00:00")
    assert line == {
        "data": "ml",
        "model": "DIN",
        "fingerprint": "f1",
        "scores": SCORES,
        "command": "benchmark --config x",
    }


def test_other_models_circumstances_and_data_are_others(path: Path) -> None:
    look(path, "ml", "DIN", "f1", SCORES)
    assert look(path, "ml", "SIM", "f1", SCORES) == 2
    assert look(path, "ml", "DIN", "f2", SCORES) == 3
    assert look(path, "books", "DIN", "f1", SCORES) == 1
    assert (looks(path, "ml"), looks(path, "books")) == (3, 1)


def test_more_seeds_are_noted_and_are_no_further_look(path: Path) -> None:
    look(path, "ml", "DIN", "f1", {"1": "aa"})
    assert look(path, "ml", "DIN", "f1", SCORES) == 1
    assert len(path.read_text().splitlines()) == 2
    assert look(path, "ml", "DIN", "f1", {"2": "bb"}) == 1
    assert look(path, "ml", "DIN", "f1", {"2": "other"}) == 2


def test_other_scores_under_the_same_circumstances_are_a_further_look(path: Path) -> None:
    """As after a change of code that no configuration tells."""
    look(path, "ml", "DIN", "", {"1": "aa"})
    assert look(path, "ml", "DIN", "", {"1": "changed"}) == 2
    assert look(path, "ml", "DIN", "", {"1": "aa"}) == 2
    assert look(path, "ml", "DIN", "", {"1": "changed"}) == 2


def test_looks_at_once_lose_and_repeat_nothing(path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda at: look(path, "ml", f"model {at % 5}", "", {"1": "aa"}), range(40)))
    assert looks(path, "ml") == 5
    assert len(path.read_text().splitlines()) == 5


@pytest.mark.parametrize("damage", ['{"data": "ml"', '{"data": "ml"}\n', "[]\n"])
def test_a_damaged_ledger_is_an_error_that_names_the_line(path: Path, damage: str) -> None:
    look(path, "ml", "DIN", "f1", SCORES)
    with path.open("a") as file:
        file.write(damage)
    before = path.read_bytes()
    with pytest.raises(DataError, match=r"looks\.jsonl, line 2"):
        looks(path, "ml")
    with pytest.raises(DataError, match=r"looks\.jsonl, line 2"):
        look(path, "ml", "SIM", "f1", SCORES)
    assert path.read_bytes() == before
