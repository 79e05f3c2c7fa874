"""A small made-up shop of books as files, and the configuration that names their columns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl

from models.contract.schema import FeatureSchema, FieldSpec
from offline.data.config import DataConfig
from offline.data.dataset import Dataset, open_dataset

RATINGS = [
    ("r1", "b1", 5, 1_700_000_000), ("r2", "b1", 2, 1_700_000_100), ("r1", "b2", 4, 1_700_000_200),
    ("r3", "b3", 1, 1_700_000_300), ("r2", "b3", 3, 1_700_000_400),
]  # fmt: skip
READERS = [("r1", "DE", 1970), ("r2", "BR", 1985), ("r3", None, None)]
BOOKS = [
    ("b1", "The Quiet Orchard", 1999, "History|Travel"),
    ("b2", 'A "loud" day', 2004, "Mystery"),
    ("b3", "Étoile", None, None),
]

SCHEMA = FeatureSchema(
    name="shop",
    user_fields=(FieldSpec(name="country", vocab=("BR", "DE")), FieldSpec(name="birth_year", edges=(1980,))),
    item_fields=(FieldSpec(name="subjects", vocab=("History", "Mystery", "Travel"), slots=2),),
    history_length=5,
)

TEXTS = {"item": '["{title}"|a book][ ({year})]', "topics_column": "subjects"}


def tables() -> dict[str, pl.DataFrame]:
    """The three tables as frames, by file name without suffix."""
    return {
        "ratings": pl.DataFrame(RATINGS, ["reader", "book", "stars", "at"], orient="row"),
        "readers": pl.DataFrame(READERS, ["reader", "country", "birth_year"], orient="row"),
        "books": pl.DataFrame(BOOKS, ["book", "title", "published", "subjects"], orient="row"),
    }


def write(folder: Path, suffix: str = ".csv", **changed: pl.DataFrame) -> None:
    """All tables into ``folder``, some of them replaced."""
    for name, frame in {**tables(), **changed}.items():
        path = folder / f"{name}{suffix}"
        if suffix == ".parquet":
            frame.write_parquet(path)
        else:
            frame.write_csv(path)


def config(folder: Path, suffix: str = ".csv", **changed: Any) -> DataConfig:
    """The configuration; ``changed`` tables are merged into its tables, key by key."""
    document: dict[str, Any] = {
        "source": "files",
        "interactions": {
            "paths": str(folder / f"ratings{suffix}"), "user": "reader", "item": "book", "value": "stars",
            "time": "at", "time_unit": "s",
        },
        "users": {
            "paths": str(folder / f"readers{suffix}"), "id": "reader",
            "columns": {"country": "text", "birth_year": "int"},
        },
        "items": {
            "paths": str(folder / f"books{suffix}"), "id": "book",
            "columns": {"title": "text", "year": {"column": "published", "type": "int"}, "subjects": "list"},
        },
        "texts": TEXTS,
    }  # fmt: skip
    for name, change in changed.items():
        document[name] = {**document.get(name, {}), **change} if isinstance(change, dict) else change
    return DataConfig.model_validate(document)


def source(folder: Path, suffix: str = ".csv", **changed: Any) -> Dataset:
    return open_dataset(config(folder, suffix, **changed), folder)
