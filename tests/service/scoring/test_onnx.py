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
from tests.service.tiny import ITEMS, SCHEMA, SPACES, artifact_manifest, model_bytes, score_of


def _release(content: bytes) -> ReleaseManifest:
    return ReleaseManifest(
        id="r", created_at=0, artifact="m.onnx", artifact_sha256=hashlib.sha256(content).hexdigest(),
        model=ModelName(name="tiny", version="1"), schema_fingerprint=SCHEMA.fingerprint,
        spaces={"user": SPACES["user"].fingerprint, "item": SPACES["item"].fingerprint}, items=0, directory_blocks=0,
    )  # fmt: skip


def _tensors(count: int, features: dict[str, object] | None = None) -> Tensors:
    table = ItemTable.build(
        SCHEMA,
        [item.id for item in ITEMS],
        range(1, len(ITEMS) + 1),
        [SCHEMA.encode_item_fields({"genre": list(item.genres)}) for item in ITEMS],
        [item.numeric() for item in ITEMS],
        np.asarray([item.vector for item in ITEMS], np.float32),
        [1] * len(ITEMS),
    )
    user = UserBatch.single(SCHEMA, table, features or {}, np.zeros(0, EVENT_DTYPE), None)
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
