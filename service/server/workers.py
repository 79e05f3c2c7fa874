"""Processes of the service: what each sets for itself, and one of several.

Each builds the whole service by itself; several share the port, the mapped item tables and the folder in which their
metrics are added up.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import math
import os
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import uvicorn
from fastapi import FastAPI
from prometheus_client.multiprocess import mark_process_dead

from service.app import create_app
from service.logs import configure_logging
from service.server.connection import Connection
from service.server.descriptors import accepted_at_once
from service.server.draining import DrainingServer
from service.server.supervisor import Supervisor, WorkerState, end_with_parent
from service.server.tls import server_context
from service.settings import PREFIX, Settings, SettingsError
from service.telemetry import METRICS_FOLDER

_METRICS, _LOCK = "lorank-metrics-", "lock"
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - a temporary folder in it has a name of its own
_SWITCH_SECONDS = 0.0005
_METRICS_BYTES = 256 * 1024
"""Of the files of a worker's metrics, at most; they have holes."""

log = logging.getLogger(__name__)


def configure_process(settings: Settings) -> None:
    """Log to stderr, and let the event loop have the interpreter soon."""
    configure_logging(settings.log_level, settings.log_format)
    # A request would otherwise wait 5 ms for a thread that loads a release, each time that it wants to go on.
    sys.setswitchinterval(_SWITCH_SECONDS)


def server_of(app: FastAPI, settings: Settings) -> uvicorn.Config:
    """How uvicorn serves the application. SettingsError if its TLS cannot be as the settings have it."""
    tls = server_context(settings)
    return uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        loop="asyncio",  # uvloop accepts one connection per turn (docs/decisions/0021-admission.md)
        http=Connection,
        ws="none",
        lifespan="on",
        access_log=False,
        backlog=accepted_at_once(),
        log_config=None,
        log_level=settings.log_level,
        server_header=False,
        ssl_context_factory=None if tls is None else lambda *_: tls,
        proxy_headers=False,  # nobody here asks who called
        timeout_keep_alive=int(app.state.connections.limits.idle_seconds),
        timeout_graceful_shutdown=math.ceil(_finish_seconds(settings)),
    )


def _finish_seconds(settings: Settings) -> float:
    """Time after its drain that a process gives to requests that are under way."""
    return max(10.0, settings.max_deadline_ms / 1000.0)


def _stop_seconds(settings: Settings) -> float:
    """Time after its drain in which a process has to end: some for what is queued for Redis, after the requests."""
    return _finish_seconds(settings) + 5.0


def run_alone(app: FastAPI, settings: Settings) -> bool:
    """Serve in this process until stopped; whether it ever did. SystemExit with status 3 if the port is taken."""
    config = server_of(app, settings)
    server = DrainingServer(config, settings.drain_seconds)
    # For a signal before uvicorn listens to them, and for the same one after it has shut down, when it raises it again;
    # a stop that was asked for is not a failure.
    signal.signal(signal.SIGTERM, lambda *_: setattr(server, "should_exit", True))
    with config.bind_socket() as listening, contextlib.suppress(KeyboardInterrupt):  # raised again after the shutdown
        server.run([listening])
    return server.started


def run_workers(app: FastAPI, settings: Settings) -> bool:
    """Serve by ``settings.workers`` processes until stopped; whether one ever did. SystemExit as ``run_alone``,
    SettingsError as ``metrics_folder``."""
    listening = server_of(app, settings).bind_socket()
    with listening, metrics_folder(settings.data_dir, settings.workers) as folder:
        os.environ[METRICS_FOLDER] = str(folder)  # read by prometheus_client when a worker imports it
        stop_seconds = _stop_seconds(settings)
        return Supervisor(work, listening, settings.workers, settings.drain_seconds, stop_seconds).run()


def work(listening: socket.socket, state: WorkerState) -> None:
    """A worker, with the settings of the environment. Beside others that have a release it takes no requests before it
    has one: they would get a 503 where the others answer."""
    settings = Settings.from_environment(os.environ)
    end_with_parent(settings.drain_seconds + _stop_seconds(settings))
    configure_process(settings)
    folder = Path(os.environ[METRICS_FOLDER])
    forget_the_dead(folder)
    if not _has_room(folder, 1):
        log.error("%s has no room for the metrics of a worker: make some, or let TMPDIR name another folder", folder)
        sys.exit(1)

    def waits_for_others() -> bool:
        state.note(is_ready=False)
        return state.others_have_release and not server.should_exit

    app = create_app(settings, waits_for_others)

    def turned() -> None:
        state.note(is_ready=True, has_release=app.state.service.live.current() is not None)

    server = DrainingServer(server_of(app, settings), settings.drain_seconds, turned)
    signal.signal(signal.SIGTERM, lambda *_: setattr(server, "should_exit", True))
    with contextlib.suppress(KeyboardInterrupt):
        server.run([listening])


@contextlib.contextmanager
def metrics_folder(data_dir: Path, workers: int) -> Iterator[Path]:
    """A folder for the metrics of this process's workers. Those of processes that were killed are taken away: nobody
    locks them any more. (Numbers of processes would not do, containers may share a folder.) SettingsError if there is
    no place for it."""
    place = _writable_place(data_dir, workers)
    for lock in place.glob(f"{_METRICS}*/{_LOCK}"):
        with contextlib.suppress(OSError), lock.open("w") as file:  # another user's, or in use
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(lock.parent, ignore_errors=True)
    with (
        tempfile.TemporaryDirectory(prefix=_METRICS, dir=place, ignore_cleanup_errors=True) as folder,
        (Path(folder) / _LOCK).open("w") as file,
    ):
        fcntl.flock(file, fcntl.LOCK_EX)
        yield Path(folder)


def _writable_place(data_dir: Path, workers: int) -> Path:
    """The temporary folder; where there is none, as with a read-only root, or no room in it, shared memory or the data
    folder."""
    with contextlib.suppress(FileNotFoundError):
        place = Path(tempfile.gettempdir())
        if _has_room(place, workers):
            return place
    for place in (_SHARED_MEMORY, data_dir):
        if _has_room(place, workers):
            return place
    raise SettingsError(
        f"{PREFIX}WORKERS: several workers need a folder that they can write to, for the metrics that they add up, "
        f"{_METRICS_BYTES // 1024} KiB each: let TMPDIR name one, or mount a tmpfs at /tmp"
    )


def _has_room(place: Path, workers: int) -> bool:
    """Whether so many workers can write their metrics there. They are mapped: a worker that finds no room would be
    killed (SIGBUS)."""
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            os.posix_fallocate(file.fileno(), 0, workers * _METRICS_BYTES)
    except OSError:
        return False
    return True


def forget_the_dead(folder: Path) -> None:
    """Take out of the metrics what processes that have died said of their present state. Their counts stay."""
    for path in folder.glob("gauge_live*.db"):
        process = int(path.stem.rpartition("_")[2])
        if not _lives(process):
            with contextlib.suppress(FileNotFoundError):  # another worker does the same
                mark_process_dead(process, str(folder))  # type: ignore[no-untyped-call]


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
