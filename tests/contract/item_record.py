"""One packed record of an item's features, written and read by itself: the reference for the arrays of ``packing`` and
``bulk``."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

import numpy as np

from models.contract.items import MAGIC, VERSION
from models.contract.knowledge import RecordError
from models.contract.schema import FeatureSchema

_HEADER = struct.Struct("<2sBBIq8s")


@dataclass(frozen=True, slots=True)
class ItemRecord:
    """Encoded features of one item. ``index`` is its row in the model's id embedding, 0 if the model has none."""

    owner: str
    schema: str
    index: int
    categorical: tuple[int, ...]
    numeric: tuple[float, ...]
    written_at: int

    def pack(self) -> bytes:
        header = _HEADER.pack(MAGIC, VERSION, 0, self.index, self.written_at, bytes.fromhex(self.schema))
        cells = np.asarray(self.categorical, "<i4").tobytes() + np.asarray(self.numeric, "<f4").tobytes()
        body = header + cells + self.owner.encode()
        return body + struct.pack("<I", zlib.crc32(body))

    @classmethod
    def unpack(cls, blob: bytes, owner: str, schema: FeatureSchema) -> ItemRecord:
        """Inverse of ``pack``. RecordError unless the record is whole and of this owner and schema."""
        owner_at = _HEADER.size + 4 * (schema.item_slots + schema.item_numbers)
        if len(blob) < owner_at + 4 or blob[:2] != MAGIC or blob[2] != VERSION:
            raise RecordError("item record of unknown kind or length")
        _, _, _, index, written_at, schema_bytes = _HEADER.unpack_from(blob)
        if schema_bytes.hex() != schema.fingerprint:
            raise RecordError(f"item record is of schema {schema_bytes.hex()}, expected {schema.fingerprint}")
        if zlib.crc32(blob[:-4]) != struct.unpack_from("<I", blob, len(blob) - 4)[0]:
            raise RecordError("item record is damaged")
        if blob[owner_at:-4] != owner.encode():
            raise RecordError("item record belongs to another owner")
        categorical = np.frombuffer(blob, "<i4", schema.item_slots, _HEADER.size)
        numeric = np.frombuffer(blob, "<f4", schema.item_numbers, _HEADER.size + 4 * schema.item_slots)
        return cls(owner, schema_bytes.hex(), index, tuple(categorical.tolist()), tuple(numeric.tolist()), written_at)
