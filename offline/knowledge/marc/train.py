"""Training of a compression: predict likes from compressed vectors, under MARC's information constraint.

L = BCE(M(c_u, c_i)) - alpha nHSIC(z, c) + beta nHSIC(c, m), our reading of arXiv 2604.18146 (no code is published): c
shall keep what the states z hold, and shall not itself become the matching network's state m. The language model is
frozen, so this is "MARC-style compression". Knows neither texts nor the log; pairs and states come from outside.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.contract.arrays import FloatArray
from offline.knowledge.config import CompressionConfig as CompressionConfig
from offline.knowledge.errors import TooFewError
from offline.knowledge.marc.frozen import Compressor
from offline.knowledge.marc.network import AttentionMatching, Compression, FeedForwardMatching
from offline.knowledge.marc.pairs import Pairs
from offline.knowledge.needs import LEAST_HELD_OUT
from offline.llm.in_process import repeatable
from offline.metrics import auc

_BIAS_RATE = 1e-2
_TINY = 1e-12


def gaussian_kernel(x: Tensor) -> Tensor:
    """[n, n] of exp(-d^2 / (2 median^2)) of the rows of ``x`` [n, D].

    The median distance is a constant of the gradient; it is taken over the pairs of an even and an odd row,
    because on a CPU the median of all costs more than everything else here.
    """
    square = x.square().sum(1)
    # not cdist: the gradient of a root is infinite at the distance zero that duplicate rows have
    distances = (square[:, None] + square[None, :] - 2.0 * x @ x.T).clamp(min=0.0)
    bandwidth = 2.0 * distances.detach()[::2, 1::2].flatten().median().clamp(min=_TINY)
    return torch.exp(-distances / bandwidth)


def nhsic(x: Tensor, y: Tensor) -> Tensor:
    """Dependence of paired rows of ``x`` [n, D] and ``y`` [n, E]: HSIC(X, Y) / sqrt(HSIC(X, X) HSIC(Y, Y)) in [0, 1].

    The biased estimator of the Hilbert-Schmidt independence criterion with Gaussian kernels (Gretton et al. 2005),
    HSIC = tr(K H L H) / (n - 1)^2, makes this the cosine of the centred kernel matrices. 0 where a sample is constant;
    ValueError for fewer than two rows or samples of different sizes. Independent samples are near 0 only where n is
    large against the number of effective dimensions: Gaussian noise in hundreds of dimensions is nearly equidistant,
    its kernel matrix nearly a multiple of the identity, and two such samples look alike. Compare values of one n and
    width only.
    """
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y) or len(x) < 2:
        raise ValueError(f"HSIC needs two paired samples of at least two rows, got {tuple(x.shape)}, {tuple(y.shape)}")
    kernels = gaussian_kernel(x), gaussian_kernel(y)
    centred = [k - k.mean(0, keepdim=True) - k.mean(1, keepdim=True) + k.mean() for k in kernels]
    return F.cosine_similarity(centred[0].flatten(), centred[1].flatten(), dim=0, eps=_TINY)


@dataclass(frozen=True, slots=True)
class Fitted:
    """A frozen compressor, and what the pairs that stopped its training said of it."""

    compressor: Compressor
    held_out_auc: float
    epochs: int


class TrainedModules(nn.Module):
    """Modules trained over the states: both compressions, one module where shared, and a matching network per width.

    Matryoshka has several widths; all other methods have the one of the whole vector. The biases take what is true of a
    user or an item alone. Without them the compression learns by heart how liked each item of the training period is,
    and a CTR model trained on the same period trusts that too much.
    """

    def __init__(
        self,
        config: CompressionConfig,
        widths: tuple[int, ...],
        users: FloatArray,
        items: FloatArray,
        size: tuple[int, int],
    ) -> None:
        """``users`` and ``items`` are states of the training period; ``size`` counts all versions and items."""
        super().__init__()
        if config.shared:
            both = np.concatenate([users, items])
            self.user = self.item = Compression(both, config.hidden, config.dim, config.dropout)
        else:
            self.user = Compression(users, config.hidden, config.dim, config.dropout)
            self.item = Compression(items, config.hidden, config.dim, config.dropout)
        kind = AttentionMatching if config.matching == "attention" else FeedForwardMatching
        self.matching = nn.ModuleDict({str(width): kind(width, config.matching_width) for width in widths})
        self.biases = nn.ParameterList([torch.zeros(count) for count in size] if config.biases else [])

    def forward(
        self, user: Tensor, item: Tensor, version: Tensor, film: Tensor
    ) -> tuple[Tensor, Tensor, list[tuple[Tensor, Tensor]]]:
        """(c_u, c_i, (logit, m) per width) of states [B, D] of ``version`` and ``film`` [B]."""
        users, items = self.user(user), self.item(item)
        alone = self.biases[0][version] + self.biases[1][film] if len(self.biases) else torch.zeros(())
        matched = []
        for width, network in self.matching.items():
            logit, state = network(users[:, : int(width)], items[:, : int(width)])
            matched.append((logit + alone, state))
        return users, items, matched

    def groups(self, config: CompressionConfig) -> list[dict[str, Any]]:
        """Parameter groups for the optimiser. A bias is met once or never in a batch, so it takes larger steps."""
        networks = [parameter for name, parameter in self.named_parameters() if not name.startswith("biases")]
        rest = {"params": networks, "lr": config.learning_rate, "weight_decay": config.weight_decay}
        return [rest, {"params": list(self.biases), "lr": _BIAS_RATE, "weight_decay": 0.0}]


def fit_compression(
    config: CompressionConfig,
    pairs: Pairs,
    users: FloatArray,
    items: FloatArray,
    method: str = "marc",
    widths: tuple[int, ...] = (),
) -> Fitted:
    """Train on ``pairs`` of states ``users`` [V, D] and ``items`` [N, D] and freeze the epoch that matched best.

    ``pairs`` must hold rows of the training period only; nothing else is looked at, neither for the fit nor for the
    standardisation. ``widths`` are nested losses (default: the whole vector). TooFewError if the pairs are.
    """
    learnt, held_out = pairs.parted(config.held_out)
    if len(held_out) < LEAST_HELD_OUT or len({*held_out.liked.tolist()}) < 2 or len({*learnt.liked.tolist()}) < 2:
        raise TooFewError(
            f"{math.ceil(LEAST_HELD_OUT / config.held_out)} interactions of the training period with texts on both "
            f"sides to train a compression, likes and others both among the last {config.held_out:.0%} and before, "
            f"there are {len(pairs)}, {int(pairs.liked.sum())} of them likes"
        )
    seen_users, seen_items = users[np.unique(learnt.version)], items[np.unique(learnt.item)]
    with repeatable(config.seed):
        size = len(users), len(items)
        network = TrainedModules(config, widths or (config.dim,), seen_users, seen_items, size)
        best, area, epochs = _train(config, network, learnt, held_out, torch.from_numpy(users), torch.from_numpy(items))
    network.load_state_dict(best)
    if config.shared:
        frozen = network.user.frozen().standardised(np.concatenate([seen_users, seen_items]))
        return Fitted(Compressor(method, frozen, frozen), area, epochs)
    user, item = network.user.frozen().standardised(seen_users), network.item.frozen().standardised(seen_items)
    return Fitted(Compressor(method, user, item), area, epochs)


def _train(
    config: CompressionConfig, network: TrainedModules, learnt: Pairs, held_out: Pairs, users: Tensor, items: Tensor
) -> tuple[dict[str, Tensor], float, int]:
    """(weights of the best epoch, its held-out AUC, epochs run)."""
    optimizer = torch.optim.AdamW(network.groups(config), foreach=True)
    shuffle = np.random.default_rng(config.seed)
    best, best_auc, since, epoch = copy.deepcopy(network.state_dict()), 0.0, 0, 0
    while epoch < config.epochs and since < config.patience:
        network.train()
        order = shuffle.permutation(len(learnt))
        for at in range(0, len(order) - 1, config.batch_size):
            rows = order[at : at + config.batch_size]
            if len(rows) < 2:
                continue
            batch = learnt.at(rows)
            loss = constrained_loss(config, network, users[batch.version], items[batch.item], batch)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            optimizer.step()
        epoch += 1
        area = auc(held_out.liked, _scores(network, held_out, users, items))
        since += 1
        if area > best_auc:
            best, best_auc, since = copy.deepcopy(network.state_dict()), area, 0
    return best, best_auc, epoch


def constrained_loss(
    config: CompressionConfig, network: TrainedModules, user: Tensor, item: Tensor, pairs: Pairs
) -> Tensor:
    """The loss of the module's docstring over the states ``user`` and ``item`` [B, D] of ``pairs``."""
    version, film, liked = (
        torch.from_numpy(array).to(user.device) for array in (pairs.version, pairs.item, pairs.liked)
    )
    users, items, matched = network(user, item, version, film)
    loss = torch.stack([F.binary_cross_entropy_with_logits(logit, liked) for logit, _ in matched]).mean()
    first = slice(config.constraint_rows)
    if config.alpha:
        sides = ((user[first], network.user, users[first]), (item[first], network.item, items[first]))
        preserved = [nhsic((z - side.centre) * side.scale, c) for z, side, c in sides]
        loss = loss - config.alpha * torch.stack(preserved).mean()
    if config.beta:
        compressed = torch.cat([users[first], items[first]], 1)
        shared = [nhsic(compressed, state[first]) for _, state in matched]
        loss = loss + config.beta * torch.stack(shared).mean()
    return loss


@torch.inference_mode()
def _scores(network: TrainedModules, pairs: Pairs, users: Tensor, items: Tensor) -> FloatArray:
    """Logits [n] of the widest matching network."""
    network.eval()
    parts = []
    for at in range(0, len(pairs), 8192):
        batch = pairs.at(slice(at, at + 8192))
        version, film = torch.from_numpy(batch.version), torch.from_numpy(batch.item)
        _, _, matched = network(users[version], items[film], version, film)
        parts.append(matched[-1][0].numpy())
    return np.concatenate(parts)
