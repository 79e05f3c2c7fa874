"""Workers that do as ordered, and a supervisor of them: ``python -m tests.service.server.work COUNT PAUSE``."""

from __future__ import annotations

import os
import socket
import sys
import time
from pathlib import Path

from service.server import supervisor
from service.server.supervisor import Supervisor, WorkerState, end_with_parent

ORDERS = "ORDERS"
"""Names the file of the environment: a word for each worker that is started, "well", "fails", "still" or "late"."""


def work(listening: socket.socket, state: WorkerState) -> None:
    """One worker. It appends its process id and its word to the file beside the orders."""
    orders = Path(os.environ[ORDERS])
    claims = orders.with_suffix(".claims")
    with claims.open("a+") as file:
        file.seek(0)
        number = len(file.read().splitlines())
        words = orders.read_text().split()
        word = words[number] if number < len(words) else "well"
        file.write(f"{os.getpid()} {word}\n")
    if word == "fails":
        sys.exit(7)
    supervising = os.getppid()
    while word == "late" and os.getppid() == supervising:
        time.sleep(0.02)  # as one that imports until its supervisor has ended
    end_with_parent()
    state.note(is_ready=True)
    while True:
        time.sleep(0.02)
        if word == "well":
            state.note(is_ready=True)


if __name__ == "__main__":
    supervisor.STILL_SECONDS, supervisor.WATCH_SECONDS = 1.0, float(sys.argv[2])
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        sys.exit(0 if Supervisor(work, listening, int(sys.argv[1]), 0.0).run() else 1)
