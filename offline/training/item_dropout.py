"""Item dropout: in training, some items are unknown to some users, so that a model learns to rank items without an id
embedding and without statistics, as new ones are (DropoutNet, Volkovs et al., NeurIPS 2017, hides them likewise).

Which items are unknown is drawn for each user and epoch and holds for all of the user's samples of the epoch, as
candidates and in histories. So whatever is computed of a history beforehand can be computed of the same one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from models.contract.arrays import Array, BoolArray, FloatArray
from models.contract.encoding import Tensors
from offline.config import TrainingConfig
from offline.training.samples import SampleEncoder

SHARE_OF_DRAWN = 0.25
"""Share of the items that are unknown where negatives are drawn. A draw has always appeared already, so an item without
any event would be a positive by that alone; with dropout as many negatives as positives have none."""


@dataclass(frozen=True, slots=True)
class ItemDropout:
    """A ``share`` of the items, drawn anew by ``seed`` for each user and epoch; ``unknown`` [N] are the statistics of
    an item without events."""

    share: float
    unknown: FloatArray
    seed: int

    @classmethod
    def of(cls, config: TrainingConfig, encoder: SampleEncoder, seed: int) -> ItemDropout:
        """The dropout of a training."""
        share = config.item_dropout
        if share is None:
            share = SHARE_OF_DRAWN if encoder.log.sampled.any() else 0.0
        return cls(share, encoder.table.numeric[0], seed)

    def applied(self, tensors: Tensors, user: Array, epoch: int) -> Tensors:
        """The tensors of samples or of whole histories of these users [B], with their unknown items as such."""
        if not self.share:
            return tensors
        changed, hidden = dict(tensors), self.hidden(user, tensors["item_index"], epoch)
        changed["item_index"] = np.where(hidden, 0, tensors["item_index"])
        changed["item_numeric"] = self._statistics(tensors["item_numeric"], hidden)
        if "history_index" in tensors:  # in whole histories candidates are the history
            hidden = self.hidden(user, tensors["history_index"], epoch)
            changed["history_index"] = np.where(hidden, 0, tensors["history_index"])
        changed["history_numeric"] = self._statistics(tensors["history_numeric"], hidden)
        return changed

    def hidden(self, user: Array, index: Array, epoch: int) -> BoolArray:
        """Mask [B, ..] of the items at rows ``index`` [B, ..] of the id embeddings that are unknown to their user [B],
        though they have a row."""
        keys = np.random.default_rng([self.seed, epoch]).integers(2**64, size=2, dtype=np.uint64)
        users = user.astype(np.uint64).reshape(-1, *[1] * (index.ndim - 1))
        drawn = _mixed(_mixed(users + keys[0]) + index.astype(np.uint64) * keys[1])
        return (index > 0) & (drawn >> np.uint64(11) < np.uint64(self.share * 2**53))

    def _statistics(self, numeric: Array, hidden: BoolArray) -> FloatArray:
        return np.where(hidden[..., None], self.unknown, numeric).astype(np.float32)


def _mixed(words: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Words whose bits all depend on all bits of the given ones (the finaliser of SplitMix64; Steele, Lea and Flood,
    OOPSLA 2014)."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))
