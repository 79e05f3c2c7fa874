"""The sources behind the one port: the conformance suite over all three, and what the port itself adds."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from models.contract.ids import NOBODY
from offline.data import tables
from offline.data.catalogue import DataError
from offline.data.config import DataConfig
from offline.data.dataset import Dataset, open_dataset
from offline.data.files import file_digest
from offline.data.movielens import MovieLens1M, MovieLens100K
from tests.conftest import ROOT
from tests.offline.data import shop, test_movielens, test_movielens_1m
from tests.suites.dataset import DataSourceSuite


class TestMovieLens100K(DataSourceSuite):
    @pytest.fixture
    def source(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Dataset:
        contents = {"user": test_movielens.USERS, "item": test_movielens.ITEMS, "inter": test_movielens.RATINGS}
        for name, content in contents.items():
            (tmp_path / f"ml-100k.{name}").write_text(content, encoding="utf-8")
        digests = {f"ml-100k.{name}": hashlib.sha256(text.encode()).hexdigest() for name, text in contents.items()}
        monkeypatch.setattr(MovieLens100K, "files", digests)
        return open_dataset(DataConfig(source="movielens-100k"), tmp_path)

    @pytest.fixture
    def absent(self, tmp_path: Path) -> Dataset:
        return open_dataset(DataConfig(source="movielens-100k"), tmp_path / "nowhere")


class TestMovieLens1M(DataSourceSuite):
    @pytest.fixture
    def source(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Dataset:
        for name, content in test_movielens_1m.FILES.items():
            (tmp_path / name).write_bytes(content)
        digests = {name: hashlib.sha256(content).hexdigest() for name, content in test_movielens_1m.FILES.items()}
        monkeypatch.setattr(MovieLens1M, "files", digests)
        return open_dataset(DataConfig(source="movielens-1m"), tmp_path)

    @pytest.fixture
    def absent(self, tmp_path: Path) -> Dataset:
        return open_dataset(DataConfig(source="movielens-1m"), tmp_path / "nowhere")


class TestCsvFiles(DataSourceSuite):
    suffix = ".csv"

    @pytest.fixture
    def source(self, tmp_path: Path) -> Dataset:
        shop.write(tmp_path, self.suffix)
        return shop.source(tmp_path, self.suffix)

    @pytest.fixture
    def absent(self, tmp_path: Path) -> Dataset:
        return shop.source(tmp_path / "nowhere", self.suffix)


class TestParquetFiles(TestCsvFiles):
    suffix = ".parquet"


def test_polars_is_loaded_for_files_only() -> None:
    code = "import sys, offline.config, offline.data.arrival; sys.exit('polars' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_either_kind_of_file_says_the_same(tmp_path: Path) -> None:
    readings = []
    for suffix in (".csv", ".parquet"):
        shop.write(tmp_path, suffix)
        source = shop.source(tmp_path, suffix)
        readings.append((list(source.interactions()), source.catalogue()))
    assert readings[0] == readings[1]


def test_the_fingerprint_follows_content_and_settings_but_not_words(tmp_path: Path) -> None:
    shop.write(tmp_path)
    first = shop.source(tmp_path).fingerprint
    described = shop.source(tmp_path).described
    assert shop.source(tmp_path, texts={"noun": "novel"}).fingerprint == first
    assert shop.source(tmp_path, interactions={"time_unit": "ms"}).fingerprint != first
    assert shop.source(tmp_path, nobody=list(NOBODY)).fingerprint == first
    assert shop.source(tmp_path, nobody=["0"]).fingerprint != first
    with (tmp_path / "ratings.csv").open("a") as file:
        file.write("r3,b1,5,1700000500\n")
    assert shop.source(tmp_path).fingerprint != first
    assert shop.source(tmp_path).described == described
    with (tmp_path / "books.csv").open("a") as file:
        file.write("b9,Late,2024,Travel\n")
    assert shop.source(tmp_path).described != described


def test_each_file_is_hashed_once_however_often_the_fingerprints_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.write(tmp_path)
    (tmp_path / "cast.csv").write_text("book,cast\nb1,Ann\n")
    source = shop.source(tmp_path, item_extra=[{"paths": str(tmp_path / "cast.csv"), "id": "book"}])
    hashed: list[str] = []

    def counted(path: Path) -> str:
        hashed.append(path.name)
        return file_digest(path)

    monkeypatch.setattr(tables, "file_digest", counted)
    for _ in range(3):
        assert source.fingerprint != source.described
    assert sorted(hashed) == ["books.csv", "cast.csv", "ratings.csv", "readers.csv"]


def test_further_item_columns_join_any_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, content in test_movielens_1m.FILES.items():
        (tmp_path / name).write_bytes(content)
    pl.DataFrame({"id": [2, 4, 77], "plot": ["Hats fall.", None, "Unknown."]}).write_parquet(tmp_path / "p.parquet")
    (tmp_path / "cast.csv").write_text("id,cast\n1,Ann; Bo\n")
    extra = [
        {"paths": str(tmp_path / "p.parquet"), "id": "id", "columns": {"plot": "text"}},
        {"paths": str(tmp_path / "cast.csv"), "id": "id", "columns": {"cast": {"type": "list", "separator": ";"}}},
    ]
    texts = {"item": '"{title}"[ with {cast}][: {plot}]'}
    config = DataConfig.model_validate({"source": "movielens-1m", "item_extra": extra, "texts": texts})
    items = open_dataset(config, tmp_path).catalogue().items
    assert [config.texts.item_text(items[item]) for item in items] == [
        "\"The Silent Orchard\" with Ann, Bo", '"Two Hats": Hats fall.', '"Étoile du nord (Star)"',
    ]  # fmt: skip
    findings = open_dataset(config, tmp_path).check(
        shop.SCHEMA.model_copy(update={"user_fields": (), "item_fields": ()})
    )
    assert findings.errors == []
    assert [line.split(":")[0] for line in findings.warnings] == ["extra_unknown"]
    assert "row 3" in findings.warnings[0]
    assert "'77'" in findings.warnings[0]


def test_a_column_of_two_tables_is_refused(tmp_path: Path) -> None:
    shop.write(tmp_path)
    (tmp_path / "more.csv").write_text("book,title\nb1,Other\n")
    source = shop.source(tmp_path, item_extra=[{"paths": str(tmp_path / "more.csv"), "id": "book"}])
    with pytest.raises(DataError, match=r"column_repeated: .*more\.csv, column 'title'"):
        source.catalogue()


def test_templates_are_checked_against_what_the_files_hold(tmp_path: Path) -> None:
    shop.write(tmp_path)
    source = shop.source(tmp_path, items={"columns": {}}, texts={"item": "{titel}"})
    with pytest.raises(DataError, match=r"template_column: .*texts\.item: there is no column 'titel'"):
        source.catalogue()


def test_labels_must_suit_the_schema(tmp_path: Path) -> None:
    shop.write(tmp_path, ratings=shop.tables()["ratings"].with_columns(stars=pl.col("stars") > 3))
    source = shop.source(tmp_path, labels={"kind": "binary"})
    (error,) = [line for line in source.check(shop.SCHEMA).errors if line.startswith("labels_schema")]
    assert "binary labels need value_min = 0, it is 1" in error
    assert "binary labels need value_max = 1, it is 5" in error
    binary = {"value_min": 0.0, "value_max": 1.0, "liked_above": 0.5, "value_center": 0.5, "value_scale": 0.5}
    assert source.check(shop.SCHEMA.model_copy(update=binary)).errors == []
    assert sorted({row[2] for row in source.interactions()}) == [0.0, 1.0]
