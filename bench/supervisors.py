"""Supervisors of worker processes, weighed: uvicorn's, gunicorn's, gunicorn's with our server, ours.

usage: python -m bench.supervisors --python var/bench-env/bin/python [--only ours,uvicorn] [--rounds 5]

All serve ``bench.supervised`` with the same Python, whose packages are those of bench/requirements.txt. Prints a JSON
object for each, in seconds and numbers; null: not in the time that was waited. Needs Linux and root, for a read-only
root and a small /dev/shm. Takes five minutes for each.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
APPLICATION, UVICORN = "bench.supervised:Application", "-m uvicorn --no-access-log --port PORT --factory"
GUNICORN = "-m gunicorn -w COUNT -b 127.0.0.1:PORT"
SUPERVISORS = {
    "uvicorn alone": f"{UVICORN} {APPLICATION}",
    "uvicorn": f"{UVICORN} --workers COUNT {APPLICATION}",
    "gunicorn": f"{GUNICORN} -k uvicorn_worker.UvicornWorker {APPLICATION}()",
    "gunicorn with our server": f"{GUNICORN} -k bench.supervised_gunicorn.DrainingWorker {APPLICATION}()",
    "ours": "-m bench.supervised PORT COUNT",
}
CLIENTS = 8
READ_ONLY = (
    'mount -t tmpfs -o size=4k none /dev/shm && mount --bind "$0" "$0" && mount -o remount,ro,bind / && exec "$@"'
)
"""Leaves nothing to write to but the folder that is its first argument and 4 kB of /dev/shm, and runs the others."""


class Service:
    """A supervisor with ``count`` workers, as long as the context lasts."""

    def __init__(self, python: str, command: str, count: int, read_only: bool = False, **environment: str) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self.fails, self._notes = Path(self._folder.name) / "fails", Path(self._folder.name) / "notes"
        self._notes.touch()
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        words = [python, *command.replace("PORT", str(self.port)).replace("COUNT", str(count)).split()]
        if read_only:
            words = ["unshare", "--mount", "sh", "-c", READ_ONLY, self._folder.name, *words]
        paths = {"PYTHONPATH": str(ROOT), "NOTES": str(self._notes), "FAILS": str(self.fails)}
        environment = os.environ | paths | environment
        self.process = subprocess.Popen(words, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL)

    def __enter__(self) -> Service:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.terminate()
            self.process.wait(10)
        for process in filter(lives, {self.process.pid, *self.noted("import")}):
            os.kill(process, signal.SIGKILL)
        self.process.wait()
        self._folder.cleanup()

    def noted(self, word: str) -> list[int]:
        """Processes that noted it, in their order."""
        lines = [line.split() for line in self._notes.read_text().splitlines()]
        return [int(process) for noted, process in lines if noted == word]

    def ready(self, count: int, seconds: float = 60.0) -> float | None:
        """Seconds until as many processes have ever been ready, None if they are not in time."""
        return elapsed(lambda: len(self.noted("ready")) >= count, seconds)

    def ask(self, path: str, method: str = "GET", client: http.client.HTTPConnection | None = None) -> int:
        """A status, 0 for a refused connection, -1 for a request that is lost."""
        client = client or http.client.HTTPConnection("127.0.0.1", self.port, timeout=5.0)
        try:
            client.request(method, path)
            with client.getresponse() as response:
                response.read()
                return response.status
        except ConnectionRefusedError:
            return 0
        except (OSError, http.client.HTTPException):
            client.close()
            return -1

    def lost(self, act: Callable[[], Any]) -> int:
        """Requests that are lost to clients that keep their connections, while it acts or until they are refused."""
        ended, statuses = threading.Event(), []

        def call() -> None:
            client = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20.0)
            while not ended.is_set() and (status := self.ask("/", "POST", client)) != 0:
                statuses.append(status)

        threads = [threading.Thread(target=call) for _ in range(CLIENTS)]
        for thread in threads:
            thread.start()
        time.sleep(0.5)
        act()
        ended.set()
        for thread in threads:
            thread.join()
        return statuses.count(-1)


def elapsed(condition: Callable[[], bool], seconds: float) -> float | None:
    """Seconds until it holds, None if it does not in time."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > seconds:
            return None
        time.sleep(0.02)
    return round(time.monotonic() - began, 2)


