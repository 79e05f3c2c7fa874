"""Fixtures of the LLM tests: a real chat server and a real cache."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from offline.llm.cache import ResponseCache
from tests.offline.llm.chat_server import ChatServer, running_server


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with running_server() as server:
        yield server


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[ResponseCache]:
    with ResponseCache(tmp_path / "answers.sqlite3") as cache:
        yield cache


@pytest.fixture(autouse=True)
def _direct_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    """A developer's proxy must not see calls to 127.0.0.1."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
