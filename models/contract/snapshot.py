"""A release's item table as files that every process maps, and the stream that names what changed since.

Redis holds the records of items, one by one, and they are the truth; the snapshot is their bulk form at one moment.
``publish`` writes it beside the model, one .npy file for each column, named by a digest of its content. A service maps
the files privately and writes the items into that have changed since: only the pages that it writes to are its own.

Who writes item records names their items in a stream *before* the records, in entries of these fields::

    v      "1"; entries of another version say that anything may have changed
    of     whose records: a space's fingerprint, or a release's id for its feature records
    items  JSON list of ids; [] is a mark and names nothing; "*" stands for every item

A publication ends with a mark, whose entry id becomes the release's revision. What is loaded at a revision is current
up to that mark: what lies behind it may have been read before it was written, and is read again at the next revision.
A reader that does not find the mark it has loaded last, because the stream was trimmed, reads every item.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from xxhash import xxh3_128

from models.contract.arrays import IntArray
from models.contract.artifact import REMEDY, ArtifactError, unreadable
from models.contract.bulk import DecodedItems, ItemDecoder
from models.contract.items import FEATURE_COLUMNS, Columns, ItemTable, append_ids, blank_columns, lookup_columns

EVERY_ITEM = "*"
_VERSION = "1"
_PATTERN, _PARTIAL = "column-*.npy", ".partial"
FILES = (_PATTERN, f"column-*{_PARTIAL}")
"""Glob patterns of all that this module writes to a folder."""

_SPARE_SHARE, _SPARE_LEAST = 32, 64
"""Spare rows for items that come later: one in so many rows, and at least so many."""

_AT_ONCE = 1 << 20
"""Bytes that are hashed at once; the interpreter is let go meanwhile, and their pages are in memory afterwards."""

_LOOKUPS = frozenset(("ids", "id_ends", "id_hashes", "id_rows", "event_hashes", "event_rows", "alike_rows"))

Entry = tuple[bytes, Mapping[bytes, bytes]]
"""Id and fields of a stream entry, as Redis gives them."""


def change(of: str, ids: Sequence[str] | None) -> dict[Any, Any]:
    """The stream entry that names items whose records in ``of`` are about to be written; None: any of them."""
    return {"v": _VERSION, "of": of, "items": EVERY_ITEM if ids is None else json.dumps(list(ids))}


def changed_items(entries: Iterable[Entry], since: str, of: Collection[str]) -> list[str] | None:
    """Ids, each once, that entries name in any of ``of``; None if every item may have changed.

    The entries are those from ``since`` on, which is the first of them unless the stream was trimmed.
    """
    listed, scopes = iter(entries), {scope.encode() for scope in of}
    first = next(listed, None)
    if first is None or first[0].decode() != since:
        return None
    ids: dict[str, None] = {}
    for _, fields in listed:
        if fields.get(b"v") != _VERSION.encode():
            return None
        if fields.get(b"of") in scopes:
            try:
                ids.update(dict.fromkeys(json.loads(fields[b"items"])))
            except (KeyError, TypeError, ValueError):  # every item, or what nobody understands
                return None
        elif b"of" not in fields:
            return None
    return list(ids)


def filled_columns(decoder: ItemDecoder, ids: Sequence[str], decoded: Iterable[DecodedItems]) -> tuple[Columns, int]:
    """Columns of a table of ``ids`` with spare rows, and the number of its items: those with a valid record."""
    columns = blank_columns(decoder.schema, len(ids) + max(_SPARE_LEAST, len(ids) // _SPARE_SHARE))
    known: list[str] = []
    for part in decoded:
        valid = np.flatnonzero(part.valid)
        rows = slice(len(known) + 1, len(known) + 1 + len(valid))
        for name in FEATURE_COLUMNS:
            columns[name][rows] = part.columns[name][valid]
        known += [part.ids[at] for at in valid.tolist()]
    return columns | lookup_columns(known, len(columns["index"]) - 1), len(known)


def write_columns(folder: Path, columns: Columns) -> dict[str, str]:
    """Write each column to a file that has its name once it is complete and on the disk; the digests, by name. What is
    there already stays, unless it is damaged."""
    folder.mkdir(parents=True, exist_ok=True)
    digests = {name: _digest(column) for name, column in columns.items()}
    for name, column in columns.items():
        path = folder / file_of(digests[name])
        if capacity(folder, {"index": digests[name]}) is not None:
            os.utime(path)  # no release names it yet, and whoever prunes must not take it for a forgotten one
            continue
        partial = path.with_suffix(f".{secrets.token_hex(4)}{_PARTIAL}")
        with partial.open("xb") as file:
            np.save(file, np.ascontiguousarray(column), allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return digests


def read_columns(folder: Path, digests: Mapping[str, str], trusted: Collection[str] = ()) -> Columns:
    """Private mappings of columns: what is written to them stays with this process. Every page is in memory afterwards.

    ArtifactError if a file is missing, shorter than it says, or not of its digest; the files of the digests ``trusted``
    were looked at before and are what they were. ShortageError.
    """
    columns: Columns = {}
    for name, digest in digests.items():
        try:
            columns[name] = np.asarray(np.load(folder / file_of(digest), mmap_mode="c", allow_pickle=False))
        except Exception as error:  # numpy raises whatever its parsers do at a damaged header
            raise unreadable(f"item column {name!r}", error) from error
        content = columns[name].reshape(-1).view(np.uint8)
        if digest in trusted:
            content[:: os.sysconf("SC_PAGE_SIZE")].max(initial=0)
        elif _digest(columns[name]) != digest:
            raise ArtifactError(f"item column {name!r} is damaged; {REMEDY}")
    return columns


def capacity(folder: Path, digests: Mapping[str, str]) -> int | None:
    """How many items the files have rows for; None if one of them is missing or damaged."""
    try:
        return len(read_columns(folder, digests)["index"]) - 1
    except (ArtifactError, KeyError):
        return None


def file_of(digest: str) -> str:
    """Name of a column's file."""
    return f"column-{digest}.npy"


