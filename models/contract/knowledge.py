"""Packed knowledge records, and the spaces that make two vectors comparable.

A record is what an offline job knows about one user or one item in one space: ``rows`` vectors of ``dim`` numbers
(a user has one row per closed interest partition, an item has one row) and, where the method yields them,
integer codes. It names its owner and its space and says when it was written and when it expires, so that a reader
can tell fresh from stale, and refuses what belongs to somebody or something else.

Layout, little-endian::

    0  magic b"LK"   2  version u8   3  dtype u8 (0 float16, 1 int8)   4  rows u16   6  dim u16
    8  codes u8      9  reserved u8  10 owner length u16               12 scale f32
    16 written_at i64 (unix s)       24 expires_at i64 (unix s)        32 space 8 bytes
    40 owner utf-8   .. codes u16[]  .. values float16|int8[rows*dim]  .. crc32 u32 of all before
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, Field

from models.contract.arrays import FloatArray
from models.contract.schema import FrozenConfig, fingerprint

_HEADER = struct.Struct("<2sBBHHBBHfqq8s")
MAGIC, VERSION = b"LK", 1
LEAST_PEAK = 1e-30
"""A record of nothing larger packs to int8 zeros: its scale would lose precision as a subnormal float32."""
DTYPES: dict[int, np.dtype[np.generic]] = {0: np.dtype("<f2"), 1: np.dtype("<i1")}


class RecordError(ValueError):
    """A packed record that must not be used: damaged, of another owner, space or version."""


class Space(BaseModel):
    """Whatever makes two vectors comparable. Equal fingerprints mean comparable vectors.

    ``components`` names every part that shapes a vector: LLM, prompt, encoder, projection weights and so on.
    """

    model_config = FrozenConfig

    name: str
    side: Literal["user", "item"]
    rows: Annotated[int, Field(ge=1, le=65535)]
    dim: Annotated[int, Field(ge=1, le=65535)]
    dtype: Literal["float16", "int8"] = "float16"
    components: Mapping[str, str]

    @property
    def key(self) -> str:
        """The space's name in manifests, as in ``KnowledgeSpec.key``: "user/liber"."""
        return f"{self.side}/{self.name}"

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits; part of every key and of every record of the space."""
        return fingerprint(self.model_dump(mode="json"))


@dataclass(frozen=True, slots=True)
class KnowledgeRecord:
    """One owner's knowledge in one space. ``vectors`` is float32 [rows, dim]; ``codes`` is uint16 [n]."""

    owner: str
    space: str
    vectors: FloatArray
    written_at: int
    expires_at: int
    codes: tuple[int, ...] = ()

    def is_fresh(self, now: float) -> bool:
        """Whether the record has not expired at ``now`` (unix seconds); after that it is stale, and still readable."""
        return now < self.expires_at

    def pack(self, dtype: Literal["float16", "int8"] = "float16") -> bytes:
        """The bytes of the record. int8 is symmetric with one scale per record; ValueError on NaN or infinity."""
        vectors = np.ascontiguousarray(self.vectors, dtype=np.float32)
        if vectors.ndim != 2:
            raise ValueError(f"knowledge vectors must be [rows, dim], got shape {vectors.shape}")
        if not np.isfinite(vectors).all():
            raise ValueError(f"knowledge of {self.owner!r} holds NaN or infinity")
        scale, code = 1.0, 0
        if dtype == "int8":
            code = 1
            peak = float(np.abs(vectors).max(initial=0.0))
            scale = peak / 127.0 if peak > LEAST_PEAK else 1.0
            values = np.rint(vectors / scale).astype("<i1")
        else:
            with np.errstate(over="ignore"):  # refused just below
                values = vectors.astype("<f2")
            if not np.isfinite(values).all():
                raise ValueError(f"knowledge of {self.owner!r} does not fit float16")
        owner = self.owner.encode()
        header = _HEADER.pack(
            MAGIC, VERSION, code, vectors.shape[0], vectors.shape[1], len(self.codes), 0, len(owner), scale,
            self.written_at, self.expires_at, bytes.fromhex(self.space),
        )  # fmt: skip
        body = header + owner + np.asarray(self.codes, "<u2").tobytes() + values.tobytes()
        return bytes(body + struct.pack("<I", zlib.crc32(body)))

    @classmethod
    def unpack(cls, blob: bytes, owner: str, space: str) -> KnowledgeRecord:
        """Inverse of ``pack``. RecordError unless the record is whole and belongs to ``owner`` and ``space``."""
        code, rows, dim, n_codes, codes_at, scale, written_at, expires_at = _checked(blob, owner, space)
        values_at, dtype = codes_at + 2 * n_codes, DTYPES[code]
        values = np.frombuffer(blob, dtype, rows * dim, values_at).astype(np.float32).reshape(rows, dim)
        return cls(
            owner=owner,
            space=space,
            vectors=values * np.float32(scale) if code == 1 else values,
            written_at=written_at,
            expires_at=expires_at,
            codes=tuple(int(code) for code in np.frombuffer(blob, "<u2", n_codes, codes_at)),
        )


def check(blob: bytes, owner: str, space: str) -> None:
    """RecordError unless ``KnowledgeRecord.unpack`` can read the record; in a fifth of its time."""
    _checked(blob, owner, space)


def _checked(blob: bytes, owner: str, space: str) -> tuple[int, int, int, int, int, float, int, int]:
    """(dtype, rows, dim, number of codes, where they begin, scale, written_at, expires_at) of a good record."""
    if len(blob) < _HEADER.size + 4:
        raise RecordError("knowledge record is too short")
    magic, version, code, rows, dim, n_codes, _, owner_length, scale, written_at, expires_at, space_bytes = (
        _HEADER.unpack_from(blob)
    )
    if magic != MAGIC or version != VERSION or code not in DTYPES:
        raise RecordError(f"knowledge record of unknown kind {magic!r} version {version} dtype {code}")
    dtype = DTYPES[code]
    codes_at = _HEADER.size + owner_length
    values_at = codes_at + 2 * n_codes
    end = values_at + rows * dim * dtype.itemsize
    if len(blob) != end + 4 or zlib.crc32(blob[:end]) != struct.unpack_from("<I", blob, end)[0]:
        raise RecordError("knowledge record is damaged")
    if blob[_HEADER.size : codes_at] != owner.encode():
        raise RecordError("knowledge record belongs to another owner")
    if space_bytes.hex() != space:
        raise RecordError(f"knowledge record is of space {space_bytes.hex()}, expected {space}")
    return code, rows, dim, n_codes, codes_at, scale, written_at, expires_at
