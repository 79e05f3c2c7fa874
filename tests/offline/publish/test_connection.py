"""The Redis that the jobs talk to."""

from __future__ import annotations

from pathlib import Path

import pytest

from offline.publish.connection import StoreError, open_store, store_if_there


def test_without_an_address_the_embedded_server_of_the_data_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LORANK_REDIS_URL", "LORANK_KEY_PREFIX", "LORANK_ARTIFACTS"):
        monkeypatch.delenv(name, raising=False)
    with open_store(tmp_path) as store:
        assert store.url == f"unix://{tmp_path}/valkey/valkey.sock"
        assert store.keys.prefix == "lorank"
        assert store.artifacts == tmp_path / "artifacts"
        store.redis.set(store.keys.live, "r")
    with open_store(tmp_path) as store:
        assert store.redis.get(store.keys.live) == b"r"


def test_the_environment_decides(publish_valkey: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORANK_REDIS_URL", publish_valkey)
    monkeypatch.setenv("LORANK_KEY_PREFIX", "mine")
    monkeypatch.setenv("LORANK_ARTIFACTS", str(tmp_path / "elsewhere"))
    with open_store(tmp_path) as store:
        assert (store.url, store.keys.prefix, store.artifacts) == (publish_valkey, "mine", tmp_path / "elsewhere")
    assert not (tmp_path / "valkey").exists()


def test_a_server_that_does_not_answer_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORANK_REDIS_URL", f"unix://{tmp_path}/nobody.sock")
    with pytest.raises(StoreError, match=r"Redis at unix://.*nobody\.sock does not answer"), open_store(tmp_path):
        pass


def test_a_refused_command_is_told_in_one_line(tmp_path: Path) -> None:
    """Out of memory, read-only after a failover, no permission: all come as an answer to a command."""
    with (
        pytest.raises(StoreError, match=r"Redis at unix://.* refuses: .*[Uu]nknown command"),
        open_store(tmp_path) as store,
    ):
        store.redis.execute_command("NO-SUCH-COMMAND")  # type: ignore[no-untyped-call]


def test_looking_makes_no_store(tmp_path: Path) -> None:
    with store_if_there(tmp_path) as store:
        assert store is None
    assert not any(tmp_path.iterdir())
    with open_store(tmp_path):
        pass
    with store_if_there(tmp_path) as store:
        assert store is not None