class TableUpdate:
    """A table that is being brought up to date: privately mapped columns into which items are written, and the rows
    that were. Afterwards it is only read."""

    def __init__(self, columns: Columns, items: int) -> None:
        self.columns = columns
        self.items = items
        self.rows: IntArray = np.zeros(0, np.int64)

    def table(self) -> ItemTable:
        """The table as it is now."""
        return ItemTable.of(self.columns, self.items)

    def take_over(self, before: TableUpdate) -> None:
        """Write what ``before``, an update of the same files, has written."""
        ids = before.table().ids[self.items + 1 :]
        if ids:
            append_ids(self.columns, ids)
        self.items, self.rows = before.items, before.rows
        for name, column in before.columns.items():
            if name not in _LOOKUPS:
                self.columns[name][self.rows] = column[self.rows]

    def write(self, decoded: DecodedItems) -> IntArray:
        """Write items, new ones into spare rows; rows of all that were written. ArtifactError if there are not enough.

        A new item needs features: the entries of a space also name items that this release has never listed. An item of
        which nothing is valid any more is from now on like the unknown one."""
        rows = self.table().rows_of(decoded.ids)
        new = np.flatnonzero((rows == 0) & decoded.featured)
        rows[new] = np.arange(self.items + 1, self.items + 1 + len(new))
        if self.items + len(new) >= len(self.columns["index"]):
            raise ArtifactError(f"the snapshot has no room for {len(new)} more items: publish again")
        at = np.flatnonzero(rows)
        for name in FEATURE_COLUMNS:
            self.columns[name][rows[at]] = decoded.columns[name][at]
        if len(new):
            append_ids(self.columns, [decoded.ids[item] for item in new.tolist()])
            self.items += len(new)
        self.rows = np.union1d(self.rows, rows[at])
        return rows[at]


def model_columns(columns: Columns) -> Columns:
    """The columns of a snapshot that its model's item graphs gave."""
    return {name: column for name, column in columns.items() if name not in {*FEATURE_COLUMNS, *_LOOKUPS}}


def _digest(column: np.ndarray[Any, Any]) -> str:
    """32 hex digits of an array's type, shape and content."""
    digest = xxh3_128(f"{column.dtype.str}{column.shape}".encode())
    content = np.ascontiguousarray(column).reshape(-1).view(np.uint8)
    for at in range(0, len(content), _AT_ONCE):
        digest.update(content[at : at + _AT_ONCE].data)
    return digest.hexdigest()
