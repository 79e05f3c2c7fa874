"""Several processes that answer on one port: uvicorn starts them, and starts again one that dies.

Each builds the whole service by itself; what they share is the port, the mapped item tables and the folder in which
their metrics are added up. Knows uvicorn's supervisor and prometheus_client's files.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

import uvicorn
from fastapi import FastAPI
from prometheus_client.multiprocess import mark_process_dead
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess

from service.app import create_app
from service.runtime import configure_process
from service.settings import Settings
from service.telemetry import METRICS_FOLDER

APP = "service.workers:worker_app"
"""What each process builds, as uvicorn is told."""


def run_workers(config: uvicorn.Config) -> int:
    """Run ``config.workers`` processes of ``APP`` until stopped; exit statuses are those of ``service.__main__``."""
    try:
        listening = config.bind_socket()
    except SystemExit:  # it has logged why
        return STARTUP_FAILURE
    with listening, tempfile.TemporaryDirectory(prefix="lorank-metrics-") as folder:
        os.environ[METRICS_FOLDER] = folder  # read by prometheus_client when a worker imports it
        supervisor = Multiprocess(config, sockets=[listening])
        supervisor.run()
        failed = any(process.exitcode == STARTUP_FAILURE for process in supervisor.processes)
    return 1 if failed else 0


def worker_app() -> FastAPI:
    """The application of one worker, with the settings of the environment."""
    settings = Settings.from_environment(os.environ)
    configure_process(settings)
    forget_the_dead(Path(os.environ[METRICS_FOLDER]))
    return create_app(settings)


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
