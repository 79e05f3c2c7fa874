"""The item table is built from what is valid; the rest is counted and left out."""

from __future__ import annotations

import numpy as np
import pytest
import redis

from models.contract.artifact import ArtifactError, ArtifactManifest, ReleaseManifest
from models.contract.items import ItemRecord, ItemTable, item_statistics
from models.contract.keys import Keys
from models.contract.knowledge import Space
from service.arrays import InMemory
from service.errors import RedisUnavailable
from service.features import catalogue
from service.features.catalogue import read_items
from service.features.redis import RedisLink
from service.telemetry import Telemetry
from tests.service.tiny import ITEMS, Publisher, TinyItem, knowledge
from tests.service.tiny_model import (
    BARE_SCHEMA,
    FACTS_SPACE,
    ITEM_SPACE,
    SCHEMA,
    USER_SPACE,
    artifact_manifest,
    bare_manifest,
    model_bytes,
)


async def load_items(
    link: RedisLink, keys: Keys, manifest: ReleaseManifest, artifact: ArtifactManifest, telemetry: Telemetry
) -> ItemTable:
    new = InMemory()
    await read_items(link, keys, manifest, artifact, telemetry, new)
    return ItemTable.of(new.arrays)


def _record(owner: str, **changes: object) -> bytes:
    fields: dict[str, object] = {
        "owner": owner,
        "schema": SCHEMA.fingerprint,
        "index": 1,
        "categorical": (1, 0),
        "numeric": (0.1, 0.2, 0.3),
        "written_at": 0,
    }
    return ItemRecord(**(fields | changes)).pack()  # type: ignore[arg-type]


async def test_a_whole_catalogue(
    publisher: Publisher, link: RedisLink, keys: Keys, telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalogue, "CHUNK", 7)
    items = [
        TinyItem(
            f"i{at}",
            rating=1 + at % 5,
            vector=(at, 0, 0) if at % 3 else None,
            facts=(0, -at) if at % 2 else None,
            knowledge_expires_at=1000 + at,
        )
        for at in range(50)
    ]
    table = await load_items(link, keys, publisher.publish(items=items), artifact_manifest(), telemetry)
    assert list(table.ids) == ["", *(item.id for item in items)]
    assert table.index.tolist() == list(range(51))
    assert table.vectors[1:, 0].tolist() == [at if at % 3 else 0 for at in range(50)]
    assert table.vectors[1:, 4].tolist() == [-at if at % 2 else 0 for at in range(50)]
    assert not table.vectors[:, 1:4].any()
    assert table.expires_at.tolist() == [
        [0, 0], *([1000 + at if at % 3 else 0, 1000 + at if at % 2 else 0] for at in range(50))
    ]  # fmt: skip
    for row, item in enumerate(items, start=1):
        assert table.numeric[row].tolist() == pytest.approx(item.numeric())


@pytest.mark.parametrize(
    "poison",
    [
        _record("other"),
        _record("a", schema="0" * 16),
        _record("a", index=10_000),
        _record("a", categorical=(4, 0)),
        _record("a", categorical=(-1, 0)),
        _record("a", numeric=(float("nan"), 0.0, 0.0)),
        _record("a")[:-1],
        b"",
    ],
)
async def test_refused_features_leave_the_knowledge(
    publisher: Publisher, link: RedisLink, store: redis.Redis, keys: Keys, telemetry: Telemetry, poison: bytes
) -> None:
    manifest = publisher.publish(items=[TinyItem("a", vector=(1.0, 2.0, 3.0), facts=(4.0, 5.0)), TinyItem("b")])
    store.set(keys.item_features("a", "r1"), poison)
    table = await load_items(link, keys, manifest, artifact_manifest(), telemetry)
    assert list(table.ids) == ["", "a", "b"]
    assert table.index[1] == 0
    assert table.categorical[1].tolist() == [0, 0]
    assert np.allclose(table.numeric[1], item_statistics(SCHEMA, 0, 0, 0))
    assert table.vectors[1].tolist() == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert telemetry.registry.get_sample_value("lorank_refused_records_total", {"kind": "item_features"}) == 1


