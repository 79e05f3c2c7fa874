"""Drift: what a training looked at, in numbers, against what the last training of the same folder looked at.

A sentence is written if

- the population stability index of the test scores is above .2, the usual border of a large shift, and above what so
  few samples have by chance (scores.py);
- LogLoss of the test samples rose, or their AUC fell, by more than .01;
- the share of liked samples of a part, or the share of test samples of unseen items, of unseen users, of users with
  short histories or of repeats, moved by more than 5 points;
- the median history is longer or shorter by more than a quarter;
- the log has fewer rows, another architecture is served, or the samples are split otherwise, so that nothing else can
  be compared strictly.

The samples are others each time: what is told moved in the data or in the model, and the numbers beside it say which.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from models.contract.arrays import BoolArray, FloatArray
from offline.data.catalogue import DataError
from offline.data.files import read_json
from offline.data.log import InteractionLog
from offline.metrics import quality
from offline.training.report import TrainingReport
from offline.training.samples import Split, SplitRows
from offline.training.scores import stability

_SHIFT = 0.2
_QUALITY = 0.01
_SHARE = 0.05
_LONGER = 1.25
_SPLIT = 0.01

ROWS, AUC, LOGLOSS, HISTORY = "interactions", "test AUC", "test LogLoss", "earlier interactions, median"
SAMPLES, LIKED, OF_TEST = "{} samples", "liked, of {} samples", "{}, of test samples"
"""Names of a profile's numbers that rules look at; the second and the third are shares."""
_SPLITS: tuple[Split, ...] = ("train", "validation", "test")
_SIZES = {SAMPLES.format(split) for split in _SPLITS}


def profile(
    log: InteractionLog, splits: SplitRows, labels: FloatArray, score: FloatArray, masks: Mapping[str, BoolArray]
) -> dict[str, float]:
    """What a training looked at, by names for people: sizes of the log, earlier interactions of a sample's user, shares
    of samples, and the served model's test scores.

    ``labels`` [log rows]; ``score`` [n] and the ``masks`` [n] of slices are those of the test samples."""
    test = splits.rows["test"]
    lengths = log.by_user().position[np.concatenate(list(splits.rows.values()))]
    measures = quality(labels[test], score, log.user[test])
    numbers = {
        ROWS: float(len(log.observed)),
        "users": float(len(log.user_ids)),
        "items": float(len(log.item_ids)),
        "earlier interactions, mean": float(lengths.mean()),
        HISTORY: float(np.median(lengths)),
        **{SAMPLES.format(split): float(len(rows)) for split, rows in splits.rows.items()},
        **{LIKED.format(split): float(labels[rows].mean()) for split, rows in splits.rows.items()},
        **{OF_TEST.format(name): float(inside.mean()) for name, inside in masks.items()},
        "mean test score": float(score.mean()),
        AUC: measures.auc,
        LOGLOSS: measures.logloss,
    }
    return {name: number for name, number in numbers.items() if not np.isnan(number)}


def former_report(path: Path) -> dict[str, Any]:
    """What ``drift`` reads of the last training's report.json; {} where there is none, or one of another version, which
    is no reason for a training to fail."""
    try:
        report = read_json(path)
        former: dict[str, Any] = {
            "artifact": str(report["artifact"]),
            "split": str(report["split"]),
            "architecture": str(report["architecture"]),
            "profile": {str(name): float(number) for name, number in report["profile"].items()},
            "calibration": [
                {"low": float(bucket["low"]), "samples": int(bucket["samples"])} for bucket in report["calibration"]
            ],
        }
    except (DataError, AttributeError, KeyError, TypeError, ValueError):
        return {}
    complete = former["calibration"] and former["profile"].keys() >= _SIZES
    return former if complete else {}


def drift(former: Mapping[str, Any], report: TrainingReport, score: FloatArray) -> dict[str, Any]:
    """What moved since the last training: its ``artifact``, ``rows`` (name, before, now), the ``stability`` index of
    the scores and ``sentences``; {} without a ``former_report``. ``score`` [n] of the test samples now."""
    if not former:
        return {}
    before, now = former["profile"], report.profile
    rows = [{"name": name, "before": before[name], "now": now[name]} for name in now if name in before]
    index, by_chance = stability(former["calibration"], score)
    sentences, shares = [], [_test_share(numbers) for numbers in (before, now)]
    if former["split"] != report.split or abs(shares[1] - shares[0]) > _SPLIT:
        sentences.append(
            f"the samples are split otherwise: {report.split}, {shares[1]:.0%} of them for the test; before, "
            f"{former['split']}, {shares[0]:.0%}"
        )
    if former["architecture"] != report.architecture:
        sentences.append(f"another architecture is served: {report.architecture}, before {former['architecture']}")
    sentences += _sentences(before, now)
    if index > max(_SHIFT, by_chance):
        sentences.append(
            f"the test scores are distributed otherwise (population stability index {index:.2f}): look at what else "
            "moved, and at experiments or rules that compare scores with a fixed number"
        )
    return {"artifact": former["artifact"], "rows": rows, "stability": index, "sentences": sentences}


def _sentences(before: Mapping[str, float], now: Mapping[str, float]) -> Iterator[str]:
    """What moved further than the rules allow, and what to look at."""
    for name in now:
        if name not in before:
            continue
        change = now[name] - before[name]
        if name == ROWS and change < 0:
            yield (
                f"the log has fewer interactions, {now[name]:,.0f}, than at the last training, {before[name]:,.0f}: it "
                "was loaded anew"
            )
        elif name == LOGLOSS and change > _QUALITY:
            moved = f"{LOGLOSS} rose from {before[name]:.4f} to {now[name]:.4f}"
            yield f"{moved}: see whether the share liked or unseen items explain it"
        elif name == AUC and -change > _QUALITY:
            yield f"{AUC} fell from {before[name]:.4f} to {now[name]:.4f}: see which of the slices lost"
        elif name == HISTORY and max(now[name], before[name]) > _LONGER * min(now[name], before[name]):
            yield f"the median sample has {now[name]:.4g} earlier interactions of its user, {before[name]:.4g} before"
        elif (name.startswith("liked, ") or name.endswith(", of test samples")) and abs(change) > _SHARE:
            yield f"{name}: {now[name]:.1%}, at the last training {before[name]:.1%}"


def _test_share(numbers: Mapping[str, float]) -> float:
    """Share of the samples that test, by a profile."""
    counts = [numbers[SAMPLES.format(split)] for split in _SPLITS]
    return counts[-1] / sum(counts)
