"""The numbers of one set of scores, with their resamples; kept on disk, since they take a second or two each.

What is kept lies under a digest of everything that it came from, so that it can be deleted at any time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from models.contract.arrays import Array
from offline.data.files import read_arrays, write_arrays
from offline.metrics import expected_calibration_error, gauc, log_losses, ndcg_at
from offline.training.bootstrap import Resamples
from research.quality.slices import Slice

_VERSION = "1"
"""Version of the stored numbers; a change of how they are computed takes a new one."""


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """``auc`` and ``logloss`` [1 + count] of all samples and of every resample; ``gauc``, NDCG@10 and ECE."""

    auc: Array
    logloss: Array
    gauc: float
    ndcg: float
    ece: float


class Measure:
    """Measures scores of the same n samples, on the same resamples of their users."""

    def __init__(
        self, label: Array, user: Array, slices: Sequence[Slice], count: int = 1000, cache: Path | None = None
    ) -> None:
        """``label`` [n] with both labels in it, ``user`` [n]; ``count`` resamples; ``cache`` is a folder."""
        self._label, self._user, self._count, self._cache = label, user, count, cache
        self._slices = [part for part in slices if label[part.mask].min() != label[part.mask].max()]
        self._whole = Resamples(label, user, count)
        self._parts: dict[int, Resamples] = {}

    def whole(self, score: Array) -> Measured:
        """Of all samples, from ``score`` [n]."""

        def measured() -> dict[str, Array]:
            label, user = self._label, self._user
            others = (
                gauc(label, score, user, least=1),
                ndcg_at(label, score, user),
                expected_calibration_error(label, score),
            )
            losses = self._whole.mean(log_losses(label, score))
            return {"auc": self._whole.auc(score), "logloss": losses, "others": np.array(others)}

        numbers = self._cached("whole", [score], measured)
        within, ndcg, ece = (float(value) for value in numbers["others"])
        return Measured(numbers["auc"], numbers["logloss"], within, ndcg, ece)

    def parts(self, score: Array) -> dict[str, Array]:
        """AUC [1 + count] of each slice that has both labels, by the slice's name."""

        def measured() -> dict[str, Array]:
            return {str(at): self._part(at).auc(score[part.mask]) for at, part in enumerate(self._slices)}

        numbers = self._cached("parts", [score, *(part.mask for part in self._slices)], measured)
        return {part.name: numbers[str(at)] for at, part in enumerate(self._slices)}

    def _part(self, at: int) -> Resamples:
        if at not in self._parts:
            mask = self._slices[at].mask
            self._parts[at] = Resamples(self._label[mask], self._user[mask], self._count)
        return self._parts[at]

    def _cached(self, kind: str, arrays: Sequence[Array], measured: Callable[[], dict[str, Array]]) -> dict[str, Array]:
        if self._cache is None:
            return measured()
        digest = hashlib.sha256(f"{kind} {_VERSION} {self._count}".encode())
        for array in (self._label, self._user, *arrays):
            digest.update(f" {array.dtype} {array.shape} ".encode() + np.ascontiguousarray(array).tobytes())
        path = self._cache / f"{digest.hexdigest()[:32]}.npz"
        if not path.is_file():
            write_arrays(path, **measured())
        return read_arrays(path)
