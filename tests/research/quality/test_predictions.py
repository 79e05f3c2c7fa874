"""Answers on disk: they come back as they were, and what is broken is named."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from offline.data.catalogue import DataError
from research.quality.predictions import Trained, load_trained, save_trained
from tests.research.quality.fakes import World


@pytest.fixture
def trained(small: World) -> Trained:
    return small.trained("DIN (FuxiCTR)", family="ours", seed=3, statistics="live", share=0.1)


def same(model: Trained, other: Trained) -> bool:
    return all(
        np.array_equal(getattr(model, field.name), getattr(other, field.name))
        and (
            not isinstance(getattr(model, field.name), np.ndarray)
            or one_type(model, field.name) == one_type(other, field.name)
        )
        for field in fields(Trained)
    )


def one_type(model: Trained, name: str) -> str:
    return str(getattr(model, name).dtype)


def test_what_is_saved_comes_back(trained: Trained, tmp_path: Path) -> None:
    save_trained(tmp_path / "a", "din-3", trained)
    assert same(load_trained(tmp_path / "a", "din-3"), trained)
    schema = dict(pl.read_parquet(tmp_path / "a" / "din-3.parquet").schema)
    assert schema == {"row": pl.Int64, "split": pl.Categorical, "label": pl.Float32, "score": pl.Float32}


def test_saving_again_replaces(trained: Trained, tmp_path: Path) -> None:
    save_trained(tmp_path, "din", trained)
    save_trained(tmp_path, "din", replace(trained, seed=4, score=1 - trained.score))
    assert load_trained(tmp_path, "din").seed == 4
    assert {path.name for path in tmp_path.iterdir()} == {"din.json", "din.parquet"}


def test_without_scores_too(small: World, tmp_path: Path) -> None:
    save_trained(tmp_path, "empty", small.trained("DIN", splits=()))
    assert len(load_trained(tmp_path, "empty").rows) == 0


def test_half_a_file_is_an_error_that_names_it(trained: Trained, tmp_path: Path) -> None:
    save_trained(tmp_path, "din", trained)
    table, description = tmp_path / "din.parquet", tmp_path / "din.json"
    whole = table.read_bytes()
    table.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"din\.parquet is absent, damaged"):
        load_trained(tmp_path, "din")
    table.unlink()
    with pytest.raises(DataError, match=r"din\.parquet is absent"):
        load_trained(tmp_path, "din")
    table.write_bytes(whole)
    text = description.read_text()
    description.write_text(text[: len(text) // 2])
    with pytest.raises(DataError, match=r"din\.json cannot be read"):
        load_trained(tmp_path, "din")
    description.write_text("[]")
    with pytest.raises(DataError, match=r"din\.json describes no model"):
        load_trained(tmp_path, "din")
    description.write_text(text.replace('"seconds"', '"minutes"'))
    with pytest.raises(DataError, match=r"din\.json lacks seconds"):
        load_trained(tmp_path, "din")
    description.write_text(text.replace('"frozen"', '"live"').replace('"live"', '"melted"'))
    with pytest.raises(DataError, match=r"din\.json: .*melted"):
        load_trained(tmp_path, "din")


def test_a_table_of_another_training_is_found_out(trained: Trained, tmp_path: Path) -> None:
    """As after a kill between the two files."""
    save_trained(tmp_path, "din", trained)
    save_trained(tmp_path, "other", replace(trained, score=1 - trained.score))
    (tmp_path / "other.parquet").replace(tmp_path / "din.parquet")
    with pytest.raises(DataError, match="of another training"):
        load_trained(tmp_path, "din")


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"family": "friend"}, "no family 'friend'"),
        ({"share": 0.0}, "no share"),
        ({"score": np.full(2, 1.5, np.float32)}, "no probability"),
        ({"score": np.full(2, np.nan, np.float32)}, "no probability"),
        ({"score": np.zeros(1, np.float32)}, "different lengths"),
        ({"label": np.full(2, 4, np.float32)}, "neither 0 nor 1"),
        ({"rows": np.zeros(2, np.int64)}, "scored twice"),
    ],
)
def test_what_cannot_be_judged_is_refused(small: World, changed: dict[str, object], problem: str) -> None:
    two = {"rows": np.arange(2), "split": np.full(2, "test"), "label": np.ones(2), "score": np.full(2, 0.5)}
    with pytest.raises(DataError, match=f"DIN, seed 1: .*{problem}"):
        replace(small.trained("DIN"), **(two | changed))  # type: ignore[arg-type]
