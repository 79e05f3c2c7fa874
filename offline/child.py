"""Processes that end with the process that starts them, also when that is killed and can end nobody.

Elsewhere than on Linux they are children like others.

As a script, which needs no package: ``child.py PARENT COMMAND...`` becomes COMMAND.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path

_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of linux/prctl.h


def child_command(*command: str) -> list[str]:
    """A command for subprocess: a child that gets SIGTERM when the calling process ends.

    The kernel means the thread that starts the child: it has to last as long as the child should.
    """
    return [sys.executable, "-I", "-S", str(Path(__file__).resolve()), str(os.getpid()), *command]


def child_python(*arguments: str) -> list[str]:
    """``python ARGUMENTS`` as such a command."""
    return child_command(sys.executable, *arguments)


def main() -> None:
    """Bind this process to its parent and become the command."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PARENT_DEATH_SIGNAL, signal.SIGTERM)
    if os.getppid() != int(sys.argv[1]):  # it has ended already
        sys.exit(128 + signal.SIGTERM)
    os.execv(sys.argv[2], sys.argv[2:])  # noqa: S606 - the command of whoever started this script


if __name__ == "__main__":
    main()
