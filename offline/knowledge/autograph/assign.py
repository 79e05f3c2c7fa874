"""The frozen parts of AutoGraph, and vectors for whatever they are shown: new, changed or known users and items.

Nothing is fitted here. A vector is a function of the frozen parts and of its own neighbourhood, equal to the bit
whoever else is in the batch: every product has a fixed number of rows, is computed in double precision, and is rounded
to single precision before the next step. Therefore a record is rewritten only if what it speaks of has changed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from models.contract.arrays import BoolArray, FloatArray, IntArray
from offline.data.catalogue import DataError
from offline.data.files import read_arrays, write_arrays
from offline.knowledge.autograph.graph import Evidence, Neighbours, slice_of
from offline.knowledge.autograph.network import Network, Pool, nodes_of
from offline.knowledge.autograph.quantise import NamedArrays, Quantiser, arrays_digest, rebuilt
from offline.knowledge.config import FrozenPartsConfig, NetworkConfig

_BLOCK = 256


@dataclass(frozen=True)
class AutoGraph:
    """The fitted parts, frozen.

    ``network``: weights. ``item_factors`` [nodes, H] and ``user_factors`` [slices, nodes, H]: states of the factors as
    their members were at the fit (user factors: before each slice). ``from_row`` [slices]: first log row of each.
    ``with_id`` [items at the fit]: was liked then, so has a trained embedding. ``history``: validation NDCG@50
    per epoch.
    """

    config: FrozenPartsConfig
    users: Quantiser
    items: Quantiser
    network: NamedArrays
    item_factors: FloatArray
    user_factors: FloatArray
    from_row: IntArray
    with_id: BoolArray
    history: tuple[float, ...] = ()

    @cached_property
    def digest(self) -> str:
        """Changes whenever any vector could; goes into the name of the space."""
        return arrays_digest({name: array for name, array in self._arrays().items() if name != "history"})

    @property
    def notes(self) -> tuple[str, ...]:
        """Sizes that were reduced because there was too little data."""
        sides = {"user factors": self.users.note, "item factors": self.items.note}
        return tuple(f"{side}: {note}" for side, note in sides.items() if note)

    def assign(self, evidence: Evidence) -> Assigned:
        """Vectors and codes of everything in ``evidence``. DataError if it does not fit the frozen parts."""
        if len(evidence.items) < len(self.with_id):
            raise DataError(f"AutoGraph was fitted on {len(self.with_id)} items, now there are {len(evidence.items)}")
        return Assigned(self, evidence)

    def save(self, path: Path) -> None:
        write_arrays(path, **self._arrays())

    @classmethod
    def load(cls, path: Path) -> AutoGraph:
        arrays = read_arrays(path)
        if missing := {"config", "notes", "from_row", "with_id", "item_factors", "user_factors"} - set(arrays):
            raise DataError(f"{path} lacks {', '.join(sorted(missing))}: it holds no AutoGraph")
        notes = arrays["notes"].tolist()
        return cls(
            config=FrozenPartsConfig.model_validate_json(str(arrays["config"])),
            users=Quantiser(_part(arrays, "users/"), notes[0]),
            items=Quantiser(_part(arrays, "items/"), notes[1]),
            network=_part(arrays, "network/"),
            item_factors=arrays["item_factors"],
            user_factors=arrays["user_factors"],
            from_row=arrays["from_row"],
            with_id=arrays["with_id"],
            history=tuple(arrays["history"].tolist()),
        )

    def _arrays(self) -> dict[str, np.ndarray]:
        parts = {"users/": self.users.arrays, "items/": self.items.arrays, "network/": self.network}
        return {
            **{prefix + name: array for prefix, part in parts.items() for name, array in part.items()},
            "item_factors": self.item_factors,
            "user_factors": self.user_factors,
            "from_row": self.from_row,
            "with_id": self.with_id,
            "config": np.array(self.config.model_dump_json()),
            "notes": np.array([self.users.note, self.items.note]),
            "history": np.array(self.history, np.float64),
        }


class Assigned:
    """Vectors of one state of the evidence. ``item_codes`` [N, levels] and ``version_codes`` [V, levels] are 0 where
    there is no text."""

    def __init__(self, frozen: AutoGraph, evidence: Evidence) -> None:
        self._frozen = frozen
        self._evidence = evidence
        config = frozen.config.network
        self._fans = Neighbours(evidence, config.neighbours)
        self._likes = Neighbours(evidence, config.history)
        self._items, self.item_codes = nodes_of(evidence.items, evidence.known_items, frozen.items, frozen.with_id)
        versions = evidence.versions
        self._users, self.version_codes = nodes_of(versions.vectors, versions.known, frozen.users)
        self._network = rebuilt(
            lambda: new_network(frozen.users, frozen.items, len(frozen.with_id), config), frozen.network
        ).double()
        with torch.no_grad():
            side, nodes = self._network.item, self._items
            base = _in_blocks(nodes.unknown, lambda rows: nodes.base(side, rows))
            offered = side.from_factors.offer(torch.from_numpy(frozen.item_factors).double())
            self._item_state = _in_blocks(
                nodes.unknown, lambda rows: nodes.state(side, rows, base[rows].double(), offered)
            )
            self._item_offer = _in_blocks(
                nodes.unknown, lambda rows: self._network.from_likes.offer(self._item_state[rows].double())
            )

    def item_vectors(self, from_row: IntArray | None = None) -> FloatArray:
        """[slices, N, D], with the edges before each slice's first row; by default the slices of the fit."""
        rows = self._frozen.from_row if from_row is None else from_row
        return np.stack([self._item_vectors(int(boundary)) for boundary in rows])

    def version_vectors(self) -> FloatArray:
        """[V, D]: each version as it was when it closed, whatever its user liked later."""
        versions = self._evidence.versions
        return self.user_vectors(versions.user, versions.closed_at + 1)

    def user_vectors(self, user: IntArray, row: IntArray) -> FloatArray:
        """[k, D] of users as they were before a log row: their newest version with a text, and their newest likes."""
        vectors = np.zeros((len(user), self._frozen.config.network.dim), np.float32)
        version = self._likes.visible_version(user, row)
        version = np.where(version >= 0, version, self._users.unknown)
        likes = self._likes.recent_likes(user, row)
        of_slice = slice_of(row, self._frozen.from_row)
        with torch.no_grad():
            for number in np.unique(of_slice):
                mine = np.flatnonzero(of_slice == number)
                state = self._user_states(torch.from_numpy(version[mine]), int(number))
                liked, offer = torch.from_numpy(likes[mine]), self._item_offer.double()
                states = _in_blocks(
                    len(mine),
                    lambda rows: self._network.user_vector(state[rows].double(), offer, liked[rows]),  # noqa: B023
                )
                vectors[mine] = states.numpy()
        return vectors

    def _item_vectors(self, boundary: int) -> FloatArray:
        graph = self._fans.slice_graph(boundary, self._users.unknown)
        pool = Pool(graph.fans, np.array([self._users.unknown]))
        fans, likes = pool.local(graph.fans), torch.from_numpy(graph.likes)
        with torch.no_grad():
            state = self._user_states(pool.rows, int(slice_of(np.array(boundary), self._frozen.from_row)))
            offer = _in_blocks(len(pool), lambda rows: self._network.from_fans.offer(state[rows].double())).double()
            vectors = _in_blocks(
                len(fans),
                lambda rows: self._network.item_vector(self._item_state[rows].double(), offer, fans[rows], likes[rows]),
            )
        return np.asarray(vectors.numpy())

    def _user_states(self, versions: Tensor, at: int) -> Tensor:
        """[n, H] of versions, with the user factors of slice ``at``."""
        side, nodes = self._network.user, self._users
        offered = side.from_factors.offer(torch.from_numpy(self._frozen.user_factors[at]).double())
        base = _in_blocks(len(versions), lambda rows: nodes.base(side, versions[rows]))
        return _in_blocks(len(versions), lambda rows: nodes.state(side, versions[rows], base[rows].double(), offered))


def _in_blocks(count: int, compute: Callable[[Tensor], Tensor]) -> Tensor:
    """Rows 0 .. count - 1 of what ``compute`` makes of row numbers [_BLOCK], in single precision.

    The last block is filled up with row 0, so that every product has the same shape.
    """
    blocks = []
    for at in range(0, max(count, 1), _BLOCK):
        rows = torch.arange(at, at + _BLOCK)
        blocks.append(compute(torch.where(rows < count, rows, 0)).float() if count else compute(rows[:0]).float())
    return torch.cat(blocks)[:count]


def new_network(users: Quantiser, items: Quantiser, item_ids: int, config: NetworkConfig) -> Network:
    """An untrained network for the factors of these quantisers, with ``item_ids`` items at the fit."""
    return Network(users.width, (users.levels, items.levels), (users.size, items.size), item_ids, config)


def _part(arrays: NamedArrays, prefix: str) -> NamedArrays:
    return {name[len(prefix) :]: array for name, array in arrays.items() if name.startswith(prefix)}
