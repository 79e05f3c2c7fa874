"""A report of a training with something in every part of its page."""

from __future__ import annotations

from typing import Any

from offline.training.report import TrainingReport

DIN, TREES, POPULARITY = "DIN <attention>", "boosted trees", "popularity (share of likes)"


def report_of(**changes: Any) -> TrainingReport:
    """A report by hand, with ``changes``."""
    fields: dict[str, Any] = {
        "log_rows": 1000,
        "trained_rows": 800,
        "trained_until_ms": 1_700_000_000_000,
        "samples": {"train": 700, "validation": 90, "test": 1200},
        "artifact": "shop-0123456789ab.onnx",
        "sha256": "0" * 64,
        "model_version": "0123456789ab",
        "parity": 1e-7,
        "metrics": {},
        "table": [
            {"model": DIN, "auc": 0.75, "logloss": 0.55, "gauc": 0.7, "ece": 0.0123},
            {"model": TREES, "auc": 0.74, "logloss": 0.56, "gauc": None},
            {"model": POPULARITY, "auc": 0.6, "logloss": 0.7, "gauc": 0.6},
        ],
        "architecture": "din",
        "notes": ["3 % of the test interactions repeat <an> item of their user"],
        "slices": [
            {"slice": "all", "samples": 1200, "liked": 0.5, "auc": 0.75, "logloss": 0.55, "baseline": 0.6, "tree": 0.7},
            {"slice": "repeats", "samples": 9, "liked": 1, "auc": None, "logloss": 0.5, "baseline": None, "tree": None},
        ],
        "data": "files <of> a shop",
        "written_ms": 1_700_000_060_000,
        "rivals": [
            {"model": TREES, "auc": [0.01, 0.002, 0.02], "logloss": [-0.01, -0.02, -0.001]},
            {"model": POPULARITY, "auc": None, "logloss": [-0.15, -0.2, -0.1]},
        ],
        "choice": {
            "sentence": "din is chosen: the <simplest>",
            "table": [
                {"architecture": "din", "logloss": 0.5, "auc": None, "ece": 0.01, "milliseconds": 2.5, "seconds": 30.0}
            ],
        },
        "epochs": [{"logloss": 0.6, "auc": 0.7}, {"logloss": 0.58, "auc": None}],
        "calibration": [
            {"low": 0.1, "samples": 600, "score": 0.3, "liked": 0.35},
            {"low": 0.5, "samples": 600, "score": 0.7, "liked": 0.65},
        ],
        "histogram": [0, 200, 200, 200, 0, 200, 200, 200, 0, 0],
        "importance": [{"group": "item <fields>", "auc": None, "logloss": [0.02, 0.01, 0.03]}],
        "profile": {"interactions": 1000.0, "liked, of test samples": 0.5, "test LogLoss": 0.55},
        **changes,
    }
    return TrainingReport(**fields)
