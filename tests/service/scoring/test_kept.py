"""A model in parts, written and opened again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from models.contract.items import in_memory
from service.scoring import kept
from service.scoring.kept import keep_parts, kept_parts
from service.scoring.onnx import opened
from service.scoring.partial import cut
from service.scoring.rehearsal import rehearsal
from service.scoring.scorers import PartialScorer
from tests.models.test_export import export_of
from tests.models.tiny import ALL, KINDS, Kind


@pytest.mark.parametrize("kind", KINDS, ids="-".join)
@pytest.mark.parametrize("large", [65_536, 64])
def test_kept_parts_score_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Kind, large: int) -> None:
    monkeypatch.setattr(kept, "_LARGE_BYTES", large)
    _, manifest, content = export_of(kind, ALL)
    parts = cut(content)
    keep_parts(tmp_path, manifest, parts)
    artifact, again = kept_parts(tmp_path, 1)
    assert artifact == manifest
    table, samples = rehearsal(manifest)
    first = opened(parts, 1)
    one = PartialScorer(first, manifest, table, first.columns(table, in_memory))
    other = PartialScorer(again, manifest, table, again.columns(table, in_memory))
    for sample in samples:
        np.testing.assert_array_equal(one.run(sample), other.run(sample))


def test_weights_lie_outside_once_and_are_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "_LARGE_BYTES", 64)
    _, manifest, content = export_of(("lifelong", "target"), ALL)
    keep_parts(tmp_path, manifest, cut(content))
    graphs = [onnx.load_model(tmp_path / name, load_external_data=False) for name in ("items.onnx", "history.onnx")]
    names = [
        {one.name for one in graph.graph.initializer if one.data_location == onnx.TensorProto.EXTERNAL}
        for graph in graphs
    ]
    assert names[0] & names[1], "a weight that both read"
    outside = {one.name: one for graph in graphs for one in graph.graph.initializer if one.external_data}
    offsets = [int(next(cell.value for cell in one.external_data if cell.key == "offset")) for one in outside.values()]
    assert len(set(offsets)) == len(outside)
    assert all(at % 4096 == 0 for at in offsets)
    mapped = kept_parts(tmp_path, 1)
    assert str(tmp_path / "weights") in Path("/proc/self/maps").read_text()
    del mapped
