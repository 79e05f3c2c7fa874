"""The fit of quantisers and network on the training period, done once.

Every sample sees the past only. The positive in log row r is scored with the graph of its slice (edges before the
slice's first row), the user version that had closed before r, and the user's likes before r or, for some samples,
before that version closed, which is all that a published vector knows. What happened after the training period is cut
away before anything else.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from models.contract.arrays import BoolArray, IntArray
from offline.knowledge.autograph.assign import AutoGraph, new_network
from offline.knowledge.autograph.graph import Evidence, Neighbours, boundaries, nearest_items, slice_of
from offline.knowledge.autograph.network import OUTPUT, Network, Nodes, Pool, SideNetwork, nodes_of
from offline.knowledge.autograph.quantise import Quantiser, fit_quantiser, module_arrays
from offline.knowledge.config import FrozenPartsConfig
from offline.knowledge.errors import TooFewError
from offline.llm.in_process import repeatable
from offline.progress import Progress

_JUDGED = 4000
_TOP = 50


def fit_frozen(evidence: Evidence, trained_rows: int, config: FrozenPartsConfig) -> AutoGraph:
    """Fit everything on log rows before ``trained_rows``. TooFewError if they hold too little.

    The last part of these rows chooses the epoch, and a second fit uses them too. On one machine the same evidence
    gives the same bytes.
    """
    past = evidence.before(trained_rows)
    versions = past.versions
    fitting = config.fitting
    cut = int(trained_rows * (1 - fitting.validation))
    positives = np.flatnonzero(past.liked).astype(np.int64)
    train, validation = positives[positives < cut], positives[positives >= cut]
    items = fit_quantiser(past.items[past.known_items], config.item_factors, config.seed, "encoded texts of items")
    users = fit_quantiser(
        versions.vectors[versions.known], config.user_factors, config.seed, "encoded summaries of the training period"
    )
    if not len(train) or not len(validation):
        raise TooFewError(
            f"likes in the first {cut} rows of the training period and in the last {trained_rows - cut}, there are "
            f"{len(train)} and {len(validation)}"
        )
    fit = _Fit(past, config, users, items)
    network, history = fit.fit(train, validation[:: -(-len(validation) // _JUDGED)], fitting.epochs)
    if fitting.refit:
        network, _ = fit.fit(positives, None, int(np.argmax(history)) + 1)
    return _scaled(replace(fit.freeze(network), history=history), past)


def _scaled(autograph: AutoGraph, past: Evidence) -> AutoGraph:
    """With published vectors of unit mean square on both sides, which leaves the order of all scores as it is.

    Untouched, item vectors come out several times as long as user vectors, and a reader would have to know that.
    """
    assigned, network = autograph.assign(past), dict(autograph.network)
    for side, vectors in (("user", assigned.version_vectors()), ("item", assigned.item_vectors()[-1])):
        length = np.float32(np.sqrt(np.square(vectors, dtype=np.float64).mean()))
        for name in (f"{side}_out.{OUTPUT}.weight", f"{side}_out.{OUTPUT}.bias"):
            network[name] = network[name] / max(length, np.float32(1e-6))
    return replace(autograph, network=network)


@dataclass(frozen=True, slots=True)
class _Batch:
    """Positives in log rows ``rows`` [B] of slice ``at``; each user is seen as before log row ``known_until`` [B]."""

    at: int
    rows: IntArray
    known_until: IntArray


class _Fit:
    """Training state: graphs of all slices, node features, and the steps over them."""

    def __init__(self, past: Evidence, config: FrozenPartsConfig, users: Quantiser, items: Quantiser) -> None:
        network = config.network
        self._past, self._config, self._quantisers = past, config, (users, items)
        self.from_row = boundaries(len(past.user), network.slices)
        self.with_id: BoolArray = np.bincount(past.item[past.liked], minlength=len(past.items)) > 0
        self._items, item_codes = nodes_of(past.items, past.known_items, items, self.with_id)
        self._users, user_codes = nodes_of(past.versions.vectors, past.versions.known, users)
        self._likes = Neighbours(past, network.history)
        fans, members = Neighbours(past, network.neighbours), Neighbours(past, network.members)
        _, latent = items.assign(past.items)
        self._item_members = nearest_items(item_codes, latent, items.codebooks, past.known_items, network.members)
        of_factors = users.levels * users.size
        rows = [int(row) for row in self.from_row]
        self._user_members = [members.recent_versions(user_codes, of_factors, row) for row in rows]
        self._graphs = [fans.slice_graph(row, self._users.unknown) for row in rows]

    def fit(self, train: IntArray, validation: IntArray | None, epochs: int) -> tuple[Network, tuple[float, ...]]:
        """A network trained on the positives ``train``, and the NDCG of each epoch on the positives ``validation``: the
        network of the best epoch, or of the last epoch without any of them."""
        fitting, generator = self._config.fitting, np.random.default_rng(self._config.seed)
        with repeatable(self._config.seed):
            network = new_network(*self._quantisers, len(self._past.items), self._config.network)
            optimizer = torch.optim.AdamW(
                network.parameters(), lr=fitting.learning_rate, weight_decay=fitting.weight_decay
            )
            history: list[float] = []
            best = copy.deepcopy(network.state_dict())
            label = "autograph, refit" if validation is None else "autograph"
            with Progress(label, epochs, "epochs") as progress:
                for epoch in range(epochs):
                    network.train()
                    for batch in self._batches(train, generator):
                        loss = self._loss(network, batch, generator)
                        optimizer.zero_grad(set_to_none=True)
                        loss.backward()  # type: ignore[no-untyped-call]
                        optimizer.step()
                    progress.advance()
                    if validation is None:
                        continue
                    history.append(self.ndcg(network.eval(), validation))
                    if history[-1] == max(history):
                        best = copy.deepcopy(network.state_dict())
                    if epoch - int(np.argmax(history)) >= fitting.patience:
                        break
        if validation is not None:
            network.load_state_dict(best)
        return network.eval(), tuple(history)

    def freeze(self, network: Network) -> AutoGraph:
        """With the states of the item factors, and of the user factors before each slice."""
        with torch.no_grad():
            items = _factors(network.item, self._items, Pool(self._item_members), self._item_members)[1]
            users = [
                _factors(network.user, self._users, Pool(members, np.array([self._users.unknown])), members)[1]
                for members in self._user_members
            ]
        return AutoGraph(
            self._config,
            *self._quantisers,
            network=module_arrays(network),
            item_factors=items.numpy(),
            user_factors=torch.stack(users).numpy(),
            from_row=self.from_row,
            with_id=self.with_id,
        )

    def ndcg(self, network: Network, rows: IntArray) -> float:
        """NDCG@50 over all items; every other user is seen as published, the rest as fresh."""
        gains, of_slice = [], slice_of(rows, self.from_row)
        with torch.no_grad():
            for at in np.unique(of_slice):
                mine = rows[of_slice == at]
                batch = self._batch(int(at), mine, np.arange(len(mine)) % 2 == 0)
                users, items = self._vectors(network, batch, np.arange(len(self._past.items)))
                scores = (users @ items.T).numpy()
                positive = scores[np.arange(len(mine)), self._past.item[mine]]
                place = (scores > positive[:, None]).sum(axis=1)
                gains.append(np.where(place < _TOP, 1.0 / np.log2(place + 2.0), 0.0))
        return float(np.concatenate(gains).mean())

    def _batches(self, rows: IntArray, generator: np.random.Generator) -> Iterator[_Batch]:
        """All rows once, in random batches of one slice each."""
        fitting, of_slice, batches = self._config.fitting, slice_of(rows, self.from_row), []
        for at in np.unique(of_slice):
            mine = generator.permutation(rows[of_slice == at])
            batches += [(int(at), part) for part in np.array_split(mine, -(-len(mine) // fitting.batch))]
        for number in generator.permutation(len(batches)):
            at, part = batches[number]
            yield self._batch(at, part, generator.random(len(part)) < fitting.fresh)

    def _batch(self, at: int, rows: IntArray, fresh: BoolArray) -> _Batch:
        version = self._likes.visible_version(self._past.user[rows].astype(np.int64), rows)
        closed_at = np.append(self._past.versions.closed_at, -1)[version]
        return _Batch(at, rows, np.where(fresh | (version < 0), rows, closed_at + 1))

    def _loss(self, network: Network, batch: _Batch, generator: np.random.Generator) -> Tensor:
        positives, items = self._past.item[batch.rows].astype(np.int64), len(self._past.items)
        negatives = self._config.fitting.negatives
        if not negatives:
            users, offered = self._vectors(network, batch, np.arange(items))
            return F.cross_entropy(users @ offered.T, torch.from_numpy(positives))
        drawn = generator.integers(items, size=(len(positives), negatives))
        scored = np.concatenate([positives[:, None], drawn], axis=1)
        candidates, place = np.unique(scored, return_inverse=True)
        users, offered = self._vectors(network, batch, candidates)
        scores = (users.unsqueeze(1) * offered[torch.from_numpy(place.reshape(scored.shape))]).sum(-1)
        hit = torch.from_numpy(np.pad(drawn == positives[:, None], ((0, 0), (1, 0))))
        return F.cross_entropy(scores.masked_fill(hit, -1e9), torch.zeros(len(positives), dtype=torch.int64))

    def _vectors(self, network: Network, batch: _Batch, candidates: IntArray) -> tuple[Tensor, Tensor]:
        """(users [B, D], candidates [C, D]) as the batch's slice shows them."""
        graph, members = self._graphs[batch.at], self._user_members[batch.at]
        user = self._past.user[batch.rows].astype(np.int64)
        likes = self._likes.recent_likes(user, batch.known_until)
        version = self._likes.visible_version(user, batch.known_until)
        version = np.where(version >= 0, version, self._users.unknown)
        fans = graph.fans[candidates]
        items = Pool(candidates, likes, self._item_members)
        users = Pool(version, fans, members)
        item_state = _states(network.item, self._items, items, self._item_members)
        user_state = _states(network.user, self._users, users, members)
        likers, liked = network.from_fans.offer(user_state), network.from_likes.offer(item_state)
        return (
            network.user_vector(user_state[users.local(version)], liked, items.local(likes)),
            network.item_vector(
                item_state[items.local(candidates)],
                likers,
                users.local(fans),
                torch.from_numpy(graph.likes[candidates]),
            ),
        )


def _factors(side: SideNetwork, nodes: Nodes, pool: Pool, members: IntArray) -> tuple[Tensor, Tensor]:
    """(bases of the pool, states of all factors)."""
    base = nodes.base(side, pool.rows)
    return base, side.factors(side.from_members.offer(base), pool.local(members))


def _states(side: SideNetwork, nodes: Nodes, pool: Pool, members: IntArray) -> Tensor:
    base, factors = _factors(side, nodes, pool, members)
    return nodes.state(side, pool.rows, base, side.from_factors.offer(factors))
