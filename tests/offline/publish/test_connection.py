"""The Redis that the jobs talk to."""

from __future__ import annotations

from pathlib import Path

import pytest

from models.contract.prefixes import FORMER_PREFIX
from offline.publish.connection import StoreError, open_store, store_at, store_if_there
from offline.publish.undo import installation


def test_without_an_address_the_embedded_server_of_the_data_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LORANK_REDIS_URL", "LORANK_KEY_PREFIX", "LORANK_ARTIFACTS"):
        monkeypatch.delenv(name, raising=False)
    with open_store(tmp_path, "small") as store:
        assert store.url == f"unix://{tmp_path}/valkey/small/valkey.sock"
        assert store.keys.prefix == "lorank:small"
        assert store.artifacts == tmp_path / "artifacts" / "small"
        store.redis.set(store.keys.live, "r")
    with open_store(tmp_path, "small") as store:
        assert store.redis.get(store.keys.live) == b"r"


def test_the_environment_decides(publish_valkey: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORANK_REDIS_URL", publish_valkey)
    monkeypatch.setenv("LORANK_KEY_PREFIX", "mine")
    monkeypatch.setenv("LORANK_ARTIFACTS", str(tmp_path / "elsewhere"))
    with open_store(tmp_path, "small") as store:
        assert (store.url, store.keys.prefix) == (publish_valkey, "mine")
        assert store.artifacts == tmp_path / "elsewhere" / "prefix=mine"
    assert not (tmp_path / "valkey").exists()


def test_a_server_that_does_not_answer_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORANK_REDIS_URL", f"unix://{tmp_path}/nobody.sock")
    refused = pytest.raises(StoreError, match=r"Redis at unix://.*nobody\.sock does not answer")
    with refused, open_store(tmp_path, "small"):
        pass


def test_a_refused_command_is_told_in_one_line(tmp_path: Path) -> None:
    """Out of memory, read-only after a failover, no permission: all come as an answer to a command."""
    with (
        pytest.raises(StoreError, match=r"Redis at unix://.* refuses: .*[Uu]nknown command"),
        open_store(tmp_path, "small") as store,
    ):
        store.redis.execute_command("NO-SUCH-COMMAND")  # type: ignore[no-untyped-call]


def test_looking_makes_no_store(tmp_path: Path) -> None:
    with store_if_there(tmp_path, "small") as store:
        assert store is None
    assert not any(tmp_path.iterdir())
    with open_store(tmp_path, "small"):
        pass
    with store_if_there(tmp_path, "small") as store:
        assert store is None, "nothing was written"
    with open_store(tmp_path, "small") as opened:
        opened.redis.set(opened.keys.live, "r")
    with store_if_there(tmp_path, "small") as store:
        assert store is not None
    with store_if_there(tmp_path, "other") as store:
        assert store is None


def test_what_an_earlier_version_published_is_not_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the embedded server that all configurations shared."""
    with store_at(tmp_path, FORMER_PREFIX) as store:
        assert store.url == f"unix://{tmp_path}/valkey/valkey.sock"
        assert store.artifacts == tmp_path / "artifacts"
        store.redis.set(store.keys.live, "r")
    for opening in (open_store, store_if_there):
        refused = pytest.raises(StoreError, match=rf"{tmp_path}/valkey holds .* LORANK_KEY_PREFIX=lorank,")
        with refused, opening(tmp_path, "small"):
            pass
    monkeypatch.setenv("LORANK_KEY_PREFIX", "lorank")
    with open_store(tmp_path, "small") as store:
        assert store.redis.get(store.keys.live) == b"r"
    monkeypatch.setenv("LORANK_KEY_PREFIX", "lorank:small")
    with open_store(tmp_path, "small") as store:
        assert store.redis.get(store.keys.live) is None
        store.redis.set(store.keys.live, "s")
    monkeypatch.delenv("LORANK_KEY_PREFIX")
    with open_store(tmp_path, "small") as store:
        assert store.redis.get(store.keys.live) == b"s"


@pytest.mark.own_valkey
def test_nor_what_it_published_elsewhere(valkey: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a Redis of one's own."""
    monkeypatch.setenv("LORANK_REDIS_URL", valkey)
    with store_at(tmp_path, FORMER_PREFIX) as store:
        store.redis.set(store.keys.live, "r")
    with pytest.raises(StoreError, match=r"prefix lorank; .* for one run"), open_store(tmp_path, "small"):
        pass
    with store_at(tmp_path, "lorank:small") as store:
        installation(store)
    with open_store(tmp_path, "small") as store:
        assert store.keys.prefix == "lorank:small"
