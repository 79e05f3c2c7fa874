"""Redis over TLS with users of least rights (deploy/redis/users.acl): the service does all it does, and no more."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.exceptions import NoPermissionError

from models.contract.keys import PREFIXES, Keys
from service.access import ApiKey, KeysFile, Scope
from service.configuration import with_prefix
from service.settings import Settings
from tests.certificates import Authority
from tests.conftest import ROOT
from tests.servers import Server, free_ports
from tests.service.conftest import Running, eventually, running
from tests.service.test_access import ARMS
from tests.service.tiny import Publisher

PASSWORDS = {"SERVICE_PASSWORD": "of-the-service", "JOBS_PASSWORD": "of-the-jobs"}
KEYS = Keys("lorank:tiny")


@dataclass(frozen=True)
class Guarded:
    """A server of ours with the users of the file, behind TLS; ``server`` has an administrator too."""

    server: Server
    authority: Authority
    port: int

    def url(self, user: str) -> str:
        password = PASSWORDS[f"{user.upper()}_PASSWORD"]
        return f"rediss://{user}:{password}@127.0.0.1:{self.port}/0?ssl_ca_certs={self.authority.path}"

    def refusals(self, user: str) -> list[Any]:
        """What Redis has refused this user."""
        client: Any = self.server.client
        return [entry for entry in client.acl_log() if entry["username"] == user]


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("guarded")
    lines = (ROOT / "deploy/redis/users.acl").read_text()
    assert lines.startswith("user default off\n")
    for placeholder, password in PASSWORDS.items():
        assert f">{placeholder} " in lines
        lines = lines.replace(placeholder, password)
    users = folder / "users.acl"
    users.write_text(lines.replace("user default off", "user default on nopass ~* &* +@all"))
    server = Server(folder, free_ports(1)[0], ["--aclfile", str(users), "--appendonly", "yes"])
    authority = Authority(folder, "authority")
    with terminator(server.port, authority) as port:
        yield Guarded(server, authority, port)
    server.close()


@contextlib.contextmanager
def terminator(port: int, authority: Authority) -> Iterator[int]:
    """The port of a TLS server that hands everything on to another: the packaged Valkey has no TLS of its own."""
    loop = asyncio.new_event_loop()
    ports: list[int] = []
    listening: list[asyncio.Server] = []

    async def passed(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError), contextlib.closing(target):
            while data := await source.read(65536):
                target.write(data)
                await target.drain()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(passed(reader, inner_writer), passed(inner_reader, writer))

    async def serve() -> None:
        outer = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=authority.server("redis"))
        ports.append(outer.sockets[0].getsockname()[1])
        listening.append(outer)

    async def stop() -> None:
        listening[0].close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    loop.run_until_complete(serve())
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield ports[0]
    finally:
        asyncio.run_coroutine_threadsafe(stop(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


async def forgotten_and_asked(service: Running, admin: Any) -> None:
    """A user is deleted and exported, another one opts out and in, a request and a report are read."""
    stored = (await service.http.get("/v1/users/u1/export")).json()["stored"]
    assert stored["history"]
    close = {"kind": "close_partition", "user_id": "u1"}
    assert (await service.http.post("/v1/requests", json=close)).status_code == 202
    receipt = (await service.http.delete("/v1/users/u1")).json()
    assert {"requests", "history", "interactions", "exposures", "arms", "served", "counts"} <= set(receipt["removed"])
    assert receipt["asked_by"].startswith("shop (")
    assert not [key for key in admin.scan_iter() if b"{u:u1}" in key]
    assert (await service.http.get(f"/v1/requests/{receipt['id']}")).json()["returned"] == {}
    assert (await service.http.put("/v1/users/u2/opt-out")).status_code == 202
    assert (await service.http.put("/v1/users/u2/opt-in")).status_code == 200
    assert (await service.http.post("/v1/requests", json={"kind": "dry_run"})).status_code == 202
    admin.zadd(KEYS.reports, {"ended": 1})
    assert (await service.http.get("/v1/reports")).json() == {"reports": []}
    assert len((await service.http.get("/v1/requests")).json()["requests"]) == 3
    assert admin.xlen(KEYS.exposures) == 2


async def test_the_service_does_all_it_does(guarded: Guarded, tmp_path: Path) -> None:
    """With everything that can be switched on, of which Redis refuses nothing."""
    with redis.Redis.from_url(guarded.url("jobs")) as jobs:
        Publisher(jobs, KEYS, tmp_path / "artifacts" / "tiny").publish()
        jobs.set(KEYS.installation, "x")
        jobs.sadd(PREFIXES, KEYS.prefix)
    experiments, path = tmp_path / "experiments.toml", tmp_path / "keys.json"
    experiments.write_text(f'{ARMS}release = "r1"\n')
    key, text = ApiKey.new("shop", [Scope.RANK, Scope.FEEDBACK, Scope.ADMIN, Scope.PUBLISH])
    path.write_text(KeysFile(keys=(key,)).model_dump_json())
    settings = Settings(
        redis_url=guarded.url("service"), data_dir=tmp_path, experiments=experiments, keys=path, feedback_fsyncs=1,
        feedback_served_only=True, release_poll_seconds=0.1, history_days=30.0, stream_days=30.0,
        default_deadline_ms=10_000.0, max_deadline_ms=10_000.0, history_max_events=2,
    )  # fmt: skip
    admin: Any = guarded.server.client
    async with running(with_prefix(settings)) as service:
        service.http.headers["Authorization"] = f"Bearer {text}"
        for user in ("u1", "u2", "u3", "u4"):
            await service.rank(user, request_id="r")
            assert (await service.http.post("/v1/arms", json={"user_id": user})).status_code == 200
            written = (KEYS.user_served(user), KEYS.unit_arms(user))
            await eventually(lambda written=written: admin.exists(*written) == 2)  # type: ignore[misc]
        admin.append(KEYS.user_history("u1"), "torn")
        for number in range(8):
            event = {"user_id": "u1", "item_id": "abcde"[number % 5], "value": 1 + number % 5, "request_id": "r"}
            answer = await service.http.post("/v1/feedback", json=event | {"timestamp_ms": 1_700_000_000_000 + number})
            assert answer.status_code == 200, answer.text
        refused = await service.http.post("/v1/feedback", json={"events": [event] * 31})
        assert refused.status_code == 422
        await eventually(lambda: admin.zcard(KEYS.pins))
        assert service.app.state.service.status()["stages"]["exposures"]["state"] == "on"
        await forgotten_and_asked(service, admin)
    assert not guarded.refusals("service")


FORBIDDEN = (
    ("FLUSHALL",), ("FLUSHDB",), ("CONFIG", "GET", "requirepass"), ("CONFIG", "SET", "dir", "/tmp"), ("KEYS", "*"),
    ("SHUTDOWN", "NOSAVE"), ("ACL", "LIST"), ("ACL", "SETUSER", "x"), ("MONITOR",), ("SAVE",),
    ("REPLICAOF", "NO", "ONE"), ("SCRIPT", "FLUSH"), ("CLIENT", "KILL", "ID", "1"), ("CLIENT", "LIST"),
    ("MIGRATE", "127.0.0.1", "1", "lorank:x", "0", "1"), ("MODULE", "LIST"), ("SWAPDB", "0", "1"), ("SUBSCRIBE", "x"),
    ("SET", "other", "1"), ("GET", "other"), ("SLOWLOG", "GET"), ("FUNCTION", "LIST"),
)  # fmt: skip
"""What neither may do."""

NOT_THE_SERVICES = (
    ("INFO",), ("BGREWRITEAOF",),  # which let what was deleted leave the append-only file
    ("SET", KEYS.live, "r9"), ("DEL", KEYS.live), ("SET", KEYS.release_manifest("r1"), "{}"), ("DEL", KEYS.releases),
    ("XADD", KEYS.changes, "*", "a", "b"), ("SET", KEYS.item_features("a", "r1"), "x"), ("SCAN", "0"), ("RANDOMKEY",),
    ("SET", KEYS.item_knowledge("a", "00"), "x"), ("RENAME", KEYS.live, KEYS.interactions), ("DBSIZE",),
    ("EVAL", "return redis.call('SET', KEYS[1], 'r9')", "1", KEYS.live), ("SADD", PREFIXES, "lorank:evil"),
)  # fmt: skip
"""What the jobs alone may do."""


@pytest.mark.parametrize("user", ["service", "jobs"])
def test_no_more_than_that(guarded: Guarded, user: str) -> None:
    with redis.Redis.from_url(guarded.url(user)) as client:
        client_any: Any = client
        for command in FORBIDDEN if user == "jobs" else (*FORBIDDEN, *NOT_THE_SERVICES):
            with pytest.raises(NoPermissionError):
                client_any.execute_command(*command)
    stranger = guarded.url(user).replace(PASSWORDS[f"{user.upper()}_PASSWORD"], "guessed")
    with redis.Redis.from_url(stranger) as client, pytest.raises(redis.AuthenticationError):
        client.ping()
    plain = f"redis://127.0.0.1:{guarded.port}"
    with redis.Redis.from_url(plain) as client, pytest.raises(redis.ConnectionError):
        client.ping()