@pytest.mark.parametrize(
    ("space", "poison"),
    [
        (ITEM_SPACE, knowledge("other", ITEM_SPACE, [[1.0, 1.0, 1.0]])),
        (ITEM_SPACE, knowledge("a", USER_SPACE, [[1.0, 1.0, 1.0]])),
        (ITEM_SPACE, knowledge("a", ITEM_SPACE, [[1.0, 1.0]])),
        (ITEM_SPACE, knowledge("a", ITEM_SPACE, [[1.0, 1.0, 1.0]] * 2)),
        (ITEM_SPACE, b"damaged"),
        (FACTS_SPACE, knowledge("a", ITEM_SPACE, [[1.0, 1.0, 1.0]])),
        (FACTS_SPACE, knowledge("a", FACTS_SPACE, [[1.0, 1.0, 1.0]])),
        (FACTS_SPACE, knowledge("a", FACTS_SPACE, [[1.0, 1.0]])[:-1]),
    ],
    ids=["owner", "user-space", "narrow", "two-rows", "damaged", "item-space", "wide", "torn"],
)
async def test_refused_knowledge_leaves_the_features_and_the_other_space(
    publisher: Publisher,
    link: RedisLink,
    store: redis.Redis,
    keys: Keys,
    telemetry: Telemetry,
    space: Space,
    poison: bytes,
) -> None:
    manifest = publisher.publish(
        items=[TinyItem("a", vector=(1.0, 2.0, 3.0), facts=(4.0, 5.0), knowledge_expires_at=7)]
    )
    store.set(keys.item_knowledge("a", space.fingerprint), poison)
    table = await load_items(link, keys, manifest, artifact_manifest(), telemetry)
    assert table.index[1] == 1
    assert table.expires_at[1].tolist() == ([0, 7] if space is ITEM_SPACE else [7, 0])
    assert table.vectors[1].tolist() == ([0, 0, 0, 4, 5] if space is ITEM_SPACE else [1, 2, 3, 0, 0])
    assert telemetry.registry.get_sample_value("lorank_refused_records_total", {"kind": "item_knowledge"}) == 1


async def test_items_of_which_nothing_is_valid_are_left_out(
    publisher: Publisher, link: RedisLink, store: redis.Redis, keys: Keys, telemetry: Telemetry
) -> None:
    items = [TinyItem("a", vector=None, facts=None), TinyItem("b", vector=None, facts=None), TinyItem("c", vector=None)]
    manifest = publisher.publish(items=[*items, TinyItem("d", facts=(6.0, 7.0))])
    store.delete(*(keys.item_features(one, "r1") for one in "ac"))
    table = await load_items(link, keys, manifest, artifact_manifest(), telemetry)
    assert list(table.ids) == ["", "b", "c", "d"]
    assert table.index.tolist() == [0, 2, 0, 4]
    assert table.expires_at.tolist() == [[0, 0], [0, 0], [0, 2**40], [2**40, 2**40]]
    assert table.vectors[3].tolist() == [0, 0, 0, 6, 7]


async def test_a_catalogue_without_knowledge(
    publisher: Publisher, link: RedisLink, keys: Keys, telemetry: Telemetry
) -> None:
    manifest = publisher.publish(content=model_bytes(bare_manifest()), schema=BARE_SCHEMA)
    table = await load_items(link, keys, manifest, bare_manifest(), telemetry)
    assert list(table.ids) == ["", *(item.id for item in ITEMS)]
    assert table.vectors.shape == table.expires_at.shape == (len(ITEMS) + 1, 0)


@pytest.mark.parametrize("block", [b"{", b'"ids"', b"[1]", b'[""]'])
async def test_a_damaged_directory_is_no_release(
    publisher: Publisher, link: RedisLink, store: redis.Redis, keys: Keys, telemetry: Telemetry, block: bytes
) -> None:
    manifest = publisher.publish()
    store.set(keys.item_directory("r1", 1), block)
    with pytest.raises(ArtifactError, match="block 1"):
        await load_items(link, keys, manifest, artifact_manifest(), telemetry)


async def test_a_lost_redis_is_not_a_bad_release(publisher: Publisher, keys: Keys, telemetry: Telemetry) -> None:
    link = RedisLink("unix:///nonexistent/valkey.sock", 1)
    with pytest.raises(RedisUnavailable):
        await load_items(link, keys, publisher.publish(), artifact_manifest(), telemetry)
    await link.close()
