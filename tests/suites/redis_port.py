"""What every Redis of the service must do, whatever it consists of. Inherit, and provide one fixture.

``port``  the implementation under test, for keys that begin with "port:"
"""

from __future__ import annotations

import asyncio
import random

import pytest
from redis.exceptions import NoScriptError, ResponseError

from service.errors import RedisUnavailable
from service.features.feedback import APPEND
from service.ranking.deadline import Deadline
from service.redis import RedisPort
from service.redis_connection import Command

KEYS = [f"port:{{u:{user}}}:{kind}" for user in range(40) for kind in ("history", "profile")]
"""Of forty users, whose keys lie in as many slots."""


async def do(port: RedisPort, *commands: Command) -> list[object]:
    return await port.round_trip(commands, Deadline(10))


class RedisPortSuite:
    """The conformance tests."""

    async def test_replies_come_in_the_order_of_the_commands(self, port: RedisPort) -> None:
        commands: list[Command] = [("SET", key, key) for key in KEYS]
        assert await do(port, *commands) == [b"OK"] * len(KEYS)
        reads: list[Command] = [("GET", key) for key in KEYS]
        assert await do(port, *reads) == [key.encode() for key in KEYS]
        mixed = random.Random(1).sample(KEYS, 9)
        stale = await port.round_trip([("GET", key) for key in mixed], Deadline(10), may_be_stale=True)
        assert stale == [key.encode() for key in mixed]

    async def test_commands_on_one_key_are_done_in_their_order(self, port: RedisPort) -> None:
        key = KEYS[0]
        commands: list[Command] = [("DEL", key), ("APPEND", key, "a"), ("APPEND", key, "b"), ("GET", key)]
        assert (await do(port, *commands))[1:] == [1, 2, b"ab"]

    async def test_many_keys_at_once(self, port: RedisPort) -> None:
        await do(port, *[("SET", key, "v") for key in KEYS[:5]], ("DEL", KEYS[5]), ("DEL", KEYS[6]))
        await do(port, ("LPUSH", KEYS[6], "no string"))
        assert await do(port, ("MGET", *KEYS[:7]), ("GET", KEYS[0]), ("MGET", KEYS[5])) == [
            [*[b"v"] * 5, None, None], b"v", [None],
        ]  # fmt: skip
        await do(port, ("DEL", KEYS[6]))
        many = KEYS[:5] * 120
        assert await do(port, ("MGET", *many), ("GET", KEYS[0])) == [[b"v"] * 600, b"v"]

    async def test_a_refusal_is_in_the_place_of_its_reply(self, port: RedisPort) -> None:
        await do(port, *[("DEL", key) for key in KEYS[:3]], ("LPUSH", KEYS[1], "x"))
        first, refusal, last = await do(port, ("APPEND", KEYS[0], "x"), ("GET", KEYS[1]), ("APPEND", KEYS[2], "x"))
        assert (first, last) == (1, 1)
        assert isinstance(refusal, ResponseError)
        await do(port, ("DEL", KEYS[1]))

    async def test_a_script_is_known_where_it_was_registered(self, port: RedisPort) -> None:
        script = "return redis.call('STRLEN', KEYS[1])"
        unknown = await do(port, *[("EVALSHA", "0" * 40, 1, key) for key in KEYS[:5]])
        assert all(isinstance(reply, NoScriptError) for reply in unknown)
        digest, *_ = await do(port, ("SCRIPT", "LOAD", script), *[("SET", key, "abc") for key in KEYS[:20]])
        assert isinstance(digest, bytes)
        assert await do(port, *[("EVALSHA", digest, 1, key) for key in KEYS[:20]]) == [3] * 20
        again, *done = await do(port, ("SCRIPT", "LOAD", APPEND), *[("EVAL", script, 1, key) for key in KEYS[:20]])
        assert isinstance(again, bytes)
        assert done == [3] * 20

    async def test_it_tells_what_is_on_the_disk(self, port: RedisPort) -> None:
        *written, disks = await do(port, *[("SET", key, "abc") for key in KEYS[:9]], ("WAITAOF", 1, 0, 5000))
        assert written == [b"OK"] * 9
        assert disks == [1, 0]

    async def test_nobody_gets_replies_of_others(self, port: RedisPort) -> None:
        """Round trips are cancelled and run out of time, at every point of their way."""
        await do(port, *[("SET", key, key) for key in KEYS])
        dice = random.Random(3)
        counts = {"answered": 0, "late": 0, "cancelled": 0}

        async def read(keys: list[str], seconds: float) -> None:
            try:
                stale = dice.random() < 0.5
                replies = await port.round_trip([("GET", key) for key in keys], Deadline(seconds), may_be_stale=stale)
            except RedisUnavailable:
                counts["late"] += 1
                return
            values = [reply for reply in replies if not isinstance(reply, RedisUnavailable)]
            assert values == [
                key.encode()
                for key, reply in zip(keys, replies, strict=True)
                if not isinstance(reply, RedisUnavailable)
            ]
            counts["answered" if len(values) == len(keys) else "late"] += 1

        for _ in range(15):
            tasks = []
            for _ in range(30):
                seconds = 0.0007 * dice.random() if dice.random() < 0.4 else 10.0
                tasks.append(asyncio.create_task(read(dice.sample(KEYS, dice.choice([1, 4, 12])), seconds)))
            for task in tasks:
                for _ in range(dice.randrange(4)):
                    await asyncio.sleep(0)
                if dice.random() < 0.3:
                    task.cancel()
            for result in await asyncio.gather(*tasks, return_exceptions=True):
                if isinstance(result, asyncio.CancelledError):
                    counts["cancelled"] += 1
                elif isinstance(result, BaseException):
                    raise result
        assert min(counts.values()) > 0, counts
        for key in KEYS:
            assert await do(port, ("GET", key)) == [key.encode()]

    async def test_without_time_or_connection_nothing_is_sent(self, port: RedisPort) -> None:
        assert await port.round_trip([], Deadline(0)) == []
        with pytest.raises(RedisUnavailable, match="no time"):
            await port.round_trip([("GET", KEYS[0])], Deadline(0))
        await port.close()
        with pytest.raises(RedisUnavailable, match="closed"):
            await port.round_trip([("GET", KEYS[0])], Deadline(10))
