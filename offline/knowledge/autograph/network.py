"""AutoGraph's message passing: attention along member, factor and user-item edges, on padded neighbour arrays.

Our reading of arXiv 2412.18241 (user - factor - user, item - factor - item, user - item; graph attention with 2 heads):
a node is the projection of its text vector plus the embeddings of its codes, never an embedding of a user's id, so that
new users and items need no training. Neighbourhoods are capped at a few nodes, so they are dense arrays and a gather
does what a graph library's scatter would do. Which neighbours may be seen is ``graph``'s business.

Shapes: n rows, H hidden, D output, K neighbours. Index -1 is padding.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.contract.arrays import BoolArray, Codes, FloatArray, IntArray
from offline.knowledge.autograph.graph import factor_nodes
from offline.knowledge.autograph.quantise import Quantiser
from offline.knowledge.config import NetworkConfig

OUTPUT = 3
"""The layer of ``user_out`` and ``item_out`` that makes the vectors; scaling it scales them."""


class Attend(nn.Module):
    """Graph attention (arXiv 1710.10903) of n nodes over their K neighbours, most preferred first.

    Unlike there, a neighbour's place has a learned weight, because a user's likes come newest first.
    """

    def __init__(self, hidden: int, heads: int, width: int) -> None:
        super().__init__()
        self.heads = heads
        self.value = nn.Linear(hidden, hidden, bias=False)
        self.of_node = nn.Linear(hidden, heads, bias=False)
        self.of_neighbour = nn.Linear(hidden, heads, bias=False)
        self.of_place = nn.Parameter(torch.zeros(width, heads))

    def offer(self, table: Tensor) -> Tensor:
        """The message of each neighbour, [m, H] -> [m, H + heads]: values and its half of the attention score."""
        return torch.cat([self.value(table), self.of_neighbour(table)], dim=1)

    def receive(self, nodes: Tensor, offered: Tensor, neighbours: Tensor) -> Tensor:
        """nodes [n, H], offered [m, H + heads], neighbours [n, K] rows of it -> [n, H]; 0 for a node without any."""
        hidden = nodes.shape[1]
        inside = (neighbours >= 0).unsqueeze(-1)
        gathered = F.embedding(neighbours.clamp(min=0), offered)
        score = F.leaky_relu(gathered[..., hidden:] + self.of_node(nodes).unsqueeze(1), 0.2)
        score = (score + self.of_place[: neighbours.shape[1]]).masked_fill(~inside, -1e9)
        weight = torch.softmax(score, dim=1) * inside
        values = gathered[..., :hidden].reshape(*neighbours.shape, self.heads, hidden // self.heads)
        received: Tensor = (values * weight.unsqueeze(-1)).sum(1)
        return received.flatten(1)


class SideNetwork(nn.Module):
    """Users or items: text and codes -> base, factors from their members' bases, state from base and factors."""

    def __init__(self, width: int, levels: int, size: int, ids: int, config: NetworkConfig) -> None:
        super().__init__()
        hidden = config.hidden
        self.text = nn.Linear(width, hidden)
        self.codes = nn.Embedding(levels * size, hidden)
        self.ids = nn.Embedding(ids, hidden) if ids else None
        self.unknown = nn.Parameter(torch.zeros(hidden))
        self.from_members = Attend(hidden, config.heads, config.members)
        self.factor = nn.Linear(2 * hidden, hidden)
        self.from_factors = Attend(hidden, config.heads, levels)
        for table in (self.codes, self.ids):
            if table is not None:
                nn.init.normal_(table.weight, std=0.1)

    def base(self, text: Tensor, known: Tensor, nodes: Tensor, ids: Tensor) -> Tensor:
        """text [n, W], known [n], factor nodes [n, L], ids [n] (-1: none) -> [n, H]."""
        described = self.text(text) + self.codes(nodes).sum(1)
        base = torch.where(known.unsqueeze(1), described, self.unknown)
        if self.ids is not None:
            base = base + self.ids(ids.clamp(min=0)) * (ids >= 0).unsqueeze(1)
        return base

    def factors(self, offered: Tensor, members: Tensor) -> Tensor:
        """Offers of members [m, H + heads], members [nodes, K] -> state of every factor [nodes, H]."""
        received = self.from_members.receive(self.codes.weight, offered, members)
        return F.elu(self.factor(torch.cat([received, self.codes.weight], dim=1)))

    def state(self, base: Tensor, known: Tensor, nodes: Tensor, offered: Tensor) -> Tensor:
        """A node and the messages of its factors [n, H]; a node without text has no factors."""
        return base + self.from_factors.receive(base, offered, torch.where(known.unsqueeze(1), nodes, -1))


