"""MovieLens-100K as carried by the wheel ``recbole==1.2.1``: the files are taken, the library is never imported.

MovieLens may be used for research and must not be redistributed, so it is fetched at run time and never committed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from offline.data.catalogue import Catalogue, DataError
from offline.data.config import MOVIELENS_COLUMNS
from offline.data.rules import Place, Problems
from offline.data.wheel import downloaded, lie_there, put

WHEEL = "recbole==1.2.1"
_FOLDER = "recbole/dataset_example/ml-100k"
FILES = {
    "ml-100k.inter": "4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff",
    "ml-100k.item": "51d7cdf777ce5c0f5b32c1d947a4a81fe07d75e78abbe761e0cd4d0756064532",
    "ml-100k.user": "4f670007d9cfbeb9807e757209af1555b9bcc186bde25e767f67cb67c6dd5972",
}
"""File name -> SHA-256 of the content this project was developed on."""

_ARTICLE = re.compile(r"^(?P<rest>.+), (?P<article>The|A|An|Les|Le|La|L'|Il|El|Das|Der|Die|Los|Las|I|Un|Une)(?= \(|$)")


class MovieLens100K:
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
        return fetch(self._folder)

    def catalogue(self, problems: Problems) -> Catalogue:
        return read_catalogue(self._folder)

    def rows(self, problems: Problems) -> Iterator[tuple[str, str, float, int]]:
        return read_ratings(self._folder)

    def place(self, number: int) -> Place:
        """Where the interaction of that number (from 0) stands."""
        return Place("ml-100k.inter", number + 1)


def fetch(folder: Path) -> bool:
    """Put the three files into ``folder``. False if they already lie there; DataError if they cannot be had."""
    if lie_there(folder, FILES):
        return False
    with downloaded(WHEEL) as archive:
        put(folder, {name: archive.read(f"{_FOLDER}/{name}") for name in FILES}, FILES)
    return True


def read_catalogue(folder: Path) -> Catalogue:
    """Users and items with their raw features, ids in numeric order."""
    users = {
        row["user_id"]: {"age": int(row["age"]), "gender": row["gender"], "occupation": row["occupation"]}
        for row in _rows(folder / "ml-100k.user")
    }
    items = {
        row["item_id"]: {
            "title": natural_title(row["movie_title"]),
            "year": int(row["release_year"]) if row["release_year"].isdigit() else None,
            "genres": [genre for genre in row["class"].split() if genre != "unknown"],
        }
        for row in _rows(folder / "ml-100k.item")
    }
    return Catalogue(
        users={user: users[user] for user in sorted(users, key=int)},
        items={item: items[item] for item in sorted(items, key=int)},
    )


def read_ratings(folder: Path) -> Iterator[tuple[str, str, float, int]]:
    """(user id, item id, stars, unix milliseconds) in file order."""
    for row in _rows(folder / "ml-100k.inter"):
        yield row["user_id"], row["item_id"], float(row["rating"]), int(float(row["timestamp"])) * 1000


def natural_title(title: str) -> str:
    """A title with its article in front: "Usual Suspects, The" -> "The Usual Suspects"."""
    return _ARTICLE.sub(_in_front, title)


def _in_front(match: re.Match[str]) -> str:
    article, rest = match["article"], match["rest"]
    return f"{article}{rest}" if article.endswith("'") else f"{article} {rest}"


def _rows(path: Path) -> Iterator[dict[str, str]]:
    if not path.is_file():
        raise DataError(f"{path} is not there: run `fetch`")
    with path.open(encoding="utf-8") as lines:
        names = [column.split(":")[0] for column in next(lines).rstrip("\n").split("\t")]
        for line in lines:
            yield dict(zip(names, line.rstrip("\n").split("\t"), strict=True))
