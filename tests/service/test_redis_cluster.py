"""What the nodes of a cluster may do to a round trip. Most nodes are made up; tests/offline/publish/test_cluster.py has
a cluster that loses a primary under load."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import pytest
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot
from redis.exceptions import ResponseError

from models.redis_address import Host
from service.app import create_app
from service.errors import RedisUnavailable
from service.ranking.deadline import Deadline
from service.redis_cluster import ClusterLink
from service.redis_slots import SlotTable, redirection
from service.settings import Reads, Settings, SettingsError
from tests.servers import Cluster
from tests.service.conftest import eventually
from tests.service.fake_redis import server

HALF = REDIS_CLUSTER_HASH_SLOTS // 2
LOW, HIGH = "c", "a"
"""Keys of the lower and of the upper half of the slots."""


@dataclass
class Node:
    """A node with its own view of the cluster; ``says`` holds its next answers, after which it gives the key back."""

    view: list[tuple[int, int, list[Node]]] = field(default_factory=list)
    port: int = 0
    says: list[bytes] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    hangs: bool = False

    async def answer(self, command: list[bytes]) -> bytes:
        words = [word.decode() for word in command]
        self.asked.append(" ".join(words[:2]))
        if self.hangs:
            await asyncio.sleep(30)
        if words[:2] == ["CLUSTER", "SLOTS"]:
            return _array(
                [_array([_number(a), _number(b), *(node.reply for node in nodes)]) for a, b, nodes in self.view]
            )
        if words[0] in ("READONLY", "READWRITE", "ASKING"):
            return b"+OK\r\n"
        return self.says.pop(0) if self.says else _text(words[-1])

    @property
    def reply(self) -> bytes:
        return _array([_text("127.0.0.1"), _number(self.port), _text("id")])

    def moved(self, key: str, word: str = "MOVED", host: str = "127.0.0.1") -> bytes:
        """The refusal by which another node sends to this one."""
        return f"-{word} {key_slot(key.encode())} {host}:{self.port}\r\n".encode()


def _text(text: str) -> bytes:
    return f"${len(text)}\r\n{text}\r\n".encode()


def _number(number: int) -> bytes:
    return f":{number}\r\n".encode()


def _array(parts: list[bytes]) -> bytes:
    return f"*{len(parts)}\r\n".encode() + b"".join(parts)


@asynccontextmanager
async def nodes(count: int, view: Callable[[list[Node]], list[list[Node]]]) -> AsyncIterator[list[Node]]:
    """Nodes that agree on a view: the shards of equal parts of the slots, each the primary and its replicas."""
    async with AsyncExitStack() as stack:
        every = [Node() for _ in range(count)]
        for node in every:
            node.port = await stack.enter_async_context(server(node.answer))
        shards = view(every)
        edges = [REDIS_CLUSTER_HASH_SLOTS * at // len(shards) for at in range(len(shards) + 1)]
        for node in every:
            node.view = [(edges[at], edges[at + 1] - 1, shard) for at, shard in enumerate(shards)]
        yield every


@asynccontextmanager
async def link_to(every: list[Node], reads: Reads = "primary") -> AsyncIterator[ClusterLink]:
    link = ClusterLink("redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in every), 4, reads)
    try:
        yield link
    finally:
        await link.close()


def one_shard(every: list[Node]) -> list[list[Node]]:
    return [every]


def each_alone(every: list[Node]) -> list[list[Node]]:
    return [[node] for node in every]


async def test_who_has_a_slot_is_asked_and_remembered() -> None:
    async with nodes(2, each_alone) as (low, high), link_to([low, high]) as link:
        assert key_slot(LOW.encode()) < HALF <= key_slot(HIGH.encode())
        assert await link.round_trip([("GET", HIGH), ("GET", LOW)], Deadline(5)) == [HIGH.encode(), LOW.encode()]
        low.says = [high.moved(LOW)]
        for _ in range(3):
            assert await link.round_trip([("GET", LOW)], Deadline(5)) == [LOW.encode()]
        assert low.asked.count(f"GET {LOW}") == 2
        assert high.asked.count(f"GET {LOW}") >= 1


async def test_the_slots_are_asked_for_once_however_many_wait() -> None:
    async with nodes(2, each_alone) as (low, high), link_to([low, high]) as link:
        await asyncio.gather(*(link.round_trip([("GET", key)], Deadline(5)) for key in [LOW, HIGH] * 10))
        assert low.asked.count("CLUSTER SLOTS") + high.asked.count("CLUSTER SLOTS") == 1


async def test_a_slot_that_is_moving_is_asked_of_its_next_node() -> None:
    async with nodes(2, each_alone) as (low, high), link_to([low, high]) as link:
        low.says = [high.moved(LOW, "ASK", host=""), b"+1\r\n"]
        assert await link.round_trip([("GET", LOW), ("GET", LOW)], Deadline(5)) == [LOW.encode(), b"1"]
        assert high.asked[-2:] == ["ASKING", f"GET {LOW}"]


@pytest.mark.parametrize("word", ["TRYAGAIN Multiple keys request during rehashing of slot", "CLUSTERDOWN down"])
async def test_what_nobody_took_is_sent_again(word: str) -> None:
    async with nodes(1, each_alone) as (node,), link_to([node]) as link:
        node.says = [f"-{word}\r\n".encode()] * 3
        assert await link.round_trip([("SET", LOW, "v")], Deadline(5)) == [b"v"]
        node.says = [f"-{word}\r\n".encode()] * 100
        with pytest.raises(RedisUnavailable, match=word.partition(" ")[0]):
            await link.round_trip([("SET", LOW, "v")], Deadline(0.2))


async def test_reads_of_a_primary_that_hangs_are_asked_of_its_replica() -> None:
    async with nodes(2, one_shard) as (primary, replica), link_to([primary, replica]) as link:
        await link.round_trip([("GET", LOW)], Deadline(5))
        primary.hangs = True
        for _ in range(3):
            assert await link.round_trip([("GET", LOW)], Deadline(0.4), may_be_stale=True) == [LOW.encode()]
        assert replica.asked.count(f"GET {LOW}") == 3
        assert " ".join(replica.asked).endswith(f"READONLY GET {LOW} READWRITE")
        assert primary.asked.count(f"GET {LOW}") == 2  # then it is not asked for a while
        with pytest.raises(RedisUnavailable):
            await link.round_trip([("GET", LOW)], Deadline(0.1))


async def test_reads_may_go_to_replicas_by_setting() -> None:
    async with nodes(3, one_shard) as (primary, *replicas), link_to([primary], "replicas") as link:
        for _ in range(4):
            assert await link.round_trip([("GET", LOW)], Deadline(5), may_be_stale=True) == [LOW.encode()]
        assert [node.asked.count(f"GET {LOW}") for node in (primary, *replicas)] == [0, 2, 2]
        await link.round_trip([("GET", LOW)], Deadline(5))
        assert primary.asked.count(f"GET {LOW}") == 1
        for replica in replicas:
            replica.says = [b"-MASTERDOWN Link with MASTER is down\r\n"] * 3
        assert await link.round_trip([("GET", LOW)], Deadline(5), may_be_stale=True) == [LOW.encode()]


async def test_others_are_answered_when_a_node_is_lost() -> None:
    async with nodes(2, each_alone) as (low, high), link_to([low, high]) as link:
        await link.round_trip([("GET", LOW), ("GET", HIGH)], Deadline(5))
        high.hangs = True
        commands: list[tuple[str, ...]] = [("GET", HIGH), ("GET", LOW), ("MGET", LOW, HIGH)]
        lost, answered, both = await link.round_trip(commands, Deadline(0.2))
        assert isinstance(lost, RedisUnavailable)
        assert isinstance(both, RedisUnavailable)
        assert answered == LOW.encode()
        with pytest.raises(RedisUnavailable):
            await link.round_trip([("GET", HIGH)], Deadline(0.1))


@pytest.mark.parametrize("hangs", [False, True])
async def test_a_new_primary_takes_what_waited_for_it(hangs: bool) -> None:
    async with nodes(2, one_shard) as (primary, replica), link_to([primary, replica]) as link:
        await link.round_trip([("GET", LOW)], Deadline(5))
        primary.hangs, primary.says = hangs, [b""] * 100  # it closes its connections
        waiting = asyncio.create_task(link.round_trip([("SET", LOW, "v")], Deadline(0.6 if hangs else 5)))
        await asyncio.sleep(0.12)
        assert not waiting.done()
        for node in (primary, replica):
            node.view = [(0, REDIS_CLUSTER_HASH_SLOTS - 1, [replica])]
        assert await waiting == [b"v"]
        assert f"SET {LOW}" in replica.asked


async def test_nodes_that_left_are_forgotten() -> None:
    async with nodes(3, each_alone) as (low, middle, high), link_to([low]) as link:
        await link.round_trip([("GET", key) for key in (LOW, "foo", HIGH)], Deadline(5))
        assert len(link._links) == 3
        for node in (low, middle, high):
            node.view = [(0, REDIS_CLUSTER_HASH_SLOTS - 1, [low])]
        middle.says = [low.moved(LOW)]
        await link.round_trip([("GET", LOW)], Deadline(5))
        await eventually(lambda: link._links.keys() == {("127.0.0.1", low.port)})


async def test_without_a_node_there_is_nothing_to_ask() -> None:
    async with nodes(1, each_alone) as (node,):
        pass
    async with link_to([node]) as link:
        with pytest.raises(RedisUnavailable, match="no node of the cluster"):
            await link.round_trip([("GET", LOW)], Deadline(1))
    async with nodes(1, each_alone) as (node,), link_to([node]) as link:
        node.view = []
        with pytest.raises(RedisUnavailable, match="no node of the cluster"):
            await link.round_trip([("GET", LOW)], Deadline(0.3))


async def test_a_slot_moves_in_a_real_cluster(shared_cluster: Cluster) -> None:
    keys = [f"moves:{{{at}}}:x" for at in range(30)]
    slots = {key_slot(key.encode()) for key in keys if shared_cluster.owner(key_slot(key.encode())).port != 0}
    source, target, *_ = shared_cluster.primaries
    slot = next(slot for slot in sorted(slots) if shared_cluster.owner(slot) is source)
    link = ClusterLink(shared_cluster.url, 4)
    try:
        await link.round_trip([("SET", key, key) for key in keys], Deadline(10))
        for finish in (False, True):
            await asyncio.to_thread(shared_cluster.move_slot, slot, source, target, finish=finish)
            for stale in (True, False):
                replies = await link.round_trip([("GET", key) for key in keys], Deadline(10), may_be_stale=stale)
                assert replies == [key.encode() for key in keys]
        await asyncio.to_thread(shared_cluster.move_slot, slot, target, source)
        assert await link.round_trip([("MGET", *keys)], Deadline(10)) == [[key.encode() for key in keys]]
    finally:
        await link.close()


def test_tables_and_refusals_that_are_not_understood() -> None:
    asked: Host = ("here", 1)
    assert SlotTable.of_reply([], asked) is None
    assert SlotTable.of_reply(ResponseError("ERR This instance has cluster support disabled"), asked) is None
    assert SlotTable.of_reply([[0]], asked) is None
    table = SlotTable.of_reply([[0, 5, [b"", 7, b"id"], [b"?", 8, b"id"]], [6, 9, [None, 9]]], asked)
    assert table is not None
    shard, empty = table.shard(5), table.shard(10)
    assert shard is not None
    assert (shard.nodes, empty) == ((("here", 7), ("here", 8)), None)
    assert redirection("MOVED 3 ::1:9", asked) == (3, ("::1", 9))
    assert redirection("MOVED 3 :9", asked) == (3, ("here", 9))
    with pytest.raises(ValueError, match="unpack"):
        redirection("MOVED", asked)


@pytest.mark.parametrize("url", [None, "redis://h", "redis+sentinel://h/main"])
def test_reads_from_replicas_need_a_cluster(url: str | None) -> None:
    with pytest.raises(SettingsError, match="LORANK_REDIS_READS=replicas needs a cluster"):
        create_app(Settings(redis_url=url, redis_reads="replicas"))
    create_app(Settings(redis_url="redis+cluster://h", redis_reads="replicas"))
