"""The holder of a work folder: the kernel's word, and a text that never names a dead process."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import asdict
from pathlib import Path

import pytest

from offline.jobs.runs import Holder, LockedError, exclusive, holder


def test_the_second_is_told_who_holds_it(tmp_path: Path) -> None:
    with exclusive(tmp_path, "refresh"):
        assert holder(tmp_path) == Holder.me("refresh")
        with pytest.raises(LockedError) as caught, exclusive(tmp_path, "train"):
            pass
        assert caught.value.holder == holder(tmp_path)
        for part in ("`refresh`", f"process {os.getpid()} on ", "since 20", str(tmp_path)):
            assert part in str(caught.value)
    assert holder(tmp_path) is None
    with exclusive(tmp_path, "train"):
        pass


def test_an_error_gives_it_back(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), exclusive(tmp_path, "refresh"):
        raise RuntimeError
    with exclusive(tmp_path, "refresh"):
        pass


def test_a_killed_holder_holds_nothing_and_is_not_named(tmp_path: Path) -> None:
    code = f"""
import os, signal
from pathlib import Path
from offline.jobs.runs import exclusive
with exclusive(Path({str(tmp_path)!r}), "refresh"):
    os.kill(os.getpid(), signal.SIGKILL)
"""
    process = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[3], check=False)
    assert process.returncode == -signal.SIGKILL
    assert '"job": "refresh"' in (tmp_path / "lock").read_text()
    assert holder(tmp_path) is None
    with exclusive(tmp_path, "train"):
        current = holder(tmp_path)
        assert current is not None
        assert current.job == "train"


@pytest.mark.parametrize("left", ["", "{", "[]", '{"pid": 1}', "null"])
def test_an_unreadable_text_is_nobody(tmp_path: Path, left: str) -> None:
    (tmp_path / "lock").write_text(left)
    assert holder(tmp_path) is None


def test_a_number_that_was_given_to_another_process_is_not_the_holder(tmp_path: Path) -> None:
    me = Holder.me("refresh")
    assert me.lives()
    assert not Holder(me.pid, me.job, me.host, me.since, begun="another time").lives()
    assert Holder(me.pid, me.job, "another-host", me.since, begun="another time").lives()


def test_a_killed_holder_of_another_host_is_not_named(tmp_path: Path) -> None:
    """A container that was removed: its number may be anybody's here, but its lock is gone."""
    me = Holder.me("refresh")
    left = json.dumps({**asdict(me), "host": "a-container-that-is-gone"})
    (tmp_path / "lock").write_text(left)
    assert holder(tmp_path) is None
    with exclusive(tmp_path, "train"):
        (tmp_path / "lock").write_text(left)
        elsewhere = holder(tmp_path)
        assert elsewhere is not None
        assert elsewhere.host == "a-container-that-is-gone"


def test_a_look_does_not_keep_a_job_from_starting(tmp_path: Path) -> None:
    (tmp_path / "lock").touch()
    with (tmp_path / "lock").open() as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        threading.Timer(0.01, fcntl.flock, (looking.fileno(), fcntl.LOCK_UN)).start()
        with exclusive(tmp_path, "refresh"):
            pass


def test_a_lock_held_by_a_process_that_has_not_said_who_it_is(tmp_path: Path) -> None:
    with exclusive(tmp_path, "refresh"):
        (tmp_path / "lock").write_text("")
        with pytest.raises(LockedError, match="has not said who it is"), exclusive(tmp_path, "train"):
            pass


def test_children_do_not_inherit_it(tmp_path: Path) -> None:
    """A server that a job starts must not keep the folder locked after the job."""
    with exclusive(tmp_path, "refresh"):
        child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    try:
        with exclusive(tmp_path, "train"):
            pass
    finally:
        child.communicate()
