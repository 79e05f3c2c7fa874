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
    """``mean`` [width], ``components`` [dim, width]; rows are scaled so that projected texts have unit mean square."""

    mean: FloatArray
    components: FloatArray

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.mean.tobytes() + self.components.tobytes()).hexdigest()[:16]

    def apply(self, vectors: FloatArray) -> FloatArray:
        """[n, width] -> [n, dim].

        In double precision: in single precision the sums depend on how many rows are projected together, and a record
        whose text did not change would be written again for its last bit.
        """
        centered = vectors.astype(np.float64) - self.mean
        return (centered @ self.components.T.astype(np.float64)).astype(np.float32)

    @classmethod
    def fit(cls, vectors: FloatArray, dim: int, what: str = "encoded texts") -> Projection:
        """The ``dim`` leading principal components of ``vectors`` [n, width], which are called ``what`` if they are too
        few: TooFewError unless n > dim, because n of them span n - 1 dimensions once they are centred."""
        if len(vectors) <= dim:
            raise TooFewError(f"{dim + 1} {what} to fit {dim} dimensions, there are {len(vectors)}")
        if (vectors == vectors[0]).all():  # they span nothing, and there is nothing to scale by
            raise TooFewError(f"{what} that differ to fit {dim} dimensions, all {len(vectors)} are alike")
        from sklearn.decomposition import PCA

        analysis = PCA(n_components=dim, svd_solver="covariance_eigh").fit(vectors.astype(np.float64))
        scale = np.sqrt(analysis.explained_variance_.sum() / dim)
        return cls(analysis.mean_.astype(np.float32), (analysis.components_ / scale).astype(np.float32))

    def save(self, path: Path) -> None:
        write_arrays(path, mean=self.mean, components=self.components)

    @classmethod
    def load(cls, path: Path) -> Projection:
        arrays = read_arrays(path)
        return cls(arrays["mean"], arrays["components"])