def lives(process: int) -> bool:
    """Whether it runs: a zombie does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def weigh(start: Callable[..., Service], rounds: int) -> dict[str, Any]:
    """All rows of a supervisor."""
    return {
        "import of 12 s": slow_import(start, IMPORT_SECONDS="12"),
        "the same, holding the interpreter": slow_import(start, IMPORT_SECONDS="12", HOLDS_INTERPRETER="1"),
        "import of 40 s": slow_import(start, IMPORT_SECONDS="40"),
        "stopped": standstill(start, lambda service: os.kill(service.noted("ready")[0], signal.SIGSTOP)),
        "event loop blocked": standstill(start, lambda service: service.ask("/block")),
        "replacement fails to import": failing_replacement(start, "import"),
        "replacement fails in its lifespan": failing_replacement(start, "lifespan"),
        "supervisor killed": orphans(start),
        "SIGTERM under load": [termination(start) for _ in range(rounds)],
        "worker killed under load": [killed_worker(start) for _ in range(rounds)],
        "start": [beginning(start) for _ in range(rounds)],
        "read-only root, /dev/shm of 4 kB": read_only(start),
        "the same, TMPDIR=/dev/shm": read_only(start, TMPDIR="/dev/shm"),
    }


def slow_import(start: Callable[..., Service], **environment: str) -> dict[str, Any]:
    with start(2, **environment) as service:
        return {"ready": service.ready(2, 70.0), "started": len(service.noted("import"))}


def standstill(start: Callable[..., Service], stop: Callable[[Service], Any]) -> dict[str, Any]:
    with start(2) as service:
        service.ready(2)
        stop(service)
        return {"replaced": service.ready(3, 70.0), "live": [lives(worker) for worker in service.noted("ready")]}


def failing_replacement(start: Callable[..., Service], failure: str) -> dict[str, Any]:
    with start(2) as service:
        service.ready(2)
        service.fails.write_text(failure)
        os.kill(service.noted("ready")[0], signal.SIGKILL)
        time.sleep(15.0)
        return {"the other lives": lives(service.noted("ready")[1]), "started": len(service.noted("import")) - 2}


def orphans(start: Callable[..., Service]) -> dict[str, Any]:
    with start(2) as service:
        service.ready(2)
        service.process.kill()
        service.process.wait()
        ended = elapsed(lambda: not any(map(lives, service.noted("ready"))), 20.0)
        return {"workers end": ended, "port is free": service.ask("/") == 0}


def termination(start: Callable[..., Service]) -> dict[str, Any]:
    with start(3) as service:
        service.ready(3)
        statuses = set()

        def terminate() -> None:
            service.process.terminate()
            while service.process.poll() is None:
                statuses.add(service.ask("/readyz"))

        return {"lost": service.lost(terminate), "un-ready": 503 in statuses, "status": service.process.returncode}


def killed_worker(start: Callable[..., Service]) -> dict[str, Any]:
    with start(3) as service:
        service.ready(3)
        replaced = []

        def kill() -> None:
            os.kill(service.noted("ready")[0], signal.SIGKILL)
            replaced.append(service.ready(4))

        return {"lost": service.lost(kill), "replaced": replaced[0]}


def beginning(start: Callable[..., Service]) -> dict[str, Any]:
    with start(2) as service:  # uvicorn does not supervise a single worker
        ready = service.ready(1)
        lines = Path(f"/proc/{service.process.pid}/smaps_rollup").read_text().splitlines()
        return {"ready": ready, "PSS of the first process, MB": int(lines[2].split()[1]) // 1024}


def read_only(start: Callable[..., Service], **environment: str) -> dict[str, Any]:
    with start(2, read_only=True, **environment) as service:
        return {"ready": service.ready(2, 15.0), "status": service.process.poll()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", required=True, help="of an environment with bench/requirements.txt")
    parser.add_argument("--only", default=",".join(SUPERVISORS))
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    for name in options.only.split(","):
        start = partial(Service, options.python, SUPERVISORS[name])
        rows = [beginning(start) for _ in range(options.rounds)] if name == "uvicorn alone" else None
        print(json.dumps({name: rows or weigh(start, options.rounds)}), flush=True)


if __name__ == "__main__":
    main()
