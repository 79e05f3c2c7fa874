"""Manifests: their JSON, and what is refused."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from models.contract.artifact import METADATA_KEY, ArtifactError, ArtifactManifest, ModelName, ReleaseManifest
from tests.contract.golden import ITEM_SPACE, OTHER_SCHEMA, SCHEMA, USER_SPACE

ARTIFACT = ArtifactManifest(
    model=ModelName(name="gold-din", version="abc"),
    architecture="din",
    feature_schema=SCHEMA,
    spaces={"user": USER_SPACE, "item": ITEM_SPACE},
    inputs=("item_index",),
    item_rows=3,
    trained_until_ms=9,
    metrics={"validation_auc": 0.75},
)
ARTIFACT_JSON = (
    '{"format":1,"model":{"name":"gold-din","version":"abc"},"architecture":"din","feature_schema":{"version":1,'
    '"name":"gold","user_fields":[{"name":"age","vocab":[],"edges":[18.0,35.0],"slots":1}],"item_fields":[{"name":'
    '"genres","vocab":["Drama","Comedy"],"edges":[],"slots":2},{"name":"year","vocab":[],"edges":[1990.0],"slots":1}],'
    '"history_length":3,"history_types":["rating"],"value_min":1.0,"value_max":5.0,"value_center":3.0,"value_scale":2.0,"liked_above":3.0,'
    '"prior_liked":0.5,"partitions":2,"knowledge_dim":3},"spaces":{"user":{"name":"liber","side":"user","rows":2,'
    '"dim":3,"dtype":"int8","components":{"encoder":"é"}},"item":{"name":"item-text","side":"item","rows":1,"dim":3,'
    '"dtype":"float16","components":{"llm":"m","prompt":"p"}}},"inputs":["item_index"],"item_rows":3,'
    '"trained_until_ms":9,"metrics":{"validation_auc":0.75}}'
)

RELEASE = ReleaseManifest(
    id="gold-1",
    created_at=1_700_000_000,
    artifact="gold.onnx",
    artifact_sha256="ab" * 32,
    model=ModelName(name="gold-din", version="abc"),
    schema_fingerprint="1796877993321606",
    spaces={"user": "9d52565878ae25d4", "item": "de549c5bfd982399"},
    items=2,
    directory_blocks=1,
    metrics={"validation_auc": 0.75},
)
RELEASE_JSON = (
    '{"format":1,"id":"gold-1","created_at":1700000000,"artifact":"gold.onnx","artifact_sha256":'
    '"abababababababababababababababababababababababababababababababab","model":{"name":"gold-din","version":"abc"},'
    '"schema_fingerprint":"1796877993321606","spaces":{"user":"9d52565878ae25d4","item":"de549c5bfd982399"},'
    '"items":2,"directory_blocks":1,"metrics":{"validation_auc":0.75}}'
)


def test_manifests_are_golden() -> None:
    assert ARTIFACT.model_dump_json() == ARTIFACT_JSON
    assert RELEASE.model_dump_json() == RELEASE_JSON


def test_golden_manifests_read_back() -> None:
    assert ArtifactManifest.from_metadata({METADATA_KEY: ARTIFACT_JSON, "producer": "x"}) == ARTIFACT
    assert ReleaseManifest.model_validate_json(RELEASE_JSON) == RELEASE


def test_a_model_without_manifest_is_refused() -> None:
    with pytest.raises(ArtifactError, match=r"carries no lorank\.manifest"):
        ArtifactManifest.from_metadata({})


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"format":1', '"format":2'),
        ('"item_rows":3', '"item_rows":0'),
        ('"item_rows":3', '"item_rows":3,"surprise":1'),
        ('"version":"abc"', '"versions":"abc"'),
        ('"user":{"name":"liber"', '"context":{"name":"liber"'),
        ("{", ""),
    ],
)
def test_an_artifact_manifest_of_another_form_is_refused(old: str, new: str) -> None:
    with pytest.raises(ArtifactError, match="not understood"):
        ArtifactManifest.from_metadata({METADATA_KEY: ARTIFACT_JSON.replace(old, new, 1)})


@pytest.mark.parametrize("cut", range(0, len(ARTIFACT_JSON), 7))
def test_a_truncated_artifact_manifest_is_refused(cut: int) -> None:
    with pytest.raises(ArtifactError):
        ArtifactManifest.from_metadata({METADATA_KEY: ARTIFACT_JSON[:cut]})


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2}, {"id": ""}, {"id": "a/b"}, {"id": "a:b"}, {"id": "x" * 65}, {"artifact_sha256": "ab"},
        {"artifact_sha256": "AB" * 32}, {"extra": 1}, {"spaces": {"context": "x"}}, {"artifact": "../gold.onnx"},
        {"artifact": "a/b"}, {"artifact": ""}, {"artifact": ".hidden"},
    ],
)  # fmt: skip
def test_a_release_manifest_of_another_form_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        ReleaseManifest.model_validate({**RELEASE.model_dump(), **change})


@pytest.mark.parametrize("name", ["", "..", "../model.onnx", "a/b.onnx", ".hidden", "x" * 300])
def test_an_artifact_is_a_plain_file_name(name: str) -> None:
    with pytest.raises(ValidationError, match="artifact"):
        ReleaseManifest.model_validate({**RELEASE.model_dump(), "artifact": name})


def test_a_release_fits_the_artifact_it_was_published_with() -> None:
    RELEASE.check(ARTIFACT)


def test_a_release_of_another_schema_is_refused() -> None:
    with pytest.raises(ArtifactError, match=f"{OTHER_SCHEMA.fingerprint}.*{SCHEMA.fingerprint}"):
        RELEASE.check(ARTIFACT.model_copy(update={"feature_schema": OTHER_SCHEMA}))


@pytest.mark.parametrize("spaces", [{}, {"user": USER_SPACE}, {"user": ITEM_SPACE, "item": ITEM_SPACE}])
def test_a_release_of_other_spaces_is_refused(spaces: dict[str, object]) -> None:
    with pytest.raises(ArtifactError, match="spaces"):
        RELEASE.check(ARTIFACT.model_copy(update={"spaces": spaces}))
