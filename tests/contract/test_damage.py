"""Whatever bytes a parser of the contract is given, it gives a value or the error that it documents."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from models.contract.artifact import METADATA_KEY, ArtifactError, ArtifactManifest, RefusedModel, ReleaseManifest
from models.contract.bulk import item_rows, knowledge_rows
from models.contract.events import EVENT_BYTES, Interaction, unpack_history
from models.contract.experiments import ExperimentsError, parse_experiments
from models.contract.exposures import Exposure
from models.contract.knowledge import KnowledgeRecord, RecordError
from models.contract.profile import UserProfile
from models.contract.reranker import RerankerError, RerankerManifest
from models.contract.snapshot import change, changed_items, file_of, read_columns
from tests.conftest import ROOT
from tests.contract.golden import EXPOSURE, INTERACTION, ITEM, KNOWLEDGE, PROFILE, SCHEMA, SPACE
from tests.contract.test_artifact import ARTIFACT_JSON, RELEASE
from tests.contract.test_reranker import MANIFEST
from tests.damage import FEW, damaged, unless


def sealed(body: bytes) -> bytes:
    """With a check sum that fits, as if somebody had meant it."""
    return body + zlib.crc32(body).to_bytes(4, "little")


@FEW
@given(damaged(KNOWLEDGE.pack()[:-4], KNOWLEDGE.pack("int8")[:-4]))
def test_knowledge(body: bytes) -> None:
    record = unless(RecordError, KnowledgeRecord.unpack, sealed(body), "zoë", SPACE)
    rows = knowledge_rows([sealed(body)], ["zoë"], SPACE, 3)
    assert len(rows.at) <= (record is not None)
    assert record is None or (record.owner, record.space) == ("zoë", SPACE)


@FEW
@given(damaged(ITEM.pack()[:-4]))
def test_item_records(body: bytes) -> None:
    rows = item_rows([sealed(body)], ["film 1"], SCHEMA)
    assert rows.categorical.shape == (len(rows.at), SCHEMA.item_slots)


@FEW
@given(damaged(INTERACTION.pack() * 3))
def test_histories(blob: bytes) -> None:
    events, refused = unpack_history("zoë", blob)
    assert len(events) + refused == -(-len(blob) // EVENT_BYTES)


@FEW
@given(damaged(PROFILE.pack()))
def test_profiles(blob: bytes) -> None:
    profile = unless(RecordError, UserProfile.unpack, blob, "zoë")
    assert profile is None or profile.owner == "zoë"


@pytest.mark.parametrize("entry", [INTERACTION, EXPOSURE], ids=["interaction", "exposure"])
@FEW
@given(data=st.data())
def test_entries_of_streams(entry: Interaction | Exposure, data: st.DataObject) -> None:
    whole = {name.encode(): value.encode() for name, value in entry.to_stream().items()}
    names = st.sampled_from([*whole, b"", b"\xff"])
    fields = whole | data.draw(st.dictionaries(names, damaged(*whole.values()), max_size=2))
    for absent in data.draw(st.sets(names, max_size=1)):
        fields.pop(absent, None)
    unless(ValueError, type(entry).from_stream, fields)


@FEW
@given(damaged(json.dumps(["a", "b"]).encode(), b'"a"', b"{}", b"7"), st.sampled_from([b"1", b"2", b"", b"\xff"]))
def test_entries_of_changes(items: bytes, version: bytes) -> None:
    fields = {name.encode(): value.encode() for name, value in change("r1", ["a"]).items()}
    harmed = fields | {b"items": items, b"v": version}
    ids = changed_items([(b"1-0", fields), (b"2-0", harmed)], "1-0", ["r1"])
    assert ids is None or all(isinstance(identifier, str) for identifier in ids)


@FEW
@given(damaged(ARTIFACT_JSON.encode()))
def test_manifests_of_models(document: bytes) -> None:
    text = document.decode("utf-8", "surrogateescape")
    unless(ArtifactError, ArtifactManifest.from_metadata, {METADATA_KEY: text})


@FEW
@given(damaged(RELEASE.to_json().encode()))
def test_manifests_of_releases(document: bytes) -> None:
    unless(ValidationError, ReleaseManifest.model_validate_json, document)


@FEW
@given(damaged(MANIFEST.model_dump_json().encode()))
def test_manifests_of_rerankers(document: bytes) -> None:
    unless(RerankerError, RerankerManifest.from_json, document)


@FEW
@given(damaged(RefusedModel(release="a", live="b", reasons=("c",), at=1, max_auc_drop=0.1).model_dump_json().encode()))
def test_refused_models(document: bytes) -> None:
    assert isinstance(RefusedModel.parse(document), RefusedModel | None)


@FEW
@given(damaged((ROOT / "configs/ml-100k.experiments.toml").read_bytes()))
def test_experiments(raw: bytes) -> None:
    unless(ExperimentsError, parse_experiments, raw)


def test_experiments_without_end() -> None:
    with pytest.raises(ExperimentsError, match="recursion"):
        parse_experiments(b"a = " + b"[" * 100_000)


@FEW
@given(data=st.data())
def test_columns_of_items(tmp_path: Path, data: st.DataObject) -> None:
    digest = "0" * 64
    path = tmp_path / file_of(digest)
    np.save(path, np.arange(6, dtype=np.float32).reshape(2, 3))
    whole = path.read_bytes()
    path.write_bytes(data.draw(st.one_of(damaged(whole), damaged(whole[:118]).map(lambda head: head + whole[118:]))))
    assert unless(ArtifactError, read_columns, tmp_path, {"vectors": digest}) is None
