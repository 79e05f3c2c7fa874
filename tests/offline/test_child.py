"""A child process that ends with the process that started it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from offline.child import child_python

ROOT = Path(__file__).parents[2]

_CHILD = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
_PARENT = f"""
import subprocess, sys
from offline.child import child_python
subprocess.run(child_python("-c", {_CHILD!r}))
"""


def test_a_killed_parent_ends_its_child() -> None:
    with subprocess.Popen([sys.executable, "-c", _PARENT], cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline().strip().isdigit()
        parent.kill()
        assert parent.stdout.read() == ""  # nobody has the other end of the pipe any more


def test_without_its_parent_it_does_not_begin() -> None:
    command = [word if word != str(os.getpid()) else "1" for word in child_python("-c", "print('here')")]
    ended = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    assert (ended.returncode, ended.stdout) == (128 + signal.SIGTERM, b"")


def test_it_is_the_command_itself() -> None:
    with subprocess.Popen(child_python("-c", _CHILD), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert int(process.stdout.readline()) == process.pid
        process.terminate()
    assert process.returncode == -signal.SIGTERM
