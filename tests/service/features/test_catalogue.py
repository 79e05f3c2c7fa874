"""The item table is built from what is valid; the rest is counted and left out."""

from __future__ import annotations

import numpy as np
import pytest
import redis

from models.contract.artifact import ArtifactError
from models.contract.items import ItemRecord, item_statistics
from models.contract.keys import Keys
from service.errors import RedisUnavailable
from service.features import catalogue
from service.features.catalogue import load_items
from service.features.connection import RedisLink
from service.telemetry import Telemetry
from tests.service.tiny import (
    ITEM_SPACE,
    ITEMS,
    SCHEMA,
    USER_SPACE,
    Publisher,
    TinyItem,
    artifact_manifest,
    knowledge,
)


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
    items = [TinyItem(f"i{at}", rating=1 + at % 5, vector=(at, 0, 0) if at % 3 else None) for at in range(50)]
    table = await load_items(link, keys, publisher.publish(items=items), artifact_manifest(), telemetry)
    assert table.ids == ("", *(item.id for item in items))
    assert table.index.tolist() == list(range(51))
    assert table.vectors[1:, 0].tolist() == [at if at % 3 else 0 for at in range(50)]
    assert [bool(at) for at in table.expires_at[1:]] == [bool(at % 3) for at in range(50)]
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
    manifest = publisher.publish(items=[TinyItem("a", vector=(1.0, 2.0, 3.0)), TinyItem("b")])
    store.set(keys.item_features("a", "r1"), poison)
    table = await load_items(link, keys, manifest, artifact_manifest(), telemetry)
    assert table.ids == ("", "a", "b")
    assert table.index[1] == 0
    assert table.categorical[1].tolist() == [0, 0]
    assert np.allclose(table.numeric[1], item_statistics(SCHEMA, 0, 0, 0))
    assert table.vectors[1].tolist() == [1.0, 2.0, 3.0]
    assert telemetry.registry.get_sample_value("lorank_refused_records_total", {"kind": "item_features"}) == 1


@pytest.mark.parametrize(
    "poison",
    [
        knowledge("other", ITEM_SPACE, [[1.0, 1.0, 1.0]]),
        knowledge("a", USER_SPACE, [[1.0, 1.0, 1.0]]),
        knowledge("a", ITEM_SPACE, [[1.0, 1.0]]),
        knowledge("a", ITEM_SPACE, [[1.0, 1.0, 1.0]] * 2),
        b"damaged",
    ],
)
async def test_refused_knowledge_leaves_the_features(
    publisher: Publisher, link: RedisLink, store: redis.Redis, keys: Keys, telemetry: Telemetry, poison: bytes
) -> None:
    manifest = publisher.publish(items=ITEMS)
    store.set(keys.item_knowledge("a", ITEM_SPACE.fingerprint), poison)
    table = await load_items(link, keys, manifest, artifact_manifest(), telemetry)
    assert table.index[1] == 1
    assert table.expires_at[1] == 0
    assert not table.vectors[1].any()
    assert telemetry.registry.get_sample_value("lorank_refused_records_total", {"kind": "item_knowledge"}) == 1


async def test_items_of_which_nothing_is_valid_are_left_out(
    publisher: Publisher, link: RedisLink, store: redis.Redis, keys: Keys, telemetry: Telemetry
) -> None:
    manifest = publisher.publish(items=[TinyItem("a", vector=None), TinyItem("b", vector=None)])
    store.delete(keys.item_features("a", "r1"))
    table = await load_items(link, keys, manifest, artifact_manifest(), telemetry)
    assert table.ids == ("", "b")


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
