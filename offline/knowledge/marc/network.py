"""The two modules of MARC: compression (kept) and user-item matching (dropped after training).

They differ in structure on purpose, so that neither can take over the other's task: compression is a feed-forward
network over one side, matching compares the sides by attention and has no feed-forward layer of its own.
Widths: D of the states, d compressed, w of a matching token.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from models.contract.arrays import FloatArray
from offline.knowledge.marc.frozen import FrozenMap

_TOKEN = 8
"""Numbers of a compressed vector that form one token of the matching network."""


class Compression(nn.Module):
    """C: [B, D] -> [B, d], two layers over standardised states.

    It starts as their d leading principal components (a pair of opposite units carries one through the relu) and
    learns from there: a random start has forgotten much of the states before the constraint can hold it.
    """

    def __init__(self, states: FloatArray, hidden: int, dim: int, dropout: float) -> None:
        """``states`` [n, D] of the training period set the standardisation and the start."""
        super().__init__()
        self.centre: Tensor
        self.scale: Tensor
        self.register_buffer("centre", torch.from_numpy(states.mean(0, dtype=np.float64).astype(np.float32)))
        deviation = states.std(0, dtype=np.float64).clip(min=1e-6)
        self.register_buffer("scale", torch.from_numpy((1.0 / deviation).astype(np.float32)))
        self.inner = nn.Linear(states.shape[1], max(hidden, 2 * dim))
        self.outer = nn.Linear(max(hidden, 2 * dim), dim)
        self.dropout = nn.Dropout(dropout)
        self._start(states)

    @torch.no_grad()
    def _start(self, states: FloatArray) -> None:
        standard = ((states - self.centre.numpy()) * self.scale.numpy()).astype(np.float64)
        spread, directions = np.linalg.eigh(standard.T @ standard / len(standard))  # rising
        dim = min(self.outer.out_features, states.shape[1])
        components = torch.from_numpy(directions[:, : -dim - 1 : -1].T.astype(np.float32).copy())
        size = float(np.sqrt(spread.sum().clip(min=1e-12) / dim))
        self.inner.weight[: 2 * dim] = torch.cat([components, -components])
        self.inner.bias[: 2 * dim] = 0.0
        self.outer.weight.mul_(0.1)[:, : 2 * dim] = 0.0
        self.outer.weight[:dim, : 2 * dim] = torch.cat([torch.eye(dim), -torch.eye(dim)], 1) / size
        self.outer.bias.zero_()

    def forward(self, states: Tensor) -> Tensor:
        standard = (states - self.centre) * self.scale
        compressed: Tensor = self.outer(self.dropout(torch.relu(self.inner(standard))))
        return compressed

    def frozen(self) -> FrozenMap:
        """This network as arrays, without dropout."""
        return FrozenMap(
            _copied(self.centre),
            _copied(self.scale),
            (_copied(self.inner.weight), _copied(self.outer.weight)),
            (_copied(self.inner.bias), _copied(self.outer.bias)),
        )


class AttentionMatching(nn.Module):
    """M: (c_u, c_i) [B, d] each -> (logit [B], m [B, 2w]); m is what the logit is a weighted sum of.

    A vector is cut into tokens of eight numbers; user tokens attend to item tokens and item tokens to user tokens. Only
    products of the two sides reach m: what is true of one side alone is left to the biases beside it.
    """

    def __init__(self, dim: int, width: int) -> None:
        """ValueError unless whole tokens fill ``dim``."""
        super().__init__()
        if dim % _TOKEN:
            raise ValueError(f"the matching network needs a multiple of {_TOKEN} dimensions, not {dim}")
        tokens = dim // _TOKEN
        self.user_token = nn.Linear(_TOKEN, width)
        self.item_token = nn.Linear(_TOKEN, width)
        self.user_place = nn.Parameter(0.02 * torch.randn(tokens, width))
        self.item_place = nn.Parameter(0.02 * torch.randn(tokens, width))
        self.score = nn.Linear(2 * width, 1)

    def forward(self, user: Tensor, item: Tensor) -> tuple[Tensor, Tensor]:
        users = self.user_token(user.reshape(len(user), -1, _TOKEN)) + self.user_place
        items = self.item_token(item.reshape(len(item), -1, _TOKEN)) + self.item_place
        closeness = users @ items.transpose(1, 2) / users.shape[-1] ** 0.5
        of_users = (users * (closeness.softmax(2) @ items)).mean(1)
        of_items = (items * (closeness.transpose(1, 2).softmax(2) @ users)).mean(1)
        matched = torch.cat([of_users, of_items], 1)
        return self.score(matched).squeeze(1), matched


class FeedForwardMatching(nn.Module):
    """The matching network of the plain baselines: one hidden layer over c_u, c_i and their product."""

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.inner = nn.Linear(3 * dim, width)
        self.score = nn.Linear(width, 1)

    def forward(self, user: Tensor, item: Tensor) -> tuple[Tensor, Tensor]:
        matched = torch.relu(self.inner(torch.cat([user, item, user * item], 1)))
        return self.score(matched).squeeze(1), matched


def _copied(parameter: Tensor) -> FloatArray:
    return parameter.detach().cpu().float().numpy().copy()
