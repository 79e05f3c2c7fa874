"""What is deleted from a stream leaves Redis' memory, and nothing else changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from models.contract.events import Interaction
from models.contract.forgetting import EVERYTHING_MS
from models.contract.keys import Keys
from offline.publish import erasure
from offline.publish.connection import Store
from offline.publish.erasure import erase_users, rewrite_files, rewrite_streams
from tests.servers import Server, free_ports

WHO, OTHER = "frida-kahlo", "diego"


def add(store: Store, count: int) -> None:
    """Entries of two users in turns."""
    for number in range(count):
        event = Interaction(user_id=(WHO, OTHER)[number % 2], item_id="a", value=1.0, time_ms=number)
        store.redis.xadd(store.keys.interactions, event.to_stream())  # type: ignore[arg-type]


def counts(store: Store) -> tuple[Any, ...]:
    info: Any = store.redis.xinfo_stream(store.keys.interactions)
    return info["last-generated-id"], info["entries-added"], info["max-deleted-entry-id"], info["length"]


def test_bytes_of_deleted_entries_are_gone(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(erasure, "_COPIED", 7)
    add(store, 50)
    stream: Any = store.keys.interactions
    assert erase_users(store, {WHO: EVERYTHING_MS})[WHO, "interactions"] == 25
    left, before = store.redis.xrange(stream), counts(store)
    assert WHO.encode() in store.redis.dump(stream)  # type: ignore[operator]
    assert rewrite_streams(store) == ""
    assert WHO.encode() not in store.redis.dump(stream)  # type: ignore[operator]
    assert (store.redis.xrange(stream), counts(store)) == (left, before)
    assert list(store.redis.scan_iter(f"*{stream}:copy*")) == []
    add(store, 1)  # ids go on


def test_entries_that_come_meanwhile_stay_and_those_that_go_do_not_come_back(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(erasure, "_COPIED", 5)
    add(store, 20)
    stream, evaluate = store.keys.interactions, type(store.redis).eval
    entries: Any = store.redis.xrange(stream)
    changes = [lambda: store.redis.xdel(stream, entries[0][0]), lambda: add(store, 4)]

    def changing(client: Any, *arguments: Any) -> Any:
        state = evaluate(client, *arguments)
        if changes and state not in (b"changed", b"replaced"):
            changes.pop()()  # type: ignore[no-untyped-call]
        return state

    monkeypatch.setattr(type(store.redis), "eval", changing)
    assert rewrite_streams(store) == ""
    left: Any = store.redis.xrange(stream)
    assert [entry for entry, _ in left][:19] == [entry for entry, _ in entries[1:]]
    assert len(left) == 23


def test_a_stream_that_changes_all_the_time_is_told(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    add(store, 20)
    monkeypatch.setattr(type(store.redis), "eval", lambda *_: b"changed")
    assert "changes too fast" in rewrite_streams(store)
    assert store.redis.xlen(store.keys.interactions) == 20


def test_an_empty_stream_is_no_fault(store: Store) -> None:
    assert rewrite_streams(store) == ""
    add(store, 2)
    erase_users(store, {WHO: EVERYTHING_MS, OTHER: EVERYTHING_MS})
    assert rewrite_streams(store) == ""
    assert counts(store)[3] == 0


@pytest.mark.parametrize("snapshots", [False, True])
def test_files_hold_nothing_that_was_deleted(tmp_path: Path, snapshots: bool) -> None:
    server = Server(tmp_path / "server", free_ports(1)[0], ["--appendonly", "yes"])
    store = Store(server.client, Keys("lorank:files"), tmp_path, "")
    try:
        add(store, 20)
        if snapshots:
            server.client.save()
        erase_users(store, {WHO: EVERYTHING_MS})
        assert rewrite_streams(store) == ""
        assert files_with(server.folder, WHO)
        assert rewrite_files(store) == ""
        assert not files_with(server.folder, WHO)
        assert files_with(server.folder, OTHER)
        assert (server.folder / "dump.rdb").exists() == snapshots
    finally:
        server.close()


def files_with(folder: Path, user: str) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and user.encode() in path.read_bytes()]
