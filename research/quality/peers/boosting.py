"""LightGBM on running statistics, profile and item fields: no ids, no history."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from time import perf_counter

import lightgbm
import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from models.contract.arrays import FloatArray, IntArray
from research.quality.peers import CANDIDATES, PeerResult, PeerSettings, timed
from research.quality.peers.samples import PeerSamples


def train_trees(
    samples: PeerSamples, settings: PeerSettings, seed: int, folder: Path, progress: bool = True
) -> PeerResult:
    """Trees until the validation AUC stops rising; those up to the best one are kept."""
    names = list(tree_features(samples, samples.of("test")[:1]))
    profile = [f"user_{name}" for name, values in samples.user_fields.items() if values.shape[1] == 1]
    to_set = partial(lightgbm.Dataset, feature_name=names, categorical_feature=profile)
    train, validation = samples.training(settings.train_fraction, seed), samples.of("validation")
    start = perf_counter()
    data = to_set(_matrix(samples, train), samples.label[train])
    validation_set = to_set(_matrix(samples, validation), samples.label[validation], reference=data)
    history: dict[str, dict[str, list[float]]] = {}
    tree = settings.tree
    with tqdm(total=tree.trees, desc="  LightGBM", unit="tree", mininterval=1.0, disable=not progress) as bar:

        def advance(environment: lightgbm.callback.CallbackEnv) -> None:
            bar.update()

        booster = lightgbm.train(
            {
                "objective": "binary",
                "metric": "auc",
                "learning_rate": tree.learning_rate,
                "num_leaves": tree.leaves,
                "min_data_in_leaf": tree.min_rows,
                "feature_fraction": tree.feature_share,
                "lambda_l2": tree.l2,
                "seed": seed,
                "deterministic": True,
                "force_row_wise": True,  # otherwise a timing decides, and with it the order of additions
                "num_threads": 1,
                "verbosity": -1,
            },
            data,
            num_boost_round=tree.trees,
            valid_sets=[validation_set],
            valid_names=["validation"],
            callbacks=[
                lightgbm.early_stopping(tree.patience, verbose=False),
                lightgbm.record_evaluation(history),
                advance,
            ],
        )
        bar.total = bar.n
    seconds = perf_counter() - start
    booster.save_model(folder / "LightGBM.txt")
    best_trees = booster.dump_model(num_iteration=booster.best_iteration)
    predict = partial(booster.predict, num_iteration=booster.best_iteration, num_threads=1)
    request = _matrix(samples.one_user(CANDIDATES, seed))
    return PeerResult(
        validation=_scores(predict(_matrix(samples, validation))),
        test=_scores(predict(_matrix(samples, samples.of("test")))),
        epochs=tuple(float(auc) for auc in history["validation"]["auc"]),
        ms_per_500=timed(lambda: predict(request)),
        parameters=sum(int(tree_info["num_leaves"]) for tree_info in best_trees["tree_info"]),
        seconds=seconds,
    )


def tree_features(samples: PeerSamples, places: IntArray) -> dict[str, FloatArray]:
    """Columns [len(places)] by name. A field of several slots is one column per value. An item field of one slot is a
    number, because its values are more often ordered than not (a year); a user's is a category."""
    columns = {f"statistic_{name}": samples.statistics[places, at] for at, name in enumerate(samples.statistic_names)}
    for name, values in samples.user_fields.items():
        columns |= _field(f"user_{name}", values[places], int(values.max()))
    for name, values in samples.item_fields.items():
        columns |= _field(f"item_{name}", values[samples.item[places]], int(values.max()))
    return columns


def _field(name: str, values: IntArray, largest: int) -> dict[str, FloatArray]:
    if values.shape[1] == 1:
        return {name: values[:, 0].astype(np.float32)}
    return {f"{name}_{value}": (values == value).any(axis=1).astype(np.float32) for value in range(1, largest + 1)}


def _matrix(samples: PeerSamples, places: IntArray | None = None) -> FloatArray:
    places = np.arange(len(samples)) if places is None else places
    return np.stack(list(tree_features(samples, places).values()), axis=1)


def _scores(predicted: npt.NDArray[np.float64]) -> FloatArray:
    return predicted.astype(np.float32)
