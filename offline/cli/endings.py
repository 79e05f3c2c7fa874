"""How a job ends: its exit code, one line on the terminal if it failed, and its summary as the last line of all."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable
from types import FrameType

import httpx2
import typer

from models.contract.artifact import ArtifactError
from models.contract.reranker import RerankerError
from models.valkey.embedded import EmbeddedRedisError
from offline.config import ConfigError
from offline.data.catalogue import DataError
from offline.engine.engines import EngineError
from offline.jobs.ledger import RunStatus
from offline.jobs.lock import LockedError
from offline.jobs.runs import EXIT_CODES, Run, stopping
from offline.jobs.steps import Job
from offline.knowledge.encoder import EncoderError
from offline.knowledge.errors import NotFittedError
from offline.libraries import quiet_libraries
from offline.llm.cache import CacheError
from offline.llm.protocol import PermanentError
from offline.publish.connection import StoreError
from offline.publish.gate import GateError
from offline.publish.release import SwitchError
from offline.training.report import TrainingError

_USAGE = 2

EXPECTED = (
    ArtifactError,
    CacheError,
    DataError,
    OSError,
    httpx2.HTTPError,
    TrainingError,
    EmbeddedRedisError,
    EncoderError,
    EngineError,
    GateError,
    LockedError,
    NotFittedError,
    PermanentError,
    RerankerError,
    StoreError,
    SwitchError,
)
"""Failures that a person can do something about: bad input, something absent, a gate that held."""


def carry_out(job: Job, name: str, work: Callable[[Run], object]) -> None:
    """Do ``work`` as one run: locked, recorded, summed up in one line of JSON, the last on standard output."""
    run = Run(job, name)
    try:
        with run.working():
            work(run)
    except EXPECTED as error:
        print(f"error: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
    finally:
        record = run.record
        for reason in record.reasons if record.status is RunStatus.PARTIAL else ():
            print(f"  left for the next run: {reason}")
        sum_up(record.document())
    raise typer.Exit(record.exit_code or 0)


def sum_up(summary: dict[str, object]) -> None:
    """The last line: for `tail -1 | jq`."""
    print(json.dumps(summary, ensure_ascii=False), flush=True)


def end_cleanly_when_terminated() -> None:
    """SIGTERM ends a job as Ctrl-C does: answers that arrived are stored, and the ledger says how it ended."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        stopping.asked = True
        signal.raise_signal(signal.SIGINT)

    signal.signal(signal.SIGTERM, interrupt)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # a shell script starts its background jobs so; asyncio would then leave SIGINT, and with it SIGTERM, ignored
        signal.signal(signal.SIGINT, signal.default_int_handler)


def run_command_line(app: typer.Typer) -> None:
    """Run a program. Expected failures end with one line and an exit code, never with a traceback."""
    quiet_libraries()  # before a job loads them
    end_cleanly_when_terminated()
    try:
        app()
    except (ConfigError, *EXPECTED) as error:  # of a job that is no run
        print(f"error: {error}", file=sys.stderr)
        status = RunStatus.LOCKED if isinstance(error, LockedError) else RunStatus.FAILED
        sys.exit(_USAGE if isinstance(error, ConfigError) else EXIT_CODES[status])
