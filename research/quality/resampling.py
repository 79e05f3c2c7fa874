"""The resamples of offline/training/bootstrap.py, several times as fast where users are few, and means over samples.

How often positives of user u score above negatives of user v does not depend on the resample: it is counted once, and
the AUC of a resample with user weights w is then w' counts w over the weighted number of pairs. The counts are whole
and half numbers, so nothing is rounded before the last division.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from offline.training.bootstrap import Resamples

Array = npt.NDArray[Any]

_MOST_USERS = 4000  # whose pairs take 128 MB


class UserResamples(Resamples):
    """The same resamples of users as ``Resamples`` draws for the same samples, count and seed."""

    def __init__(self, label: Array, user: Array, count: int = 1000, seed: int = 0) -> None:
        """``label`` [n] 0 or 1 and ``user`` [n] of the samples."""
        super().__init__(label, user, count, seed)
        self._drawn = np.array(self._weights)  # [1 + count, users]

    def auc(self, score: Array) -> Array:
        """AUC [1 + count] of one set of scores [n]: of the whole set first, then of every resample."""
        if self._drawn.shape[1] > _MOST_USERS:
            return super().auc(score)
        # Equal scores count half: the mean of placing their positives before and after their negatives.
        below = self._won(np.lexsort((~self._label, score)))
        counts = (below + self._won(np.lexsort((self._label, score)))) / 2
        positives = self._drawn @ np.bincount(self._owner, self._label, self._drawn.shape[1])
        negatives = self._drawn @ np.bincount(self._owner, ~self._label, self._drawn.shape[1])
        pairs = positives * negatives
        won = np.einsum("ru,ru->r", self._drawn @ counts, self._drawn)
        return np.asarray(np.divide(won, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0))

    def mean(self, values: Array) -> Array:
        """Mean [1 + count] of one value per sample [n], such as its LogLoss, in the order of ``auc``."""
        users = self._drawn.shape[1]
        sums = self._drawn @ np.bincount(self._owner, values.astype(np.float64), users)
        return np.asarray(sums / (self._drawn @ np.bincount(self._owner, minlength=users)))

    def _won(self, order: Array) -> Array:
        """[users, users]: pairs of a positive of u and a negative of v in which the negative is first in ``order``."""
        users = self._drawn.shape[1]
        won, passed = np.zeros((users, users)), np.zeros(users)
        for owner, positive in zip(self._owner[order].tolist(), self._label[order].tolist(), strict=True):
            if positive:
                won[owner] += passed
            else:
                passed[owner] += 1
        return won
