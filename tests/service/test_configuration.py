"""Which configuration is served: the one that is said, or the only one that is there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import redis

from models.contract.keys import PREFIXES, Keys
from models.contract.prefixes import own_folder
from models.valkey.embedded import embedded_redis
from service.configuration import with_prefix
from service.settings import Settings, SettingsError
from tests.service.conftest import ROOT, running
from tests.service.tiny import Publisher


def write_embedded(data_dir: Path, prefix: str) -> None:
    """Something in the embedded server of a prefix, as whoever publishes there or is fed back leaves it."""
    with embedded_redis(own_folder(data_dir / "valkey", prefix)) as url, redis.Redis.from_url(url) as client:
        client.set(Keys(prefix).live, "r")


def test_the_only_configuration_of_a_folder_is_served(tmp_path: Path) -> None:
    write_embedded(tmp_path, "lorank:books")
    with embedded_redis(tmp_path / "valkey" / "looked"):  # a job that looked, for a configuration that has nothing
        pass
    settings = with_prefix(Settings(data_dir=tmp_path))
    assert settings.key_prefix == "lorank:books"
    assert settings.embedded_folder == tmp_path / "valkey" / "books"
    assert settings.artifact_folder == tmp_path / "artifacts" / "books"


def test_what_an_earlier_version_published_is_served_where_it_is(tmp_path: Path) -> None:
    write_embedded(tmp_path, "lorank")
    assert with_prefix(Settings(data_dir=tmp_path)).embedded_folder == tmp_path / "valkey"


def test_of_several_the_service_lists_them_and_serves_none(tmp_path: Path) -> None:
    for prefix in ("lorank", "lorank:books", "mine"):
        write_embedded(tmp_path, prefix)
    with pytest.raises(SettingsError, match=r"LORANK_KEY_PREFIX, one of lorank, lorank:books, mine$"):
        with_prefix(Settings(data_dir=tmp_path))
    for prefix in ("lorank:books", "lorank:later"):
        settings = Settings(data_dir=tmp_path, key_prefix=prefix)
        assert with_prefix(settings) is settings


def test_of_none_it_says_what_to_do(tmp_path: Path, environment: dict[str, str]) -> None:
    """As a process: one line, and a status that no supervisor takes for a crash. Nothing was started meanwhile."""
    environment.pop("LORANK_KEY_PREFIX")
    command = [sys.executable, "-m", "service"]
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, timeout=60, text=True)
    assert ended.returncode == 2
    assert ended.stderr.startswith(f"lorank: nothing is published in {tmp_path / 'valkey'} yet: run `python -m offline")
    assert len(ended.stderr.splitlines()) == 1
    assert not any(tmp_path.iterdir())


@pytest.mark.own_valkey
async def test_of_a_redis_only_what_is_still_there_counts(
    valkey: str, store: redis.Redis, tmp_path: Path, settings: Settings
) -> None:
    unsaid = settings.model_copy(update={"key_prefix": None})
    with pytest.raises(SettingsError, match="nothing is published in the Redis of LORANK_REDIS_URL"):
        with_prefix(unsaid)
    books = unsaid.model_copy(update={"key_prefix": "lorank:books"})
    Publisher(store, Keys("lorank:books"), books.artifact_folder).publish()
    store.sadd(PREFIXES, "lorank:books", "lorank:gone")
    assert with_prefix(unsaid) == books
    async with running(unsaid) as service:
        status = await service.status()
        assert status["settings"]["key_prefix"] == "lorank:books"
        assert (await service.rank())["release"] == "r1"
    store.set(Keys("lorank").installation, "of an earlier version, which listed nothing")
    with pytest.raises(SettingsError, match=r"holds 2 configurations.*one of lorank, lorank:books$"):
        with_prefix(unsaid)


@pytest.mark.parametrize(
    ("url", "message"),
    [("redis://:secret@h:abc", "LORANK_REDIS_URL is not understood"), ("unix:///nobody.sock", "set LORANK_KEY_PREFIX")],
)
def test_a_redis_that_cannot_say_it(url: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message) as refused:
        with_prefix(Settings(redis_url=url))
    assert "secret" not in str(refused.value)
