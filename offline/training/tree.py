"""Growing boosted trees (``models.ctr.tree``) by scikit-learn: on running features of samples, until the LogLoss of the
validation samples has not fallen for some rounds.

Trees are what a model with ids and histories has to beat: they train in seconds and read nothing but counts.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.ensemble import HistGradientBoostingClassifier

from models.contract.arrays import FloatArray, IntArray
from models.ctr.tree import BoostedTrees
from offline.config import TrainingConfig
from offline.training.item_dropout import ItemDropout
from offline.training.lifelong import as_torch
from offline.training.samples import SampleEncoder, SplitRows

_BATCH = 2048
_NODE_FIELDS = ("is_leaf", "feature_idx", "left", "right", "num_threshold", "value", "depth")
"""What is read of scikit-learn's nodes."""


def fit_tree(
    model: BoostedTrees, training: TrainingConfig, encoder: SampleEncoder, splits: SplitRows, seed: int
) -> tuple[int, tuple[float, ...]]:
    """Grow the trees of ``model``. The number of trees, and the LogLoss of the validation samples after each round.

    Of more than ``most_samples`` training samples so many are drawn.
    """
    config, train, validation = training.tree, splits.rows["train"], splits.rows["validation"]
    if len(train) > config.most_samples:
        train = np.sort(np.random.default_rng(seed).choice(train, config.most_samples, replace=False))
    if encoder.labels[train].min() == encoder.labels[train].max():
        model.grow(_constant(encoder.labels[train]))
        return 0, ()
    grower = HistGradientBoostingClassifier(
        learning_rate=config.learning_rate,
        max_iter=config.trees,
        max_leaf_nodes=config.leaves,
        min_samples_leaf=config.least_samples,
        l2_regularization=config.l2,
        early_stopping=True,
        n_iter_no_change=config.patience,
        scoring="loss",
        random_state=seed,
    )
    grower.fit(
        features(model, encoder, train, ItemDropout.of(training, encoder, seed)), encoder.labels[train] > 0.5,
        X_val=features(model, encoder, validation), y_val=encoder.labels[validation] > 0.5,
    )  # fmt: skip
    losses = tuple(-float(score) for score in grower.validation_score_)
    rounds = int(np.argmin(losses))  # the first loss is that of no tree
    model.grow(_arrays(grower, rounds))
    return rounds, losses


def features(
    model: BoostedTrees, encoder: SampleEncoder, rows: IntArray, dropout: ItemDropout | None = None
) -> FloatArray:
    """What the trees compare, [n, width], of the samples at these log rows; in training, ``dropout`` hides items."""
    matrix = np.zeros((len(rows), model.width), np.float32)
    with torch.inference_mode():
        for at in range(0, len(rows), _BATCH):
            batch = rows[at : at + _BATCH]
            tensors = encoder.tensors(batch)
            if dropout is not None:
                tensors = dropout.applied(tensors, encoder.log.user[batch], epoch=0)
            matrix[at : at + len(batch)] = model.features(as_torch(tensors)).numpy()
    return matrix


def _arrays(grower: HistGradientBoostingClassifier, rounds: int) -> dict[str, torch.Tensor]:
    """The first ``rounds`` trees as arrays of all nodes, for ``BoostedTrees.grow``."""
    trees = [trees_of_round[0].nodes for trees_of_round in grower._predictors[:rounds]]
    return _joined(trees, float(np.squeeze(grower._baseline_prediction)))


def _constant(labels: FloatArray) -> dict[str, torch.Tensor]:
    """Trees that tell no samples apart, of labels [n] that are all alike: scikit-learn refuses those."""
    share = (float(labels.sum()) + 1.0) / (len(labels) + 2.0)
    return _joined([], float(np.log(share / (1.0 - share))))


def _joined(trees: list[np.ndarray[Any, Any]], base: float) -> dict[str, torch.Tensor]:
    """Trees, each as scikit-learn's nodes, as arrays of all nodes."""
    if not trees:  # one leaf that adds nothing: ONNX's operator wants a tree
        trees = [np.zeros(1, [(name, "f8") for name in _NODE_FIELDS])]
        trees[0]["is_leaf"] = 1
    sizes = np.array([len(nodes) for nodes in trees])
    roots = np.cumsum(sizes) - sizes
    nodes = {name: np.concatenate([tree[name] for tree in trees]) for name in _NODE_FIELDS}
    places, first = np.arange(sizes.sum()), np.repeat(roots, sizes)
    leaf = nodes["is_leaf"].astype(np.bool_)
    threshold = nodes["num_threshold"].astype(np.float32)
    # A comparison with the largest float32 that is not above the threshold has the same outcome for every float32.
    above = threshold > nodes["num_threshold"]
    threshold[above] = np.nextafter(threshold[above], np.float32(-np.inf))
    arrays = {
        "feature": np.where(leaf, 0, nodes["feature_idx"]),
        "left": np.where(leaf, places, first + nodes["left"]),
        "right": np.where(leaf, places, first + nodes["right"]),
        "roots": roots,
        "depth": np.array([max(int(nodes["depth"].max()), 1)]),
        "threshold": np.where(leaf, np.float32(0.0), threshold),
        "value": np.where(leaf, nodes["value"], 0.0).astype(np.float32),
        "base": np.full(1, base, np.float32),
    }
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}
