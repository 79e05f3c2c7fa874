"""A search of every file and every key for what is of a user: ids, texts, addresses, vectors and events, as bytes."""

from __future__ import annotations

import gzip
import io
import json
import sqlite3
import zipfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import polars as pl
import redis


def contents(path: Path) -> Iterator[bytes]:
    """The bytes of a file, and what they say where it is packed."""
    raw = path.read_bytes()
    yield raw
    if path.suffix == ".npz":
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            for name in archive.namelist():
                yield archive.read(name)
    elif path.suffix == ".gz":
        yield gzip.decompress(raw)
    elif path.suffix == ".parquet":
        frame = pl.read_parquet(io.BytesIO(raw))
        for column in frame:
            if column.dtype == pl.Binary:
                yield b"\0".join(value or b"" for value in column.to_list())
            else:
                yield json.dumps(column.to_list(), ensure_ascii=False, default=str).encode()
    elif raw.startswith(b"SQLite format 3"):
        with closing(sqlite3.connect(path)) as connection:
            for (table,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
                for row in connection.execute(f"SELECT * FROM {table}").fetchall():
                    yield b"\0".join(cell if isinstance(cell, bytes) else str(cell).encode() for cell in row)


def files(folders: Iterable[Path]) -> Iterator[tuple[Path, Path]]:
    """(folder, file) of every file below the folders."""
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                yield folder, path


def in_redis(client: redis.Redis, prefix: str) -> Iterator[tuple[str, bytes]]:
    """(key, the key and its value) of everything under a prefix."""
    keys: Any = client.keys(f"{prefix}:*")
    for key in sorted(keys):
        kind: Any = client.type(key)
        value: Any
        match kind:
            case b"string":
                value = client.get(key)
            case b"hash":
                value = client.hgetall(key)
            case b"stream":
                value = client.xrange(key)
            case b"set":
                value = client.smembers(key)
            case b"list":
                value = client.lrange(key, 0, -1)
            case b"zset":
                value = client.zrange(key, 0, -1)
            case _:
                raise AssertionError(f"{key!r} is a {kind!r}")
        yield key.decode(), b"\0".join((key, *_flat(value)))


def _flat(value: Any) -> Iterator[bytes]:
    """All bytes in a nested reply."""
    if isinstance(value, bytes):
        yield value
    else:
        for part in (cell for pair in value.items() for cell in pair) if isinstance(value, dict) else value:
            yield from _flat(part)


def needles_of(texts: Iterable[str], blobs: Iterable[bytes] = ()) -> list[bytes]:
    """Texts as files may hold them: UTF-8, JSON and numpy's four bytes for a character; and packed bytes."""
    forms = {
        form for text in texts for form in (text.encode(), text.encode("utf-32-le"), json.dumps(text)[1:-1].encode())
    }
    return sorted(forms | set(blobs))


def hits(
    needles: Iterable[bytes], folders: Iterable[Path], client: redis.Redis, prefix: str
) -> Mapping[str, set[bytes]]:
    """Which needles are where: by the path of a file, or "redis " and what a key is of."""
    places: defaultdict[str, set[bytes]] = defaultdict(set)
    needles = list(needles)
    for folder, path in files(folders):
        for content in contents(path):
            if matching := {needle for needle in needles if needle in content}:
                places[str(path.relative_to(folder))] |= matching
    for key, content in in_redis(client, prefix):
        if matching := {needle for needle in needles if needle in content}:
            places[f"redis {key.removeprefix(prefix)}"] |= matching
    return places
