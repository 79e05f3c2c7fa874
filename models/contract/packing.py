"""Many records packed at once: knowledge as ``KnowledgeRecord.pack`` packs it, and items, in arrays.

A record is packed in two steps, because most records of a publication did not change. Its content is all that it says:
the record without its times and its check sum. Only what has to be written is sealed, that is, gets those two.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from models.contract import items, knowledge
from models.contract.arrays import Codes, FloatArray, IntArray
from models.contract.bulk import CRC, ITEM_HEAD, KNOWLEDGE_HEAD, SEALED, Bytes, number
from models.contract.knowledge import LEAST_PEAK, Space


@dataclass(frozen=True, slots=True)
class RecordKind:
    """A kind of record whose times begin at byte ``at``."""

    at: int
    times: struct.Struct

    def content(self, blob: bytes) -> bytes:
        """The bytes of a packed record without its times and checksum."""
        return blob[: self.at] + blob[self.at + self.times.size : -CRC]

    def says(self, blob: bytes, content: bytes) -> bool:
        """True if a packed record is whole and has this content."""
        return zlib.crc32(blob) == SEALED and self.content(blob) == content

    def times_of(self, blob: bytes) -> tuple[int, ...]:
        """Times (unix seconds) at which a packed record was written and, if it ever does, expires."""
        return self.times.unpack_from(blob, self.at)

    def sealed(self, contents: Iterable[bytes], *times: int) -> list[bytes]:
        """Packed records of these contents and times (unix s)."""
        at, stamp, sealed = self.at, self.times.pack(*times), []
        for content in contents:
            body = b"".join((content[:at], stamp, content[at:]))
            sealed.append(body + zlib.crc32(body).to_bytes(CRC, "little"))
        return sealed


KNOWLEDGE = RecordKind(KNOWLEDGE_HEAD.fields["written_at"][1], struct.Struct("<qq"))  # type: ignore[index]
ITEM = RecordKind(ITEM_HEAD.fields["written_at"][1], struct.Struct("<q"))  # type: ignore[index]


def _untimed(head: np.dtype[np.void]) -> np.dtype[np.void]:
    fields = [name for name in head.names or () if name not in ("written_at", "expires_at")]
    return np.dtype([(name, head[name]) for name in fields])


_KNOWLEDGE, _ITEM = _untimed(KNOWLEDGE_HEAD), _untimed(ITEM_HEAD)


def knowledge_contents(
    space: Space, owners: Sequence[str], rows: IntArray, vectors: FloatArray, codes: Codes
) -> list[bytes]:
    """Contents of the records of k ``owners`` in one space.

    ``rows`` int64 [k] says how many of the ``vectors`` float32 [sum of rows, dim] are whose; ``codes`` uint16 [k, n].
    ValueError, as ``KnowledgeRecord.pack`` has it, on NaN, infinity and what does not fit the numbers' format; and if
    there are more rows or codes, or longer names, than a record can say.
    """
    names = [owner.encode() for owner in owners]
    lengths = np.fromiter(map(len, names), np.int64, len(names))
    if len(vectors) != rows.sum() or len(codes) != len(names):
        raise ValueError(f"{len(names)} owners of {rows.sum()} rows, but {len(vectors)} vectors, {len(codes)} codes")
    if codes.shape[1] > 255 or vectors.shape[1] > 65535:
        raise ValueError(f"records of {vectors.shape[1]} numbers a row and {codes.shape[1]} codes cannot be packed")
    _refuse(owners, (rows > 65535) | (lengths > 65535), "has too many rows or too long a name")
    owner_of = np.repeat(np.arange(len(names)), rows)
    values, scale = _values(space, owners, owner_of, np.ascontiguousarray(vectors, np.float32))
    start = np.cumsum(rows) - rows
    contents = [b""] * len(names)
    for at in _alike(lengths, rows):
        count = int(rows[at[0]])
        head = np.zeros(len(at), _KNOWLEDGE)
        head["magic"], head["version"] = knowledge.MAGIC, knowledge.VERSION
        head["dtype"] = space.dtype == "int8"
        head["rows"], head["dim"], head["codes"] = count, vectors.shape[1], codes.shape[1]
        head["owner"], head["scale"], head["space"] = lengths[at], scale[at], number(space.fingerprint)
        mine = values[start[at][:, None] + np.arange(count)]
        _spread(contents, at, _bytes(head), _named(names, at), _bytes(codes[at].astype("<u2")), _bytes(mine))
    return contents


def item_contents(
    schema: str, owners: Sequence[str], index: IntArray, categorical: npt.NDArray[np.int32], numeric: FloatArray
) -> list[bytes]:
    """Contents of the records of n items: index int64 [n], categorical int32 [n, S], numeric float32 [n, N];
    ``schema`` is a fingerprint. ValueError if an index has more than 32 bits."""
    names = [owner.encode() for owner in owners]
    _refuse(owners, (index < 0) | (index >= 2**32), "has no index of 32 bits", "item")
    if len(numeric) != len(names) or len(categorical) != len(names):
        raise ValueError(f"{len(names)} items, but categorical {categorical.shape} and numeric {numeric.shape}")
    head = np.zeros(len(names), _ITEM)
    head["magic"], head["version"] = items.MAGIC, items.VERSION
    head["index"], head["schema"] = index, number(schema)
    cells = np.concatenate([_bytes(head), _bytes(categorical.astype("<i4")), _bytes(numeric.astype("<f4"))], axis=1)
    contents = [b""] * len(names)
    lengths = np.fromiter(map(len, names), np.int64, len(names))
    for at in _alike(lengths, np.zeros_like(lengths)):
        _spread(contents, at, cells[at], _named(names, at))
    return contents


def _values(
    space: Space, owners: Sequence[str], owner_of: IntArray, vectors: FloatArray
) -> tuple[npt.NDArray[np.generic], FloatArray]:
    """(vectors in the format of the space [R, dim], scale of each owner [k])."""
    _refuse(owners, owner_of[~np.isfinite(vectors).all(axis=1)], "holds NaN or infinity")
    if space.dtype == "int8":
        peak = np.zeros(len(owners), np.float32)
        np.maximum.at(peak, owner_of, np.abs(vectors).max(axis=1, initial=0.0))
        # As one by one: the quotient is taken in double precision, the division by it in single.
        scale = np.where(peak.astype(np.float64) > LEAST_PEAK, peak.astype(np.float64) / 127.0, 1.0).astype(np.float32)
        return np.rint(vectors / scale[owner_of][:, None]).astype("<i1"), scale
    with np.errstate(over="ignore"):  # refused just below
        values = vectors.astype("<f2")
    _refuse(owners, owner_of[~np.isfinite(values).all(axis=1)], "does not fit float16")
    return values, np.ones(len(owners), np.float32)


def _refuse(owners: Sequence[str], bad: npt.NDArray[np.generic], why: str, what: str = "knowledge of") -> None:
    """ValueError that names the first owner that is bad; ``bad`` are marks of owners or positions of them."""
    positions = np.flatnonzero(bad) if bad.dtype == np.bool_ else bad
    if len(positions):
        raise ValueError(f"{what} {owners[int(positions[0])]!r} {why}")


def _alike(lengths: IntArray, rows: IntArray) -> Iterator[IntArray]:
    """Positions of the records of one length of name and one number of rows after the other."""
    kind = lengths << 32 | rows
    order = np.argsort(kind, kind="stable")
    yield from np.split(order, np.flatnonzero(np.diff(kind[order])) + 1) if len(order) else ()


def _named(names: Sequence[bytes], at: IntArray) -> Bytes:
    joined = b"".join([names[place] for place in at.tolist()])
    return np.frombuffer(joined, np.uint8).reshape(len(at), len(joined) // len(at))


def _bytes(array: npt.NDArray[np.generic]) -> Bytes:
    """An array [g, ...] as bytes [g, width]."""
    flat = np.frombuffer(array.tobytes(), np.uint8)
    return flat.reshape(len(array), len(flat) // max(len(array), 1))


def _spread(contents: list[bytes], at: IntArray, *parts: Bytes) -> None:
    """Put the rows of ``parts`` [g, width], side by side, at their positions in ``contents``."""
    matrix = np.concatenate(parts, axis=1)
    joined, width = matrix.tobytes(), matrix.shape[1]
    for row, position in enumerate(at.tolist()):
        contents[position] = joined[row * width : (row + 1) * width]
