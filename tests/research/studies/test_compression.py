"""The comparison of compressions and the layer sweep: every method, width and depth, nothing from outside the training
period, and tables for people. The CTR models are not trained (tests/research/quick.py)."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from offline.config import JobConfig
from offline.data.files import read_json
from offline.data.log import InteractionLog
from offline.knowledge.config import CompressionConfig
from offline.knowledge.marc.produce import States
from offline.training.bootstrap import Resamples
from offline.training.samples import split_samples
from research import trials
from research.studies import compression, layers
from tests.research.quick import trained_quickly
from tests.synthetic import Synthetic, synthetic

WIDTH = 144
SMALL = CompressionConfig(hidden=16, matching_width=8, epochs=1, constraint_rows=32)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Synthetic:
    source = synthetic(tmp_path_factory.mktemp("synthetic"), users=60, events=22)
    marc = source.config.knowledge.marc.model_copy(update={"compression": SMALL})
    knowledge = source.config.knowledge.model_copy(update={"marc": marc})
    return replace(source, config=source.config.model_copy(update={"knowledge": knowledge}))


def states(data: Synthetic, seed: int = 0) -> States:
    """Random ones; the last item has none."""
    versions = data.knowledge.users["liber"]
    generator = np.random.default_rng(seed)
    known = np.ones(len(data.log.item_ids), np.bool_)
    known[-1] = False
    items = generator.normal(size=(len(known), WIDTH)).astype(np.float32) * known[:, None]
    users = generator.normal(size=(len(versions.vectors), WIDTH)).astype(np.float32)
    return States(items, known, users, versions.start, versions.since)


def compare(data: Synthetic, folder: Path) -> compression.Comparison:
    runner = trials.TrialRunner(data.config, data.catalogue, data.log, folder)
    return compression.compare_compressions(runner, states(data), seeds=2, dims=(16, 32))


def test_every_method_at_every_width_against_the_uncompressed_states(
    data: Synthetic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compression, "Resamples", partial(Resamples, count=100))
    trainings = trained_quickly(monkeypatch, {"uncompressed 144": 0.2, "marc 32": 3.0, "no knowledge 0": 0.0})
    result = compare(data, tmp_path)
    assert [(row.method, row.dim, row.payload) for row in result.rows] == [
        *((method, 16, 20) for method in ("marc", "mlp", "mrl", "pca")),
        *((method, 32, 36) for method in ("marc", "mlp", "mrl", "pca")),
        ("uncompressed", WIDTH, 2 * WIDTH),
    ]
    by_name = {f"{row.method} {row.dim}": row for row in result.rows}
    against = by_name["marc 32"].against
    assert against is not None
    assert against.low > 0.1
    assert by_name["uncompressed 144"].against is None
    assert result.floor < 0.6
    assert trainings.names == {*by_name, "no knowledge 0"}
    assert not trainings.schemas["no knowledge 0"].knowledge
    assert [(spec.key, spec.dim) for spec in trainings.schemas["pca 16"].knowledge] == [
        ("user/marc", 16),
        ("item/marc", 16),
    ]

    table = result.markdown().splitlines()
    assert table[2].startswith("| no knowledge | 0 | ")
    assert table[-1].startswith("| uncompressed | 144 | ")
    microseconds = 1e6 * by_name["uncompressed 144"].seconds / result.items
    assert table[-1].endswith(f"| 288 | 1/1.0 | {microseconds:.1f} |")
    assert "| 36 | 1/8.0 |" in table[7]
    result.save(tmp_path / "results.json")
    assert read_json(tmp_path / "results.json")["rows"][0]["method"] == "marc"

    done = len(trainings.fitted)
    compare(data, tmp_path)
    assert len(trainings.fitted) == done  # a comparison that was stopped finds what it finished


def sweep(data: Synthetic, log: InteractionLog | None = None) -> layers.Layers:
    both = {0.5: states(data), 1.0: states(data, seed=1)}
    return layers.sweep(data.config, log or data.log, both, seeds=[0])


def test_the_layer_sweep_has_every_method_at_every_depth_twice(data: Synthetic, tmp_path: Path) -> None:
    result = sweep(data)
    assert {(row.context, row.depth, row.method) for row in result.rows} == {
        (context, depth, method)
        for depth in (0.5, 1.0)
        for context in (layers.BESIDE_STATISTICS, layers.ALONE)
        for method in ("marc", "pca", "mlp", "mrl", "uncompressed")
    }
    text = result.markdown()
    assert text.index(layers.BESIDE_STATISTICS) < text.index(layers.ALONE)
    assert text.count("| method | dim | 0.5 | 1 |") == 2
    result.save(tmp_path / "layers.json")
    assert len(read_json(tmp_path / "layers.json")["rows"]) == 20


def test_the_layer_sweep_reads_nothing_after_the_training_period(data: Synthetic) -> None:
    end = split_samples(data.config.samples, data.log).trained_rows
    other = data.log.value.copy()
    other[end:] = np.where(other[end:] > 3, 1.0, 5.0)
    assert sweep(data, replace(data.log, value=other)) == sweep(data)


def test_what_the_probe_knows_before_a_row_does_not_know_the_row(data: Synthetic) -> None:
    known = known_before(data.config, data.log)
    at = len(data.log) // 2
    other = data.log.value.copy()
    other[at] = 1.0 if other[at] > 3 else 5.0
    changed = np.flatnonzero((known_before(data.config, replace(data.log, value=other)) != known).any(axis=1))
    assert len(changed)
    assert changed.min() > at
    same = (data.log.user[changed] == data.log.user[at]) | (data.log.item[changed] == data.log.item[at])
    assert same.all()


def known_before(config: JobConfig, log: InteractionLog) -> np.ndarray:
    return layers.known_before(config.feature_schema, log, len(log))
