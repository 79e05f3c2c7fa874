"""Items as a reranker knows them: names, texts and vectors, in one file beside its manifest.

The service's item table holds encoded features, no words. This file holds the words that prompts are made of, and the
vectors by which similar events of a history are chosen (SUBR). Rows are found by the hashes that live histories hold.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from models.contract.arrays import FloatArray, IntArray
from models.contract.events import item_hash
from models.contract.lookup import HashIndex, PackedIds
from models.contract.reranker import RerankerError

_TEXTS = ("ids", "names", "texts")


@dataclass(frozen=True, slots=True)
class RerankItems:
    """Columns of n items: ids, short names for histories, descriptions of candidates, and ``vectors`` float32 [n, D],
    of unit length, or zeros where nothing is known. They have the precision of the file, so that training and service
    choose the same events."""

    ids: Sequence[str]
    names: Sequence[str]
    texts: Sequence[str]
    vectors: FloatArray
    _by_event: HashIndex

    @classmethod
    def of(cls, ids: Sequence[str], names: Sequence[str], texts: Sequence[str], vectors: FloatArray) -> RerankItems:
        """ValueError if the columns have different lengths."""
        if not len(ids) == len(names) == len(texts) == len(vectors):
            raise ValueError("ids, names, texts and vectors have different lengths")
        hashes = np.fromiter(map(item_hash, ids), np.uint64, len(ids))
        return cls(ids, names, texts, vectors.astype(np.float16).astype(np.float32), HashIndex.of(hashes, len(ids)))

    def __len__(self) -> int:
        return len(self.ids)

    def rows_of_hashes(self, hashes: npt.NDArray[np.uint64]) -> IntArray:
        """Rows [n] of ``item_hash`` values [n]; -1 for items that are not held."""
        return self._by_event.find(hashes) - 1

    def rows_of(self, ids: Sequence[str]) -> IntArray:
        """Rows [n] of item ids; -1 for items that are not held."""
        return self.rows_of_hashes(np.fromiter(map(item_hash, ids), np.uint64, len(ids)))

    def pack(self) -> bytes:
        """The file's content. Vectors are kept in float16: they only say what is similar."""
        columns: dict[str, npt.NDArray[np.generic]] = {"vectors": self.vectors.astype(np.float16)}
        for name in _TEXTS:
            packed = PackedIds.of(getattr(self, name))
            columns |= {name: packed.packed, f"{name}_ends": packed.ends}
        buffer = io.BytesIO()
        np.savez(buffer, **columns)  # type: ignore[arg-type]  # the stub types the keyword as allow_pickle
        return buffer.getvalue()

    @classmethod
    def unpack(cls, content: bytes, digest: str) -> RerankItems:
        """Inverse of ``pack``; RerankerError unless the content has that SHA-256."""
        if hashlib.sha256(content).hexdigest() != digest:
            raise RerankerError("the file of items is not the one that the manifest names")
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as file:
                ids, names, texts = (list(PackedIds(file[name], file[f"{name}_ends"])) for name in _TEXTS)
                return cls.of(ids, names, texts, file["vectors"].astype(np.float32))
        except (EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
            raise RerankerError(f"the file of items is damaged: {error}") from error
