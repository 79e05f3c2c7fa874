"""Manifests: their JSON, and what is refused."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from models.contract.artifact import (
    METADATA_KEY,
    ArtifactError,
    ArtifactManifest,
    ItemIndex,
    ModelName,
    RefusedModel,
    ReleaseManifest,
)
from models.contract.knowledge import Space
from tests.contract.golden import ITEM_SPACE, LINKS_SPACE, OTHER_SCHEMA, PORTRAIT_SPACE, SCHEMA, SPACES, USER_SPACE

ARTIFACT = ArtifactManifest(
    model=ModelName(name="gold-din", version="abc"),
    architecture="din",
    feature_schema=SCHEMA,
    spaces=SPACES,
    inputs=("item_index",),
    item_rows=3,
    trained_until_ms=9,
    metrics={"validation_auc": 0.75},
)
ARTIFACT_JSON = (
    '{"format":3,"model":{"name":"gold-din","version":"abc"},"architecture":"din","feature_schema":{"version":1,'
    '"name":"gold","user_fields":[{"name":"age","vocab":[],"edges":[18.0,35.0],"slots":1}],"item_fields":[{"name":'
    '"genres","vocab":["Drama","Comedy"],"edges":[],"slots":2},{"name":"year","vocab":[],"edges":[1990.0],"slots":1}],'
    '"history_length":3,"history_types":["rating"],"value_min":1.0,"value_max":5.0,"value_center":3.0,'
    '"value_scale":2.0,"liked_above":3.0,"prior_liked":0.5,"knowledge":['
    '{"name":"liber","side":"user","rows":2,"dim":3},{"name":"item-text","side":"item","rows":1,"dim":3},'
    '{"name":"portrait","side":"user","rows":1,"dim":2},{"name":"links","side":"item","rows":1,"dim":1}]},"spaces":['
    '{"name":"liber","side":"user","rows":2,"dim":3,"dtype":"int8","components":{"encoder":"é"}},'
    '{"name":"item-text","side":"item","rows":1,"dim":3,"dtype":"float16","components":{"llm":"m","prompt":"p"}},'
    '{"name":"portrait","side":"user","rows":1,"dim":2,"dtype":"float16","components":{"llm":"m"}},'
    '{"name":"links","side":"item","rows":1,"dim":1,"dtype":"float16","components":{}}],'
    '"inputs":["item_index"],"item_rows":3,"trained_until_ms":9,"metrics":{"validation_auc":0.75}}'
)

RELEASE = ReleaseManifest(
    id="gold-1",
    created_at=1_700_000_000,
    artifact="gold.onnx",
    artifact_sha256="ab" * 32,
    model=ModelName(name="gold-din", version="abc"),
    schema_fingerprint="7f82efc59afe30ba",
    spaces={
        "user/liber": "9d52565878ae25d4",
        "item/item-text": "de549c5bfd982399",
        "user/portrait": "83adf376d2dc9a1f",
        "item/links": "8bfaeb53402def8e",
    },
    items=2,
    directory_blocks=1,
    metrics={"validation_auc": 0.75},
)
RELEASE_JSON = (
    '{"format":3,"id":"gold-1","created_at":1700000000,"artifact":"gold.onnx","artifact_sha256":'
    '"abababababababababababababababababababababababababababababababab","model":{"name":"gold-din","version":"abc"},'
    '"schema_fingerprint":"7f82efc59afe30ba","spaces":{"user/liber":"9d52565878ae25d4",'
    '"item/item-text":"de549c5bfd982399","user/portrait":"83adf376d2dc9a1f","item/links":"8bfaeb53402def8e"},"items":2,"directory_blocks":1,"metrics":{"validation_auc":0.75}}'
)


INDEX = ItemIndex(
    space="item/liber",
    file="items-liber-0.faiss",
    sha256="b" * 64,
    kind="ivf",
    effort=8,
    items=3,
    top=200,
    recall=0.995,
)
INDEXED = RELEASE.model_copy(update={"indexes": {"matching": INDEX}})
INDEX_JSON = (
    ',"indexes":{"matching":{"space":"item/liber","file":"items-liber-0.faiss","sha256":"'
    + "b" * 64
    + '","kind":"ivf","effort":8,"items":3,"top":200,"recall":0.995}}}'
)
SPLIT = RELEASE.model_copy(update={"parts": {"items.onnx": "c" * 64}})
SPLIT_JSON = ',"parts":{"items.onnx":"' + "c" * 64 + '"}}'
OWNED = RELEASE.model_copy(update={"configuration": "books"})
OWNED_JSON = ',"configuration":"books"}'
ALL_SOMEBODY = RELEASE.model_copy(update={"nobody": ()})
ALL_SOMEBODY_JSON = ',"nobody":[]}'


def test_manifests_are_golden() -> None:
    assert ARTIFACT.model_dump_json() == ARTIFACT_JSON
    assert RELEASE.to_json() == RELEASE_JSON
    assert INDEXED.to_json() == RELEASE_JSON[:-1] + INDEX_JSON
    assert SPLIT.to_json() == RELEASE_JSON[:-1] + SPLIT_JSON
    assert OWNED.to_json() == RELEASE_JSON[:-1] + OWNED_JSON
    assert ALL_SOMEBODY.to_json() == RELEASE_JSON[:-1] + ALL_SOMEBODY_JSON


def test_golden_manifests_read_back() -> None:
    assert ArtifactManifest.from_metadata({METADATA_KEY: ARTIFACT_JSON, "producer": "x"}) == ARTIFACT
    assert ReleaseManifest.model_validate_json(RELEASE_JSON) == RELEASE
    assert ReleaseManifest.model_validate_json(RELEASE_JSON[:-1] + INDEX_JSON) == INDEXED
    assert ReleaseManifest.model_validate_json(RELEASE_JSON[:-1] + SPLIT_JSON) == SPLIT
    assert ReleaseManifest.model_validate_json(RELEASE_JSON[:-1] + OWNED_JSON) == OWNED
    assert ReleaseManifest.model_validate_json(RELEASE_JSON[:-1] + ALL_SOMEBODY_JSON) == ALL_SOMEBODY


def test_a_model_without_manifest_is_refused() -> None:
    with pytest.raises(ArtifactError, match=r"carries no lorank\.manifest"):
        ArtifactManifest.from_metadata({})


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"format":3', '"format":2'),
        ('"format":3', '"format":4'),
        ('"item_rows":3', '"item_rows":0'),
        ('"item_rows":3', '"item_rows":3,"surprise":1'),
        ('"version":"abc"', '"versions":"abc"'),
        ('"side":"user"', '"side":"context"'),
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
        {"format": 2}, {"format": 4}, {"id": ""}, {"id": "a/b"}, {"id": "a:b"}, {"id": "x" * 65}, {"extra": 1},
        {"artifact_sha256": "ab"}, {"artifact_sha256": "AB" * 32}, {"spaces": {"user/liber": 1}},
        {"artifact": "../gold.onnx"}, {"artifact": "a/b"}, {"artifact": ""}, {"artifact": ".hidden"},
        {"parts": {"../x": "c" * 64}}, {"parts": {"x": "c"}},
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


def test_the_order_of_spaces_is_free() -> None:
    reordered = ArtifactManifest.model_validate({**ARTIFACT.model_dump(), "spaces": SPACES[::-1]})
    RELEASE.check(reordered)


def test_a_model_without_knowledge_has_no_spaces() -> None:
    bare = SCHEMA.with_knowledge(())
    manifest = ArtifactManifest.model_validate({**ARTIFACT.model_dump(), "feature_schema": bare, "spaces": ()})
    release = RELEASE.model_copy(update={"schema_fingerprint": bare.fingerprint, "spaces": {}})
    release.check(ArtifactManifest.from_metadata({METADATA_KEY: manifest.model_dump_json()}))


@pytest.mark.parametrize(
    "spaces",
    [
        (),
        SPACES[:3],
        (*SPACES, LINKS_SPACE),
        (*SPACES, ITEM_SPACE.model_copy(update={"side": "user"})),
        (*SPACES[:3], LINKS_SPACE.model_copy(update={"dim": 2})),
        (*SPACES[:3], LINKS_SPACE.model_copy(update={"name": "other"})),
        (*SPACES[:3], LINKS_SPACE.model_copy(update={"side": "user"})),
        (*SPACES[1:], USER_SPACE.model_copy(update={"rows": 1})),
        (*SPACES[:2], LINKS_SPACE, PORTRAIT_SPACE.model_copy(update={"rows": 2})),
    ],
)
def test_an_artifact_whose_spaces_are_not_those_of_its_schema_is_refused(spaces: tuple[Space, ...]) -> None:
    with pytest.raises(ValidationError, match="the schema reads"):
        ArtifactManifest.model_validate({**ARTIFACT.model_dump(), "spaces": spaces})
    tampered = ARTIFACT.model_copy(update={"spaces": spaces}).model_dump_json()
    with pytest.raises(ArtifactError, match="the schema reads"):
        ArtifactManifest.from_metadata({METADATA_KEY: tampered})


def test_a_release_of_another_schema_is_refused() -> None:
    with pytest.raises(ArtifactError, match=f"{OTHER_SCHEMA.fingerprint}.*{SCHEMA.fingerprint}"):
        RELEASE.check(ARTIFACT.model_copy(update={"feature_schema": OTHER_SCHEMA}))


@pytest.mark.parametrize(
    "spaces",
    [
        (),
        (USER_SPACE,),
        SPACES[:3],
        (*SPACES[:3], LINKS_SPACE.model_copy(update={"components": {"llm": "m"}})),
        (*SPACES, ITEM_SPACE.model_copy(update={"side": "user"})),
    ],
)
def test_a_release_of_other_spaces_is_refused(spaces: tuple[Space, ...]) -> None:
    with pytest.raises(ArtifactError, match="spaces"):
        RELEASE.check(ARTIFACT.model_copy(update={"spaces": spaces}))


def test_the_note_of_a_refused_model() -> None:
    note = RefusedModel(release="gold-2", live="gold-1", reasons=("AUC -0.1",), at=1_700_000_000, max_auc_drop=0.01)
    document = '{"release":"gold-2","live":"gold-1","reasons":["AUC -0.1"],"at":1700000000,"max_auc_drop":0.01}'
    assert note.model_dump_json() == document
    assert RefusedModel.parse(document) == RefusedModel.parse(document.encode()) == note
    for nothing in (None, b"", b"\xff", b"[]", b'{"release": "gold-2"}'):
        assert RefusedModel.parse(nothing) is None