class Network(nn.Module):
    """Two sides and the edges between them. The dot product of a user's and an item's vector is their score."""

    def __init__(
        self, width: int, levels: tuple[int, int], sizes: tuple[int, int], item_ids: int, config: NetworkConfig
    ) -> None:
        """``levels`` and ``sizes``: codebooks of the user and of the item side; ``item_ids``: items of the fit."""
        super().__init__()
        hidden, heads = config.hidden, config.heads
        self.user = SideNetwork(width, levels[0], sizes[0], 0, config)
        self.item = SideNetwork(width, levels[1], sizes[1], item_ids if config.item_ids else 0, config)
        self.from_likes = Attend(hidden, heads, config.history)
        self.from_fans = Attend(hidden, heads, config.neighbours)
        self.popularity = nn.Linear(1, hidden)
        self.user_out = _out(2 * hidden, config)
        self.item_out = _out(3 * hidden, config)

    def user_vector(self, state: Tensor, offered: Tensor, likes: Tensor) -> Tensor:
        """state [n, H], what items offer [m, H + heads], likes [n, K] -> [n, D]."""
        vector: Tensor = self.user_out(torch.cat([state, self.from_likes.receive(state, offered, likes)], dim=1))
        return vector

    def item_vector(self, state: Tensor, offered: Tensor, fans: Tensor, likes: Tensor) -> Tensor:
        """state [n, H], what users offer [m, H + heads], fans [n, K], number of likes [n] -> [n, D]."""
        received = self.from_fans.receive(state, offered, fans)
        liked = self.popularity(torch.log1p(likes.to(state.dtype)).unsqueeze(1))
        vector: Tensor = self.item_out(torch.cat([state, received, liked], dim=1))
        return vector


def _out(width: int, config: NetworkConfig) -> nn.Module:
    return nn.Sequential(nn.Dropout(config.dropout), nn.Linear(width, width), nn.ELU(), nn.Linear(width, config.dim))


@dataclass(frozen=True, slots=True)
class Nodes:
    """The network's input: nodes of one side. ``text`` [n + 1, W], ``known`` [n + 1], factor ``nodes`` [n + 1, levels],
    ``ids`` [n + 1] rows of the id embedding or -1. Row n stands for somebody or something unknown."""

    text: Tensor
    known: Tensor
    nodes: Tensor
    ids: Tensor

    @property
    def unknown(self) -> int:
        return len(self.known) - 1

    def base(self, side: SideNetwork, rows: Tensor) -> Tensor:
        """[n, H] of some nodes, in the precision of ``side``."""
        text = self.text[rows].to(side.unknown.dtype)
        return side.base(text, self.known[rows], self.nodes[rows], self.ids[rows])

    def state(self, side: SideNetwork, rows: Tensor, base: Tensor, offered: Tensor) -> Tensor:
        """[n, H] of some nodes, from their base and from what the factors offer."""
        return side.state(base, self.known[rows], self.nodes[rows], offered)


def nodes_of(
    vectors: FloatArray, known: BoolArray, quantiser: Quantiser, with_id: BoolArray | None = None
) -> tuple[Nodes, Codes]:
    """Nodes of texts [n, W], and their codes [n, levels] (0 where unknown). ``with_id`` [k <= n]: has an embedding."""
    codes, _ = quantiser.assign(vectors)
    codes[~known] = 0
    ids = np.full(len(vectors) + 1, -1, np.int64)
    if with_id is not None:
        ids[np.flatnonzero(with_id)] = np.flatnonzero(with_id)
    text = np.zeros((len(vectors) + 1, quantiser.width), np.float32)
    text[:-1][known] = vectors[known] * np.float32(np.sqrt(quantiser.width))  # of a unit vector: unit mean square
    nodes = np.zeros((len(vectors) + 1, quantiser.levels), np.int64)
    nodes[:-1] = factor_nodes(codes, quantiser.size)
    tensors = (torch.from_numpy(array) for array in (text, np.append(known, False), nodes, ids))
    return Nodes(*tensors), codes


class Pool:
    """Nodes that are computed together, numbered from 0; -1 stays -1."""

    def __init__(self, *rows: IntArray) -> None:
        flat = np.unique(np.concatenate([array.reshape(-1) for array in rows]))
        self._nodes = flat[flat >= 0]
        self.rows = torch.from_numpy(self._nodes)

    def __len__(self) -> int:
        return len(self._nodes)

    def local(self, nodes: IntArray) -> Tensor:
        """Numbers within the pool of nodes that are in it, or -1."""
        return torch.from_numpy(np.where(nodes >= 0, np.searchsorted(self._nodes, nodes), -1))
