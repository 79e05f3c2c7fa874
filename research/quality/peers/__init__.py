"""Peers: other people's models on the very same samples, trained with their own code.

FuxiCTR's DIN, DCNv2, DeepFM and FinalMLP, and its ETA and SDIM for long histories; LightGBM on running statistics; and
a Bayesian regression of our own over whole histories. The others' libraries are the extra ``peers``; they are imported
when a peer is trained and by nothing outside this package.

samples       all that a peer may see, as plain arrays
events        what users really did, and histories cut from it
inputs        the samples as FuxiCTR's models read them
fuxi_models   FuxiCTR's models
fuxi          their training
boosting      LightGBM
bayesian      the regression
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Annotated

from pydantic import BaseModel, Field, PositiveInt

from models.contract.arrays import FloatArray
from models.contract.schema import FrozenConfig
from offline.libraries import wait_without_spinning
from research.quality.peers.samples import PeerSamples

PEERS: tuple[str, ...] = ("DIN", "DCNv2", "DeepFM", "FinalMLP", "LightGBM", "Bayesian")

LONG_PEERS: tuple[str, ...] = ("ETA", "SDIM")
"""Peers made for long histories; a training takes hours."""

CANDIDATES = 500
REPEATS = 40
_WARM_UP = 10

Positive = Annotated[float, Field(gt=0)]


class TreeSettings(BaseModel):
    """LightGBM's. It stops when the validation AUC has not risen for ``patience`` trees."""

    model_config = FrozenConfig

    trees: PositiveInt = 3000
    patience: PositiveInt = 100
    learning_rate: Positive = 0.05
    leaves: Annotated[int, Field(ge=2)] = 63
    min_rows: PositiveInt = 100  # in a leaf
    feature_share: Annotated[float, Field(gt=0, le=1)] = 0.8  # of the features, drawn for each tree
    l2: Annotated[float, Field(ge=0)] = 1.0


class RegressionSettings(BaseModel):
    """The Bayesian regression's. Penalties are those of alternating least squares, in which ``rounds`` fit users and
    items in turn; an item's mean counts ``mean_weight`` values of the mean of all; ``prior_rounds`` fit the prior."""

    model_config = FrozenConfig

    factors: PositiveInt = 12
    rounds: PositiveInt = 30
    user_penalty: Positive = 10.0
    item_penalty: Positive = 20.0
    mean_weight: Positive = 30.0
    prior_rounds: PositiveInt = 15


class PeerSettings(BaseModel):
    """Settings of a peer's training; the names are FuxiCTR's where it has one.

    ``patience`` counts epochs without a better validation AUC; FuxiCTR lowers the learning rate after each of them.
    ``use_statistics`` gives FuxiCTR's models the running statistics too, as numeric features; LightGBM always has them.
    ``rated_pools`` gives its models without attention the means of the liked and of the other items of the history:
    beside one mean of items and one of ratings, which is all they have otherwise, they can tell which were liked.
    ``train_fraction`` is drawn from the training samples by the seed. The statistics of those samples do not change
    with it.
    """

    model_config = FrozenConfig

    embedding_dim: PositiveInt = 32
    hidden_units: Annotated[tuple[int, ...], Field(min_length=1)] = (200, 80)
    attention_hidden_units: Annotated[tuple[int, ...], Field(min_length=1)] = (64,)
    batch_size: Annotated[int, Field(ge=2)] = 1024
    learning_rate: Positive = 1e-3
    epochs: PositiveInt = 6
    patience: PositiveInt = 2
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.3
    batch_norm: bool = True
    embedding_regularizer: Annotated[float, Field(ge=0)] = 1e-5
    use_statistics: bool = False
    rated_pools: bool = True
    train_fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    tree: TreeSettings = TreeSettings()
    regression: RegressionSettings = RegressionSettings()


@dataclass(frozen=True, slots=True)
class PeerResult:
    """Of one peer with one seed.

    validation, test  probabilities [n] in the order of the samples
    epochs            validation AUC per epoch, or per tree; the best is the one that was kept
    ms_per_500        repeated timings: one user's 500 prepared candidates through the model, on one thread
    parameters        trained numbers; of trees, their leaves
    seconds           of training
    """

    validation: FloatArray
    test: FloatArray
    epochs: tuple[float, ...]
    ms_per_500: tuple[float, ...]
    parameters: int
    seconds: float


def train_peer(
    name: str, samples: PeerSamples, settings: PeerSettings, seed: int, folder: Path, progress: bool = True
) -> PeerResult:
    """Train one of ``PEERS`` or ``LONG_PEERS`` on one thread. ValueError for another name.

    The test samples are scored once, by the epoch that was best on the validation samples. ``folder`` belongs to this
    training alone: the weights of that epoch are written to it and read back.
    """
    if name not in PEERS + LONG_PEERS:
        raise ValueError(f"no peer {name!r}; there are {', '.join(PEERS + LONG_PEERS)}")
    wait_without_spinning()
    folder.mkdir(parents=True, exist_ok=True)
    if name == "LightGBM":
        from research.quality.peers.boosting import train_trees

        return train_trees(samples, settings, seed, folder, progress)
    if name == "Bayesian":
        from research.quality.peers.bayesian import train_regression

        return train_regression(samples, settings, seed, folder, progress)
    from research.quality.peers.fuxi import train_fuxi

    return train_fuxi(name, samples, settings, seed, folder, progress)


def timed(score: Callable[[], object]) -> tuple[float, ...]:
    """Milliseconds of ``REPEATS`` calls, after some that warm it up."""
    for _ in range(_WARM_UP):
        score()
    times = []
    for _ in range(REPEATS):
        start = perf_counter()
        score()
        times.append(1000 * (perf_counter() - start))
    return tuple(times)
