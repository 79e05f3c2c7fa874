"""The ONNX adapter: what it refuses on loading, and what it does with a model that fails."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from models.contract.artifact import ArtifactError, ModelName, ReleaseManifest
from models.contract.encoding import UserBatch
from models.contract.events import EVENT_DTYPE
from models.contract.items import ItemTable, in_memory
from models.onnx_runtime import InferenceSession, onnx_runtime
from service.errors import ScoringError
from service.ranking.types import Sample
from service.releases import loader
from service.scoring.onnx import OnnxModel, in_parts, load_model
from service.scoring.rehearsal import rehearsal
from service.scoring.scorers import (
    INLINE_CANDIDATES,
    INLINE_SECONDS,
    INLINE_SECONDS_ALONE,
    OnnxScorer,
    PartialScorer,
    PartSessions,
    WholeScorer,
)
from tests.models.test_export import export_of
from tests.models.tiny import ALL
from tests.service.tiny import ITEMS, score_of
from tests.service.tiny_model import (
    BARE_SCHEMA,
    FINGERPRINTS,
    INPUTS,
    SCHEMA,
    SPACES,
    artifact_manifest,
    bare_manifest,
    inputs_of,
    model_bytes,
)


def _release(content: bytes, **changes: object) -> ReleaseManifest:
    release = ReleaseManifest(
        id="r", created_at=0, artifact="m.onnx", artifact_sha256=hashlib.sha256(content).hexdigest(),
        model=ModelName(name="tiny", version="1"), schema_fingerprint=SCHEMA.fingerprint,
        spaces=FINGERPRINTS, items=0, directory_blocks=0,
    )  # fmt: skip
    return release.model_copy(update=changes)


TABLE = ItemTable.build(
    SCHEMA,
    [item.id for item in ITEMS],
    range(1, len(ITEMS) + 1),
    [SCHEMA.encode_item_fields({"genre": list(item.genres)}) for item in ITEMS],
    [item.numeric() for item in ITEMS],
    np.zeros((len(ITEMS), SCHEMA.item_width), np.float32),
    np.ones((len(ITEMS), 2)),
)


def _sample(count: int, features: dict[str, object] | None = None) -> Sample:
    user = UserBatch.single(SCHEMA, TABLE, features or {}, np.zeros(0, EVENT_DTYPE), {})
    return Sample(user, 1 + np.arange(count, dtype=np.int64) % len(ITEMS))


def _loaded(folder: Path, content: bytes, **changes: object) -> OnnxModel:
    (folder / "m.onnx").write_bytes(content)
    return load_model(folder, _release(content, **changes), 1)


def _on_table(model: OnnxModel) -> OnnxScorer:
    parts = model.sessions
    return model.on(TABLE, parts.columns(TABLE, in_memory) if isinstance(parts, PartSessions) else {})


@pytest.mark.parametrize("count", [1, 2, INLINE_CANDIDATES, INLINE_CANDIDATES + 1, 2000])
async def test_scores_follow_the_candidates(tmp_path: Path, count: int) -> None:
    model = _loaded(tmp_path, model_bytes())
    assert model.artifact == artifact_manifest()
    for scorer in (_on_table(model), WholeScorer(_session(tmp_path), model.artifact, TABLE)):
        scores = await scorer.score(_sample(count))
        assert scores.dtype == np.float32
        assert scores.tolist() == pytest.approx([score_of(ITEMS[at % len(ITEMS)]) for at in range(count)], rel=1e-5)


def _session(folder: Path) -> InferenceSession:
    opened: InferenceSession = onnx_runtime().InferenceSession(str(folder / "m.onnx"))
    return opened


@pytest.mark.parametrize("count", [1, INLINE_CANDIDATES + 1])
async def test_a_failing_run_is_a_scoring_error(tmp_path: Path, count: int) -> None:
    model = _loaded(tmp_path, model_bytes(user_rows=1))
    for scorer in (_on_table(model), WholeScorer(_session(tmp_path), model.artifact, TABLE)):
        with pytest.raises(ScoringError):
            await scorer.score(_sample(count, {"gender": "F"}))


@pytest.mark.parametrize(
    ("seconds", "most", "inline"),
    [(0.01, INLINE_SECONDS, 0), (0.0001, INLINE_SECONDS, 5000), (0.001, INLINE_SECONDS_ALONE, 2500)],
)
def test_short_runs_stay_on_the_event_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, most: float, inline: int
) -> None:
    monkeypatch.setattr(loader, "_seconds", lambda *_: seconds)
    model = _loaded(tmp_path, model_bytes())
    scorer = _on_table(model)
    loader._warm(scorer, model, TABLE, most)
    assert scorer.inline == inline


@pytest.mark.parametrize("side", ["items", "history"])
async def test_failing_columns_are_a_scoring_error(tmp_path: Path, side: str) -> None:
    _, manifest, content = export_of(("lifelong", "target"), ALL)
    session = onnx_runtime().InferenceSession(content)
    cut_up = in_parts(content, session, manifest, 1)
    assert cut_up is not None
    parts = cut_up[1]
    table, samples = rehearsal(manifest)
    broken = replace(getattr(parts, side), names=("nothing",))
    scorer = PartialScorer(parts, manifest, table, parts.columns(table, in_memory))
    scorer._parts = replace(parts, **{side: broken})
    without = next(one for one in samples if not one.knowledge)
    with pytest.raises(ScoringError, match="nothing"):
        await scorer.score(without)


async def test_scores_that_are_not_numbers_are_a_scoring_error(tmp_path: Path) -> None:
    scorer = _on_table(_loaded(tmp_path, model_bytes(offset=float("nan"))))
    with pytest.raises(ScoringError, match="finite"):
        await scorer.score(_sample(3))


def test_what_is_not_the_published_file_is_refused(tmp_path: Path) -> None:
    content = model_bytes()
    (tmp_path / "m.onnx").write_bytes(content + b"\0")
    with pytest.raises(ArtifactError, match="sha256"):
        load_model(tmp_path, _release(content), 1)
    with pytest.raises(ArtifactError, match="cannot be read"):
        load_model(tmp_path / "nowhere", _release(content), 1)


def _refusal(folder: Path, content: bytes, **changes: object) -> str:
    with pytest.raises(ArtifactError) as refused:
        _loaded(folder, content, **changes)
    return str(refused.value)


@pytest.mark.parametrize("inputs", [INPUTS[1:], (*INPUTS, "history_mask")])
def test_a_model_of_other_inputs_than_its_manifest_says_is_refused(tmp_path: Path, inputs: tuple[str, ...]) -> None:
    content = model_bytes(artifact_manifest(inputs=inputs), takes=INPUTS)
    assert "model takes" in _refusal(tmp_path, content)


def test_a_model_that_reads_knowledge_which_its_schema_lacks_is_refused(tmp_path: Path) -> None:
    content = model_bytes(artifact_manifest(feature_schema=BARE_SCHEMA, spaces=()), takes=INPUTS)
    reason = _refusal(tmp_path, content, schema_fingerprint=BARE_SCHEMA.fingerprint, spaces={})
    assert "['item_vectors', 'partition_vectors', 'user_vectors'], which its schema does not fill" in reason


@pytest.mark.parametrize("change", [{"dim": 4}, {"rows": 2}, {"name": "other"}])
def test_a_model_whose_spaces_are_not_its_schemas_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    spaces = (*SPACES[:-1], SPACES[-1].model_copy(update=change))
    content = model_bytes(artifact_manifest().model_copy(update={"spaces": spaces}))
    reason = _refusal(tmp_path, content, spaces={space.key: space.fingerprint for space in spaces})
    assert "the schema reads" in reason


async def test_a_model_without_knowledge(tmp_path: Path) -> None:
    content = model_bytes(bare_manifest())
    model = _loaded(tmp_path, content, schema_fingerprint=BARE_SCHEMA.fingerprint, spaces={})
    assert model.artifact.inputs == inputs_of(BARE_SCHEMA)
    assert len(model.artifact.inputs) == len(INPUTS) - 3
    scores = await _on_table(model).score(_sample(3))
    assert scores.tolist() == pytest.approx([score_of(item) for item in ITEMS[:3]], rel=1e-5)
