"""Models as the service loads and runs them: whole and split, refused, damaged and failing ones."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from models.contract.artifact import ArtifactError, ModelName, ReleaseManifest
from models.contract.encoding import Sample, UserBatch
from models.contract.events import EVENT_DTYPE
from models.contract.items import ItemTable
from models.split_model import REQUEST_GRAPH, parts_folder
from service.ranking.degraded import ScoringError
from service.releases import loader
from service.scoring import INLINE_CANDIDATES, INLINE_SECONDS, INLINE_SECONDS_ALONE, CtrModel, OnnxScorer, load_model
from tests.parts import write_parts
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
    user = UserBatch.single(SCHEMA, TABLE, features or {}, np.zeros(0, EVENT_DTYPE), {}, 0)
    return Sample(user, 1 + np.arange(count, dtype=np.int64) % len(ITEMS))


def _loaded(folder: Path, content: bytes, **changes: object) -> CtrModel:
    """The model of ``content`` as a release without parts has it."""
    (folder / "m.onnx").write_bytes(content)
    return load_model(folder, _release(content, **changes), 1)


def _split(folder: Path, content: bytes, **changes: object) -> CtrModel:
    """The same of a release with parts."""
    parts = write_parts(content, parts_folder(folder / "m.onnx"))
    return _loaded(folder, content, parts=parts, **changes)


def _on_table(model: CtrModel) -> OnnxScorer:
    return model.on(TABLE, {} if model.split is None else model.split.table_columns(TABLE))


def _both(folder: Path, content: bytes, **changes: object) -> Iterator[OnnxScorer]:
    for load in (_loaded, _split):
        scorer = _on_table(load(folder, content, **changes))
        assert (scorer.in_parts, scorer.problem) == (load is _split, None)
        yield scorer


@pytest.mark.parametrize("count", [1, 2, INLINE_CANDIDATES, INLINE_CANDIDATES + 1, 2000])
async def test_scores_follow_the_candidates(tmp_path: Path, count: int) -> None:
    for scorer in _both(tmp_path, model_bytes()):
        scores = await scorer.score(_sample(count))
        assert scores.dtype == np.float32
        assert scores.tolist() == pytest.approx([score_of(ITEMS[at % len(ITEMS)]) for at in range(count)], rel=1e-5)


@pytest.mark.parametrize("count", [1, INLINE_CANDIDATES + 1])
async def test_a_failing_run_is_a_scoring_error(tmp_path: Path, count: int) -> None:
    for scorer in _both(tmp_path, model_bytes(user_rows=1)):
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


async def test_failing_columns_are_a_scoring_error(tmp_path: Path) -> None:
    model = _split(tmp_path, model_bytes())
    assert model.split is not None
    broken = replace(model.split, items=replace(model.split.items, names=("nothing",)))
    scorer = replace(model, graphs=broken).on(TABLE, {})
    with pytest.raises(ScoringError, match="nothing"):
        await scorer.score(replace(_sample(3), knowledge=False))


async def test_scores_that_are_not_numbers_are_a_scoring_error(tmp_path: Path) -> None:
    for scorer in _both(tmp_path, model_bytes(offset=float("nan"))):
        with pytest.raises(ScoringError, match="finite"):
            await scorer.score(_sample(3))


def test_what_is_not_the_published_file_is_refused(tmp_path: Path) -> None:
    content = model_bytes()
    (tmp_path / "m.onnx").write_bytes(content + b"\0")
    with pytest.raises(ArtifactError, match="sha256"):
        load_model(tmp_path, _release(content), 1)
    with pytest.raises(ArtifactError, match="cannot be read"):
        load_model(tmp_path / "nowhere", _release(content), 1)


@pytest.mark.parametrize("name", [REQUEST_GRAPH, "items.onnx", "weights.bin"])
@pytest.mark.parametrize("damage", ["changed", "gone"])
def test_damaged_parts_cost_speed_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, damage: str
) -> None:
    content = model_bytes()
    parts = write_parts(content, parts_folder(tmp_path / "m.onnx")) | {"weights.bin": hashlib.sha256(b"").hexdigest()}
    file = parts_folder(tmp_path / "m.onnx") / name
    if damage == "gone":
        file.unlink(missing_ok=True)
    else:
        file.write_bytes(b"half of it")
    with caplog.at_level(logging.ERROR):
        model = _loaded(tmp_path, content, parts=parts)
    assert model.split is None
    scorer = _on_table(model)
    assert scorer.problem is not None
    assert scorer.problem.startswith("the model runs as a whole: ")
    assert name in scorer.problem
    assert "runs as a whole" in caplog.text
    assert scorer.run(_sample(3)).tolist() == pytest.approx([score_of(item) for item in ITEMS[:3]], rel=1e-5)


def test_parts_of_another_release_are_not_run(tmp_path: Path) -> None:
    """Whatever their digests, they say what they were trained on."""
    content, other = model_bytes(), model_bytes(bare_manifest())
    model = _loaded(tmp_path, content, parts=write_parts(other, parts_folder(tmp_path / "m.onnx")))
    assert model.split is None
    assert "was trained on schema" in (model.problem or "")


def _refusal(folder: Path, content: bytes, **changes: object) -> str:
    """Why a model is refused; the same with parts and without."""
    reasons = []
    for load in (_loaded, _split):
        with pytest.raises(ArtifactError) as refused:
            load(folder, content, **changes)
        reasons.append(str(refused.value))
    assert reasons[0] == reasons[1]
    return reasons[0]


def test_a_model_that_takes_more_than_its_manifest_says_is_refused(tmp_path: Path) -> None:
    content = model_bytes(artifact_manifest(inputs=INPUTS[1:]), takes=INPUTS)
    assert "model takes" in _refusal(tmp_path, content)


def test_a_model_that_takes_less_than_its_manifest_says_is_refused(tmp_path: Path) -> None:
    """As a whole: parts take no input that nothing reads."""
    content = model_bytes(artifact_manifest(inputs=(*INPUTS, "history_mask")), takes=INPUTS)
    with pytest.raises(ArtifactError, match="model takes"):
        _loaded(tmp_path, content)


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
    for scorer in _both(tmp_path, content, schema_fingerprint=BARE_SCHEMA.fingerprint, spaces={}):
        scores = await scorer.score(_sample(3))
        assert scores.tolist() == pytest.approx([score_of(item) for item in ITEMS[:3]], rel=1e-5)
    assert len(inputs_of(BARE_SCHEMA)) == len(INPUTS) - 3
