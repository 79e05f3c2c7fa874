"""The page: goal, looks, tables; with everything and with little; and that prose around it stays."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from research.quality.evaluation import CandidateRow, Evaluation, Spread
from research.quality.predictions import Trained
from research.quality.published import PUBLISHED
from research.quality.report import marker, page_section
from research.tables import write_table
from tests.research.quality.fakes import World


def tables(text: str) -> list[list[str]]:
    """Lines of each table."""
    return [block.splitlines() for block in re.findall(r"(?:^\|.*\n?)+", text, flags=re.MULTILINE)]


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def with_quality(evaluation: Evaluation, auc: float, logloss: float) -> Evaluation:
    """With these numbers in the chosen row."""

    def changed(row: CandidateRow) -> CandidateRow:
        return replace(row, auc=Spread(auc, 0.0004), logloss=Spread(logloss, None))

    return replace(
        evaluation, rows=tuple(changed(row) if row.candidate == evaluation.chosen else row for row in evaluation.rows)
    )


def test_the_main_table(everything: Evaluation) -> None:
    heads, _, *lines = tables(page_section(everything))[0]
    rows = [dict(zip(["model", "kind", *cells(heads)[2:]], cells(line), strict=True)) for line in lines]
    published = PUBLISHED["ml-1m"]
    assert len(rows) == len(published) + len(everything.rows)
    assert [row["AUC"] for row in rows[: len(published)]] == [f"{model.auc:.4f}" for model in published]
    names = [(row["model"], row["kind"], row["statistics"]) for row in rows[len(published) :]]
    assert names == [
        ("peer 2", "peer", "frozen"),
        ("peer 1", "peer", "frozen"),
        ("peer 0", "peer", "frozen"),
        ("ours", "ours", "live"),
        ("**ours**", "ours", "frozen"),
        ("ours without knowledge", "ours", "frozen"),
    ]
    of = {(row["model"], row["statistics"]): row for row in rows}
    ours = of["**ours**", "frozen"]
    assert re.fullmatch(r"0\.\d{4} ± 0\.\d{4}", ours["AUC"])
    assert re.fullmatch(r"\*\*\+0\.\d{4} \[\+0\.\d{4}, \+0\.\d{4}\]\*\*", ours["AUC against best peer"])
    assert re.fullmatch(r"\*\*-0\.\d{4} \[-0\.\d{4}, -0\.\d{4}\]\*\*", ours["LogLoss against best peer"])
    assert (ours["seeds"], ours["ms per 500 (quartiles)"]) == ("2", "4 (3.25 to 7)")
    assert (ours["parameters"], ours["training"]) == ("1,234", "90 s")
    assert of["peer 2", "frozen"]["AUC against best peer"] == "best peer"


def test_every_line_of_a_table_is_as_wide_as_its_head(everything: Evaluation) -> None:
    all_tables = tables(page_section(everything))
    assert len(all_tables) == 1 + 3 + 1  # all; slices of three models; shares
    for lines in all_tables:
        assert {line.count("|") for line in lines} == {lines[0].count("|")}


@pytest.mark.parametrize(
    ("auc", "logloss", "verdict"),
    [(0.8133, 0.5250, "met"), (0.8132, 0.5000, "not met"), (0.9, 0.5251, "not met")],
)
def test_the_goal_counts_the_frozen_row(everything: Evaluation, auc: float, logloss: float, verdict: str) -> None:
    page = page_section(with_quality(everything, auc, logloss))
    (line,) = [line for line in page.splitlines() if line.startswith("**Goal")]
    assert line.startswith(
        f"**Goal {verdict}** (AUC of at least 0.8133 and LogLoss of at most 0.5250 with frozen statistics)"
    )
    assert (
        f"ours, the best of ours on the validation split, has AUC {auc:.4f} ± 0.0004 and LogLoss {logloss:.4f}" in line
    )


def test_what_the_page_admits(everything: Evaluation) -> None:
    page = page_section(everything, ledger="looks.jsonl")
    assert (
        "Candidates that were ever scored on this test split: 10; they are listed in [looks.jsonl](looks.jsonl)."
        in page
    )
    assert "They picked the best epoch on the test set" not in page
    assert "They picked the best epoch on the test split, which flatters them; we never do." in page
    assert "The epoch of every model trained here was picked on the validation split." in page
    assert "Differences are to peer 2, the peer that is best on the validation split" in page
    assert "do not count for the goal" in page


def test_slices_and_shares(everything: Evaluation) -> None:
    page = page_section(everything)
    _, slices, *_, shares = tables(page)
    assert len(slices) == 2 + len(everything.slices) + len({part.group for part in everything.slices})
    assert cells(slices[0]) == ["slice", "samples", "users", "peer 2 AUC", "AUC", "difference [95 %]"]
    assert page.index("\nours:\n") < page.index("<summary>ours, live statistics</summary>")
    assert cells(shares[0]) == ["AUC with this part of the training rows", "1 %", "10 %", "100 %"]
    named = ["ours", "ours without knowledge", "ours over ours without knowledge [95 %]"]
    assert [cells(line)[0] for line in shares[2:]] == named
    assert [cell.count("[") for cell in cells(shares[4])] == [1, 1, 1, 1]


def some(small: World, which: str) -> list[Trained]:
    return {
        "no peers": [small.trained("ours", family="ours", ms_per_500=())],
        "only peers": [small.trained("peer"), small.trained("other peer", seed=2)],
        "only live": [small.trained("ours", family="ours", statistics="live")],
        "a reference": [small.trained("popularity", family="reference", epochs=())],
    }[which]


@pytest.mark.parametrize("which", ["no peers", "only peers", "only live", "a reference"])
def test_it_renders_with_little(small: World, tmp_path: Path, which: str) -> None:
    evaluation = small.evaluate(some(small, which), tmp_path)
    page = page_section(evaluation)
    for lines in tables(page):
        assert {line.count("|") for line in lines} == {lines[0].count("|")}
    assert "nan" not in page.lower()
    assert "None" not in page
    assert "±" not in "".join(tables(page)[0])  # one seed each
    goal = next(line for line in page.splitlines() if "Goal" in line)
    assert ("no model of ours" in goal) == (which != "no peers")
    assert ("Differences are to" in page) == (which == "only peers")
    assert ("quality-auc-ms.svg" in page) == (which != "no peers")


def test_the_validation_split_is_no_result(small: World, tmp_path: Path) -> None:
    page = page_section(small.evaluate(small.everything(), tmp_path, split="validation"))
    assert "no result" in page
    assert "Goal" not in page
    assert "published" not in page.lower()


def test_who_was_left_out_is_named(everything: Evaluation) -> None:
    assert "Not scored on it: DIN, SIM." in page_section(replace(everything, left_out=("DIN", "SIM")))


def test_a_data_set_without_a_goal(everything: Evaluation) -> None:
    page = page_section(replace(everything, name="books"))
    assert "Goal" not in page
    assert "published" not in page.lower()


def test_prose_outside_the_markers_stays(everything: Evaluation, tmp_path: Path) -> None:
    """As the study command puts it into the page."""
    page = tmp_path / "quality.md"
    page.write_text("# Quality\n\nProse.\n\n<!-- quality ml-1m -->\nold\n<!-- /quality ml-1m -->\n\nMore prose.\n")
    for _ in range(2):
        write_table(marker(everything), page_section(everything), page)
        text = page.read_text()
        assert text.startswith("# Quality\n\nProse.\n\n<!-- quality ml-1m -->\n162 samples")
        assert text.endswith("\n<!-- /quality ml-1m -->\n\nMore prose.\n")
        assert text.count("| model |") == 1
