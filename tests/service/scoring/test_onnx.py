"""The ONNX adapter: what it refuses on loading, and what it does with a model that fails."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from models.contract.artifact import ArtifactError, ModelName, ReleaseManifest
from models.contract.encoding import ItemBatch, Tensors, UserBatch, encode
from models.contract.events import EVENT_DTYPE
from models.contract.items import ItemTable
from service.errors import ScoringError
from service.scoring.onnx import INLINE_CANDIDATES, load_scorer
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


def _tensors(count: int, features: dict[str, object] | None = None) -> Tensors:
    table = ItemTable.build(
        SCHEMA,
        [item.id for item in ITEMS],
        range(1, len(ITEMS) + 1),
        [SCHEMA.encode_item_fields({"genre": list(item.genres)}) for item in ITEMS],
        [item.numeric() for item in ITEMS],
        np.zeros((len(ITEMS), SCHEMA.item_width), np.float32),
        np.ones((len(ITEMS), 2)),
    )
    user = UserBatch.single(SCHEMA, table, features or {}, np.zeros(0, EVENT_DTYPE), {})
    rows = 1 + np.arange(count, dtype=np.int64) % len(ITEMS)
    return encode(SCHEMA, table, user, ItemBatch.gather(table, rows))


@pytest.mark.parametrize("count", [1, 2, INLINE_CANDIDATES, INLINE_CANDIDATES + 1, 2000])
async def test_scores_follow_the_candidates(tmp_path: Path, count: int) -> None:
    content = model_bytes()
    (tmp_path / "m.onnx").write_bytes(content)
    scorer, manifest = load_scorer(tmp_path, _release(content), 1)
    assert manifest == artifact_manifest()
    scores = await scorer.score(_tensors(count))
    assert scores.dtype == np.float32
    assert scores.tolist() == pytest.approx([score_of(ITEMS[at % len(ITEMS)]) for at in range(count)], rel=1e-5)


@pytest.mark.parametrize("count", [1, INLINE_CANDIDATES + 1])
async def test_a_failing_run_is_a_scoring_error(tmp_path: Path, count: int) -> None:
    content = model_bytes(user_rows=1)
    (tmp_path / "m.onnx").write_bytes(content)
    scorer, _ = load_scorer(tmp_path, _release(content), 1)
    with pytest.raises(ScoringError):
        await scorer.score(_tensors(count, {"gender": "F"}))


async def test_scores_that_are_not_numbers_are_a_scoring_error(tmp_path: Path) -> None:
    content = model_bytes(offset=float("nan"))
    (tmp_path / "m.onnx").write_bytes(content)
    scorer, _ = load_scorer(tmp_path, _release(content), 1)
    with pytest.raises(ScoringError, match="finite"):
        await scorer.score(_tensors(3))


def test_what_is_not_the_published_file_is_refused(tmp_path: Path) -> None:
    content = model_bytes()
    (tmp_path / "m.onnx").write_bytes(content + b"\0")
    with pytest.raises(ArtifactError, match="sha256"):
        load_scorer(tmp_path, _release(content), 1)
    with pytest.raises(ArtifactError, match="cannot be read"):
        load_scorer(tmp_path / "nowhere", _release(content), 1)


def _refusal(folder: Path, content: bytes, **changes: object) -> str:
    (folder / "m.onnx").write_bytes(content)
    with pytest.raises(ArtifactError) as refused:
        load_scorer(folder, _release(content, **changes), 1)
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
    (tmp_path / "m.onnx").write_bytes(content)
    release = _release(content, schema_fingerprint=BARE_SCHEMA.fingerprint, spaces={})
    scorer, manifest = load_scorer(tmp_path, release, 1)
    assert manifest.inputs == inputs_of(BARE_SCHEMA)
    assert len(manifest.inputs) == len(INPUTS) - 3
    scores = await scorer.score(_tensors(3))
    assert scores.tolist() == pytest.approx([score_of(item) for item in ITEMS[:3]], rel=1e-5)
