"""What a service and its jobs store of a user in Redis, and where."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import redis

from models.contract.keys import Keys
from models.contract.profile import packed_profile
from tests.service.conftest import Running, eventually
from tests.service.tiny import Publisher

WHO, OTHER = "frida-kahlo", "frida-kahlo-2"


async def behave(service: Running, publisher: Publisher, store: redis.Redis, keys: Keys, user: str) -> None:
    """Everything that a service and its jobs store of a user in Redis."""
    store.set(keys.user_profile(user), packed_profile(user, {"age": 47}))
    store.set(keys.user_texts(user), json.dumps({"v": 1, "owner": user, "made_ms": 1, "texts": []}))
    publisher.user_knowledge(user, [[0.5, 0.5]])
    store.hset(keys.unit_arms(user), "layer__1", "treatment")
    events = [{"user_id": user, "item_id": item, "value": 4.0} for item in ("a", "b")]
    assert (await service.http.post("/v1/feedback", json={"events": events})).status_code == 200
    await service.rank(user, unit=f"tablet-of-{user}")
    store.hset(keys.unit_arms(f"tablet-of-{user}"), "layer__1", "control")
    await eventually(lambda: any(user.encode() in exposure for exposure in texts_in(store, keys.exposures)))


def texts_in(store: redis.Redis, stream: str) -> list[bytes]:
    """The entries of a stream."""
    entries: Any = store.xrange(stream)
    return [b" ".join(fields.values()) for _, fields in entries]


_READ: dict[str, Callable[[redis.Redis, Any], Any]] = {
    "string": redis.Redis.get,
    "hash": redis.Redis.hgetall,
    "stream": redis.Redis.xrange,
    "set": redis.Redis.smembers,
    "zset": lambda store, key: store.zrange(key, 0, -1),
}


def places_of(store: redis.Redis, keys: Keys, user: str) -> set[str]:
    """Redis keys below the prefix that have a user's id, or its owner tag, in their name or value."""
    places, needle = set(), user.encode()
    for key in store.scan_iter(f"{keys.prefix}:*"):
        value = repr(_READ[str(store.type(key), "ascii")](store, key)).encode()  # type: ignore[arg-type]
        bare = (key + b" " + value).replace(OTHER.encode(), b"") if user == WHO else key + b" " + value
        if needle in bare:
            places.add(key.decode().removeprefix(f"{keys.prefix}:"))
    return places
