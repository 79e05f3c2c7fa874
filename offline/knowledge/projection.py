"""The frozen projection: wide text vectors -> the few dimensions that are served.

A principal component analysis, fitted once on texts of the training period and then kept: every later text is
projected with the same matrix, so vectors stay comparable. Fitting again makes a new space.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from models.contract.arrays import FloatArray
from offline.data.files import read_arrays, write_arrays
from offline.knowledge.errors import TooFewError


@dataclass(frozen=True, slots=True)
class Projection:
    """``mean`` [width], ``components`` [dim, width]; rows are scaled so that projected texts have unit mean square.
    Rows beyond the ``rank``, of which there are some where texts were few, are zeros."""

    mean: FloatArray
    components: FloatArray

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.mean.tobytes() + self.components.tobytes()).hexdigest()[:16]

    @property
    def rank(self) -> int:
        """The number of dimensions in which projected texts differ."""
        return int(self.components.any(axis=1).sum())

    def is_outgrown(self, vectors: FloatArray) -> bool:
        """Whether ``vectors`` [n, width] would fill all dimensions, or twice as many as are filled. Each new fit makes
        a new space, and a space wants a new model: data that grow have a handful of them and not one a day."""
        dim = len(self.components)
        most = min(dim, self.components.shape[1])
        return bool(self.rank < most and _rank(vectors, dim) >= min(most, max(1, 2 * self.rank)))

    def apply(self, vectors: FloatArray) -> FloatArray:
        """[n, width] -> [n, dim].

        In double precision: in single precision the sums depend on how many rows are projected together, and a record
        whose text did not change would be written again for its last bit.
        """
        centered = vectors.astype(np.float64) - self.mean
        return (centered @ self.components.T.astype(np.float64)).astype(np.float32)

    @classmethod
    def fit(cls, vectors: FloatArray, dim: int, what: str = "encoded texts") -> Projection:
        """The ``dim`` leading principal components of ``vectors`` [n, width]; n of them span n - 1 dimensions once they
        are centred, and the other dimensions stay zero. TooFewError, which calls them ``what``, if they span none."""
        if len(vectors) < 2:
            raise TooFewError(f"2 {what} to fit {dim} dimensions, there are {len(vectors)}")
        rank = _rank(vectors, dim)
        if not rank:  # they span nothing, and there is nothing to scale by
            raise TooFewError(f"{what} that differ to fit {dim} dimensions, all {len(vectors)} are alike")
        from sklearn.decomposition import PCA

        analysis = PCA(n_components=rank, svd_solver="covariance_eigh").fit(vectors.astype(np.float64))
        scale = np.sqrt(analysis.explained_variance_.sum() / dim)
        components = np.zeros((dim, vectors.shape[1]), np.float32)
        components[:rank] = analysis.components_ / scale
        return cls(analysis.mean_.astype(np.float32), components)

    @classmethod
    def standardising(cls, vectors: FloatArray, what: str) -> Projection:
        """The projection that takes the mean of each column of ``vectors`` [n, dim] from it and divides it by its
        deviation; nan counts in neither. A column that is constant is divided by 1. TooFewError, which calls the
        vectors ``what``, for fewer than two."""
        if len(vectors) < 2:
            raise TooFewError(f"2 {what} to standardise them, there are {len(vectors)}")
        wide = vectors.astype(np.float64)
        known = np.maximum(np.isfinite(wide).sum(axis=0), 1)
        mean = np.nansum(wide, axis=0) / known
        deviation = np.sqrt(np.nansum((wide - mean) ** 2, axis=0) / known)
        scale = np.where(deviation > 1e-6, deviation, 1.0)
        return cls(mean.astype(np.float32), np.diag(1 / scale).astype(np.float32))

    @classmethod
    def nothing(cls, width: int, dim: int) -> Projection:
        """The projection of texts of which there are too few to tell them apart: zeros."""
        return cls(np.zeros(width, np.float32), np.zeros((dim, width), np.float32))

    def save(self, path: Path) -> None:
        write_arrays(path, mean=self.mean, components=self.components)

    @classmethod
    def load(cls, path: Path) -> Projection:
        arrays = read_arrays(path)
        return cls(arrays["mean"], arrays["components"])


def _rank(vectors: FloatArray, dim: int) -> int:
    """The number of dimensions, ``dim`` at most, that different vectors [n, width] can fill. Of equal ones the further
    dimensions would be whatever a CPU makes of nothing."""
    most = min(dim, int(vectors.shape[1]))
    different: set[bytes] = set()
    for vector in vectors:
        different.add(vector.tobytes())
        if len(different) > most:
            return most
    return max(0, len(different) - 1)
