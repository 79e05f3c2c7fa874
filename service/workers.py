"""Processes of the service: what each sets for itself, and several that answer on one port, which uvicorn starts, and
starts again when they die.

Each builds the whole service by itself; they share the port, the mapped item tables and the folder in which their
metrics are added up. Knows uvicorn's supervisor and prometheus_client's files.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import tempfile
from pathlib import Path

import uvicorn
from fastapi import FastAPI
from prometheus_client.multiprocess import mark_process_dead
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess

from service.app import create_app
from service.settings import Settings
from service.telemetry import METRICS_FOLDER

APP = "service.workers:worker_app"
"""Where each process finds what it builds."""

_SWITCH_SECONDS = 0.0005


def configure_process(settings: Settings) -> None:
    """Log everything to stderr, one line each; and let the event loop have the interpreter soon."""
    logging.basicConfig(level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s %(message)s")
    # A request would otherwise wait 5 ms for a thread that loads a release, each time that it wants to go on.
    sys.setswitchinterval(_SWITCH_SECONDS)


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
