"""A cheap probe: how well compressed vectors match users with items, in seconds and without a CTR model.

It sees the two vectors and, if given, a few numbers per pair, and says whether a setting is worth training a CTR model
on. It is fitted and judged inside the training period, never on a test split.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.contract.arrays import FloatArray
from offline.knowledge.marc.pairs import Pairs
from offline.llm.in_process import repeatable
from offline.metrics import auc

_WIDTH, _EPOCHS, _PATIENCE, _BATCH, _DROPOUT = 64, 20, 2, 256, 0.3


class _Probe(nn.Module):
    """(c_u, c_i, context) -> logit [B]: each side to 64 numbers, then one hidden layer over both and their product."""

    def __init__(self, user_dim: int, item_dim: int, context: int) -> None:
        super().__init__()
        self.user = nn.Linear(user_dim, _WIDTH)
        self.item = nn.Linear(item_dim, _WIDTH)
        self.inner = nn.Linear(3 * _WIDTH + context, _WIDTH)
        self.score = nn.Linear(_WIDTH, 1)

    def forward(self, user: Tensor, item: Tensor, context: Tensor) -> Tensor:
        users, items = (
            F.dropout(self.user(user), _DROPOUT, self.training),
            F.dropout(self.item(item), _DROPOUT, self.training),
        )
        inner = torch.relu(self.inner(torch.cat([users, items, users * items, context], 1)))
        score: Tensor = self.score(F.dropout(inner, _DROPOUT, self.training))
        return score.squeeze(1)


def probe_auc(
    learnt: Pairs, judged: Pairs, users: FloatArray, items: FloatArray, context: FloatArray | None = None, seed: int = 0
) -> float:
    """Matching AUC on ``judged`` of a fixed small network trained on ``learnt``, stopped on the last tenth of it.

    ``users`` [V, d] and ``items`` [N, d] are what ``Compressor.compress`` made; ``context`` [log rows, k] are numbers
    known before each row, such as running shares of likes.
    """
    seen, stop = learnt.parted(0.1)
    numbers = (
        np.zeros((int(max(learnt.row.max(), judged.row.max())) + 1, 0), np.float32) if context is None else context
    )
    tables = torch.from_numpy(users), torch.from_numpy(items), torch.from_numpy(numbers)
    with repeatable(seed):
        network = _Probe(users.shape[1], items.shape[1], numbers.shape[1])
        optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=1e-2, foreach=True)
        shuffle = np.random.default_rng(seed)
        best, result, since = 0.0, 0.5, 0
        for _ in range(_EPOCHS):
            network.train()
            order = shuffle.permutation(len(seen))
            for at in range(0, len(order), _BATCH):
                batch = seen.at(order[at : at + _BATCH])
                loss = F.binary_cross_entropy_with_logits(
                    _logits(network, batch, tables), torch.from_numpy(batch.liked)
                )
                optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
                optimizer.step()
            area, since = _judge(network, stop, tables), since + 1
            if area > best:
                best, result, since = area, _judge(network, judged, tables), 0
            if since == _PATIENCE:
                break
    return result


def _logits(network: _Probe, pairs: Pairs, tables: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    users, items, context = tables
    logits: Tensor = network(users[pairs.version], items[pairs.item], context[pairs.row])
    return logits


@torch.inference_mode()
def _judge(network: _Probe, pairs: Pairs, tables: tuple[Tensor, Tensor, Tensor]) -> float:
    network.eval()
    return area_under_curve(pairs.liked, _logits(network, pairs, tables).numpy())


def area_under_curve(liked: FloatArray, scores: FloatArray) -> float:
    """AUC; 0.5 where one class is missing."""
    return auc(liked, scores) if liked.min() < liked.max() else 0.5
