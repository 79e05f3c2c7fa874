"""Jobs that call a service with API keys: the key comes from the environment, and a refusal names the scope."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis

from models.contract.keys import Keys
from offline.data.catalogue import DataError
from offline.demo import running_service
from offline.jobs.calls import API_KEY, authorization
from offline.jobs.steps import Job
from offline.jobs.verify import send
from research.replay import Visit, dropped, replay
from service.access import ApiKey, Scope
from tests.service.test_access import written
from tests.service.tiny import Publisher
from tests.synthetic import synthetic

VISITS = [Visit("r1", "u1", "a", 5.0, ("a", "b")), Visit("r2", "u2", "b", 5.0, ("a", "b"))]


@dataclass(frozen=True, slots=True)
class Guarded:
    """A service that requires keys, as a process of its own: its URL, and keys by the scopes that they have."""

    url: str
    keys: dict[str, str]


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, shared_valkey: str) -> Iterator[Guarded]:
    folder, keys = tmp_path_factory.mktemp("guarded"), Keys("lorank:synthetic-calls")
    of_servers = [scope for scope in Scope if scope is not Scope.ARMS]
    every = {
        name: ApiKey.new(name, scopes)
        for name, scopes in (("rank", [Scope.RANK]), ("all", of_servers), ("revoked", [Scope.RANK]))
    }
    in_force = [key for name, (key, _) in every.items() if name != "revoked"]
    job = Job(synthetic(folder).config, folder)
    settings = {
        "LORANK_REDIS_URL": shared_valkey,
        "LORANK_KEY_PREFIX": keys.prefix,
        "LORANK_KEYS": str(written(folder / "keys.json", *in_force)),
        API_KEY: "a caller's; the service starts all the same",
    }
    with redis.Redis.from_url(shared_valkey) as store:
        Publisher(store, keys, folder / "artifacts" / keys.prefix.partition(":")[2]).publish()
        with running_service(job, 0, settings) as service:
            yield Guarded(service.url, {name: text for name, (_, text) in every.items()})


def test_a_key_of_the_environment_opens_the_service(
    guarded: Guarded, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(API_KEY, guarded.keys["all"] + "\n")
    send(guarded.url, synthetic(tmp_path).log, 3)
    assert asyncio.run(replay(guarded.url, VISITS, 1, None, progress=False)).requests == 2
    assert dropped(guarded.url) == 0


def test_a_refusal_names_the_scope_and_what_the_key_lacks(
    guarded: Guarded, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    log = synthetic(tmp_path).log
    monkeypatch.delenv(API_KEY, raising=False)
    with pytest.raises(
        DataError, match=r"answered 401 .* with the scope rank, and LORANK_API_KEY is not set: .*--scope"
    ):
        send(guarded.url, log, 1)
    with pytest.raises(DataError, match=r"to /v1/status.* scope admin, and LORANK_API_KEY is not set"):
        dropped(guarded.url)
    monkeypatch.setenv(API_KEY, guarded.keys["revoked"])
    with pytest.raises(DataError, match=r"scope rank, and the key in LORANK_API_KEY is not in force there"):
        send(guarded.url, log, 1)
    monkeypatch.setenv(API_KEY, guarded.keys["rank"])
    with pytest.raises(
        DataError, match=r"answered 403 to /v1/feedback.* the scope feedback, and .* lacks it"
    ) as raised:
        asyncio.run(replay(guarded.url, VISITS, 1, None, progress=False))
    assert guarded.keys["rank"] not in str(raised.value)
    with pytest.raises(DataError, match=r"answered 403 to /v1/status.* the scope admin"):
        dropped(guarded.url)


def test_without_a_key_no_header_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(API_KEY, " \n")
    assert authorization() == {}
    monkeypatch.setenv(API_KEY, "lorank_secrét")
    with pytest.raises(DataError, match="holds characters") as raised:
        authorization()
    assert "secr" not in str(raised.value)
