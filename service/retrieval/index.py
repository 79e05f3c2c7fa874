"""An index of item vectors: a FAISS file that all processes map, searched by inner product.

Knows FAISS and the rows of an item table. Does not know what is searched for, nor why.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from models.contract.arrays import BoolArray, FloatArray, IntArray
from models.contract.artifact import ArtifactError, ItemIndex, verify_file
from models.contract.items import ItemTable

Bits = npt.NDArray[np.uint8]


class FaissIndex:
    """Finds rows of an item table. Searches may run in several threads."""

    def __init__(self, index: Any, described: ItemIndex, rows: IntArray, table_rows: int) -> None:
        """``rows`` int64 [n]: the table's row of each position in the index, 0 for items that it does not hold."""
        self.described = described
        self._index = index
        self._rows = rows
        self._positions = np.full(table_rows, -1, np.int64)
        self._positions[rows] = np.arange(len(rows))
        self._positions[0] = -1

    @classmethod
    def open(cls, folder: Path, described: ItemIndex, table: ItemTable) -> FaissIndex:
        """ArtifactError if the file is missing, is not the published one, or cannot be read."""
        path = folder / described.file
        verify_file(path, described.sha256, f"index {described.file}")
        import faiss  # here, because an installation without indexes need not load it

        try:
            # The other way of mapping starts threads in each search of an IVF index, which cost a millisecond.
            named = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
            hashes = faiss.vector_to_array(named.id_map).view(np.uint64)
            inner = faiss.downcast_index(named.index)
            inner.referenced_objects = [named]  # it lives in there
        except Exception as error:
            raise ArtifactError(f"index {described.file} is no usable index: {error}") from error
        return cls(inner, described, table.rows_of_hashes(hashes), len(table))

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def is_exact(self) -> bool:
        """Whether a search looks at every vector, also where only few may be found."""
        return self.described.kind == "flat"

    def bits(self, allowed: BoolArray | None) -> Bits:
        """Which positions may be found, as ``nearest`` takes them, for rows bool [N] that may; None: all of them."""
        positions = np.ones(len(self._rows), np.bool_) if allowed is None else allowed[self._rows]
        return np.packbits(positions, bitorder="little")

    def without(self, bits: Bits, rows: IntArray) -> Bits:
        """A copy of ``bits`` with some rows excluded."""
        at = self._positions[rows]
        at = at[at >= 0]
        left = bits.copy()
        np.bitwise_and.at(left, at >> 3, ~(1 << (at & 7)).astype(np.uint8))
        return left

    def nearest(self, query: FloatArray, count: int, bits: Bits | None = None) -> IntArray:
        """Rows int64 [at most count] whose vectors have the largest inner products with ``query`` [D], the largest
        first; only those that ``bits`` allow."""
        count = min(count, len(self._rows))
        _, (positions,) = self._index.search(query[None], count, params=self._parameters(count, bits))
        rows: IntArray = self._rows[positions[positions >= 0]]
        return np.asarray(rows[rows > 0])

    def _parameters(self, count: int, bits: Bits | None) -> Any:
        import faiss

        selected = {} if bits is None else {"sel": faiss.IDSelectorBitmap(bits)}
        effort = self.described.effort
        if self.described.kind == "ivf":
            return faiss.SearchParametersIVF(nprobe=effort, **selected)
        if self.described.kind == "hnsw":
            return faiss.SearchParametersHNSW(efSearch=max(effort, count), **selected)
        return faiss.SearchParameters(**selected) if selected else None
