"""The time that a service needs to score candidates by a model, measured on one core of this machine."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np

from models.contract.arrays import IntArray
from models.contract.encoding import Sample
from models.split_model import SplitModel, WholeModel, parts_folder
from offline.training.artifact import write_artifact
from offline.training.samples import SampleEncoder

SCORED = 500
"""Candidates of the request that is timed."""

_USERS = 30
_REPEATS = 5


def scoring_milliseconds(content: bytes, encoder: SampleEncoder, rows: IntArray) -> float:
    """Median time of scoring 500 items for the users of samples at some of these log rows, with the histories that they
    had: processor time, which neighbours on the machine hardly change. The model in ``content`` runs in parts if it can
    be split, as a service runs it."""
    with tempfile.TemporaryDirectory() as folder:
        artifact = write_artifact("candidate", content, Path(folder))
        path = Path(folder) / artifact.name
        model = SplitModel.open(parts_folder(path), 1) if artifact.parts else WholeModel.open(path, 1)
        columns = model.table_columns(encoder.table) if isinstance(model, SplitModel) else {}
        generator = np.random.default_rng(0)
        times = []
        for row in generator.choice(rows, _USERS, replace=len(rows) < _USERS):
            items = generator.integers(1, len(encoder.table), size=SCORED)
            sample = Sample(encoder.users(np.array([row])), items)
            each = []
            for _ in range(_REPEATS):
                started = time.thread_time()
                model.scores(sample, encoder.table, columns)
                each.append(time.thread_time() - started)
            times.append(min(each))
    return float(np.median(times)) * 1000.0
