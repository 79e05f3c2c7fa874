"""Node features and slice graphs as the network takes them, shared by founding and by assigning.

The last row of every node table stands for somebody or something unknown.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from models.contract.arrays import BoolArray, Codes, FloatArray, IntArray
from offline.knowledge.autograph.graph import Neighbours, factor_nodes
from offline.knowledge.autograph.network import Side
from offline.knowledge.autograph.quantise import Quantiser


@dataclass(frozen=True, slots=True)
class Nodes:
    """One side's nodes. ``text`` [n + 1, W], ``known`` [n + 1], factor ``nodes`` [n + 1, levels], ``ids`` [n + 1] rows
    of the id embedding or -1. Row n is the unknown one."""

    text: Tensor
    known: Tensor
    nodes: Tensor
    ids: Tensor

    @property
    def unknown(self) -> int:
        return len(self.known) - 1

    def base(self, side: Side, rows: Tensor) -> Tensor:
        """[n, H] of some nodes, in the precision of ``side``."""
        text = self.text[rows].to(side.unknown.dtype)
        return side.base(text, self.known[rows], self.nodes[rows], self.ids[rows])

    def state(self, side: Side, rows: Tensor, base: Tensor, offered: Tensor) -> Tensor:
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


@dataclass(frozen=True, slots=True)
class SliceGraph:
    """``fans`` [N, K]: the user versions, as of the slice's boundary, of each item's newest likers; ``likes`` [N]."""

    fans: IntArray
    likes: IntArray


def slice_graph(neighbours: Neighbours, boundary: int, unknown: int) -> SliceGraph:
    """Edges of the log rows before ``boundary``; users without a version then are ``unknown``."""
    users, likes = neighbours.recent_users(boundary)
    fans = np.full(users.shape, -1, np.int64)
    some = users >= 0
    versions = neighbours.visible_version(users[some], np.full(int(some.sum()), boundary))
    fans[some] = np.where(versions >= 0, versions, unknown)
    return SliceGraph(fans, likes)


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
