"""The guard of an embedded Valkey: a process that ends the server when no program is present at it any more.

A program that is killed cannot stop the server behind it. It was present by a shared lock, which the kernel releases
however the program ends; the guard waits for the exclusive one. It works with open descriptors alone, so that it ends
the server of a deleted folder, too, and never another process that got the same number.

``models.valkey.server`` runs this file as a script, without site-packages. All but COMMAND are inherited descriptors:
PRESENCE the file with the programs' lock, LOCK a file that stays locked as long as the guard lives, SERVER a pidfd.

    guard.py start PRESENCE LOCK COMMAND...   becomes the server; its guard is there before it
    guard.py guard PRESENCE LOCK SERVER       starts a guard of a server that has lost its own
"""

import fcntl
import os
import select
import signal
import sys
import threading
from collections.abc import Callable


def main() -> None:
    """Starts the guard in a process of its own; goes on as the server, with or without a guard, or ends."""
    presence, lock = int(sys.argv[2]), int(sys.argv[3])
    if sys.argv[1] == "guard":
        fork_guard(presence, int(sys.argv[4]))
        return
    try:
        fork_guard(presence, os.pidfd_open(os.getpid()))
    # Kernels before Linux 5.3 have no pidfds, and neither have Pythons built for older ones. The server's data is worth
    # more than its end.
    except (OSError, AttributeError) as error:
        print(f"this server has no guard: {error}", file=sys.stderr, flush=True)  # noqa: T201 - Valkey's log
    for descriptor in (presence, lock):
        os.close(descriptor)
    os.execv(sys.argv[4], sys.argv[4:])  # noqa: S606


def fork_guard(presence: int, server: int) -> None:
    """Start the guard as nobody's child: neither the server nor the program that asked for it waits for its end.
    AttributeError if this Python could not end the server."""
    send = signal.pidfd_send_signal
    between = os.fork()
    if between:
        os.waitpid(between, 0)
    elif os.fork():
        os._exit(0)
    else:
        os.setsid()
        os.chdir("/")
        threading.Thread(target=stop_unused, args=(presence, server, send), daemon=True).start()
        select.select([server], [], [])  # until the server has ended, for whatever reason
        os._exit(0)


def stop_unused(presence: int, server: int, send: Callable[[int, int], None]) -> None:
    """Wait until no program is present, then end the server; it saves what it holds. Nobody can come meanwhile: the
    exclusive lock lasts until this process ends, which it does after the server."""
    fcntl.flock(presence, fcntl.LOCK_EX)
    for number in (signal.SIGTERM, signal.SIGCONT):  # the second, because one that is suspended would not notice
        try:
            send(server, number)
        except ProcessLookupError:
            return


if __name__ == "__main__":
    main()
