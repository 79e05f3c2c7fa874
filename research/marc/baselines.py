"""Compressions beside MARC, at equal width: principal components, a plain network, Matryoshka, and no compression.

All freeze to the same ``Compressor`` and see the same states and pairs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from models.contract.arrays import FloatArray
from offline.data.catalogue import DataError
from offline.knowledge.marc.frozen import Compressor, FrozenMap
from offline.knowledge.marc.pairs import Pairs
from offline.knowledge.marc.train import CompressionConfig, Fitted, fit_compression

MATRYOSHKA_DIMS = (16, 32, 64, 128)


def uncompressed(pairs: Pairs, users: FloatArray, items: FloatArray) -> Compressor:
    """The states themselves, centred and divided by one number per side, fitted on what ``pairs`` mention."""
    sides = (users[np.unique(pairs.version)], items[np.unique(pairs.item)])
    width = users.shape[1]
    plain = FrozenMap(np.zeros(width, np.float32), np.ones(width, np.float32))
    return Compressor("uncompressed", *(plain.standardised(seen) for seen in sides))


def principal_components(pairs: Pairs, users: FloatArray, items: FloatArray, dim: int) -> Compressor:
    """The ``dim`` leading components of each side's states; DataError if a side has fewer entities than that."""
    sides = []
    for seen in (users[np.unique(pairs.version)], items[np.unique(pairs.item)]):
        if len(seen) < dim:
            raise DataError(f"{len(seen)} texts are too few for {dim} principal components")
        sides.append(_components(seen, dim).standardised(seen))
    return Compressor("pca", *sides)


def _components(states: FloatArray, dim: int) -> FrozenMap:
    from sklearn.decomposition import PCA

    analysis = PCA(n_components=dim, svd_solver="covariance_eigh").fit(states.astype(np.float64))
    return FrozenMap(
        analysis.mean_.astype(np.float32),
        np.ones(states.shape[1], np.float32),
        (analysis.components_.astype(np.float32),),
        (np.zeros(dim, np.float32),),
    )


def plain_network(config: CompressionConfig, pairs: Pairs, users: FloatArray, items: FloatArray) -> Fitted:
    """The same compression network and loss without constraint, matched by a feed-forward network."""
    plain = config.model_copy(update={"matching": "feed-forward", "alpha": 0.0, "beta": 0.0})
    return fit_compression(plain, pairs, users, items, "mlp")


def matryoshka(
    config: CompressionConfig,
    pairs: Pairs,
    users: FloatArray,
    items: FloatArray,
    dims: Sequence[int] = MATRYOSHKA_DIMS,
) -> dict[int, Compressor]:
    """Matryoshka representations (arXiv 2205.13147): one training with a loss per prefix, then the prefixes."""
    widest = config.model_copy(update={"matching": "feed-forward", "alpha": 0.0, "beta": 0.0, "dim": max(dims)})
    whole = fit_compression(widest, pairs, users, items, "mrl", tuple(sorted(dims))).compressor
    seen_users, seen_items = users[np.unique(pairs.version)], items[np.unique(pairs.item)]
    return {
        dim: Compressor("mrl", _prefix(whole.user, dim, seen_users), _prefix(whole.item, dim, seen_items))
        for dim in dims
    }


def _prefix(frozen: FrozenMap, dim: int, states: FloatArray) -> FrozenMap:
    weights = (*frozen.weights[:-1], frozen.weights[-1][:dim])
    biases = (*frozen.biases[:-1], frozen.biases[-1][:dim])
    return FrozenMap(frozen.centre, frozen.scale, weights, biases).standardised(states)
