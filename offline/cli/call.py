"""A call of a job: options that several jobs share, the job that they describe, and how it ends: its exit code, a line
on the terminal if it failed, and its summary as the last line of all."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Annotated

import httpx2
import typer

from models.contract.artifact import ArtifactError
from models.contract.requests import ReportKind
from models.contract.reranker import RerankerError
from models.valkey.embedded import EmbeddedRedisError
from offline.config import ConfigError, load_config
from offline.data.catalogue import DataError
from offline.engine.engines import EngineError
from offline.jobs.events import parse_since
from offline.jobs.ledger import RunRecord, RunStatus
from offline.jobs.runs import EXIT_CODES, TERMINATED, LockedError, Run, stopping
from offline.jobs.steps import Engine, Job
from offline.knowledge.errors import NotFittedError
from offline.knowledge.pooling import EncoderError
from offline.knowledge.run import producers_of
from offline.libraries import quiet_libraries
from offline.llm.budget import Budget
from offline.llm.cache import CacheError
from offline.llm.protocol import PermanentError
from offline.publish.connection import StoreError, store_if_there
from offline.publish.gate import GateError
from offline.publish.release import SwitchError
from offline.publish.requests import publish_report
from offline.training.report import TrainingError

DEFAULT_CONFIG = Path("configs/ml-100k.toml")
DEFAULT_DATA_DIR = Path("var")
ENDING_SECONDS = 8.0
"""After SIGTERM, for a job to end by itself; container runtimes send SIGKILL after ten."""
DEMO_CONFIG, DEMO_DATA_DIR = Path("configs/demo.toml"), Path("var/demo")
_USAGE = 2
_INTERRUPTED = EXIT_CODES[RunStatus.INTERRUPTED]

Config = Annotated[Path, typer.Option("--config", "-c", help="TOML file that describes the data set and its jobs.")]
DataDir = Annotated[
    Path, typer.Option(envvar="LORANK_DATA_DIR", help="Folder of embedded Redis servers and artifacts.")
]
NoCache = Annotated[
    bool, typer.Option("--no-cache", help="Ask the language model everything again; take no shipped vectors.")
]
Retrain = Annotated[bool, typer.Option("--retrain", help="Train even if nothing changed.")]
Choose = Annotated[
    bool, typer.Option("--choose", help='Train, and choose the architecture anew where served = "auto".')
]
TakeOver = Annotated[
    bool, typer.Option("--take-over", help="Replace a live release even if it is another configuration's.")
]
Since = Annotated[
    str | None,
    typer.Option(
        metavar="TIME",
        help="Ask the language model only about users and items with something new since then: "
        "2026-11-20, 2026-11-20T06:00 (UTC), 45m, 12h or 7d ago.",
    ),
]
MaxTokens = Annotated[
    int | None, typer.Option(min=0, help="Stop asking before this run's prompts and answers exceed so many tokens.")
]
MaxCost = Annotated[
    float | None, typer.Option(min=0, help="Stop asking before this run costs more, at the configuration's prices.")
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Print what would be asked and encoded, what it would cost and how long it takes; change nothing.",
    ),
]
AskRefused = Annotated[
    bool, typer.Option("--ask-refused", help="Ask again what the language model refused for good; all else stays.")
]
EngineName = Annotated[Engine, typer.Option(help="Where encoding and asking run: in this process, or on Ray.")]
MetricsFile = Annotated[
    Path | None,
    typer.Option(metavar="FILE.prom", help="Write metrics for Prometheus' text-file collector when the run ends."),
]
Producers = Annotated[
    list[str] | None, typer.Option("--producer", metavar="NAME", help="Only this producer; may be repeated.")
]


def job_of(
    config: Path,
    data_dir: Path,
    *,
    retrain: bool = False,
    choose: bool = False,
    take_over: bool = False,
    metrics: Path | None = None,
) -> Job:
    """The job of one call. ConfigError for a configuration that is not understood."""
    return Job(load_config(config), data_dir, retrain=retrain, choose=choose, take_over=take_over, metrics=metrics)


def asking(
    job: Job,
    since: str | None,
    max_tokens: int | None,
    max_cost: float | None,
    no_cache: bool,
    ask_refused: bool,
    engine: Engine,
) -> Job:
    """A job that asks the language model, within bounds. typer.BadParameter for options that make no sense."""
    budget = Budget(max_tokens, max_cost)
    try:
        since_ms = None if since is None else parse_since(since)
        budget.check(job.config.llm.prices)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    return replace(
        job, use_cache=not no_cache, ask_refused=ask_refused, since_ms=since_ms, budget=budget, engine=engine
    )


def chosen(job: Job, names: list[str] | None) -> tuple[str, ...] | None:
    """The producers that were asked for, None for all of them. ConfigError for one that the schema does not list."""
    listed = producers_of(job.config.feature_schema)
    if unknown := set(names or ()) - set(listed):
        raise ConfigError(f"{job.config.name} has no producer {', '.join(sorted(unknown))}; it has {', '.join(listed)}")
    return tuple(name for name in listed if name in names) if names else None


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
            print(f"  left: {reason}")
        _publish_record(job, record)
        sum_up(record.document())
    raise typer.Exit(record.exit_code or 0)


def _publish_record(job: Job, record: RunRecord) -> None:
    """Publish the line of a run that ended by itself, for the service to show. What made it fail may quote data, so
    only its kind is published; and nothing fails for want of a Redis that shows it."""
    if record.status not in (RunStatus.DONE, RunStatus.PARTIAL, RunStatus.FAILED):
        return
    body = record.document() | {"pid": 0}
    if record.status is RunStatus.FAILED:
        body["reasons"] = [reason.partition(":")[0] for reason in record.reasons]
    lacking = suppress(StoreError, EmbeddedRedisError, OSError, ValueError)
    with lacking, store_if_there(job.data_dir, job.config.name) as store:
        if store is not None:
            publish_report(store, ReportKind.RUN, record.run, body)


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


@contextmanager
def ended_by_force() -> Iterator[None]:
    """Context of a program that a thread ends some seconds after SIGTERM, if it has not ended by itself by then.

    Python looks at a signal between two of its own instructions: not while the main thread is inside a library (a file
    that is parsed, a matrix product), nor while it waits for a thread that is. What is lost then is what a kill loses,
    which is nothing that was stored; the next run writes this one's line into the ledger.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)  # written to at once, whatever Python does

    def watch() -> None:
        while received := os.read(reader, 64):
            if signal.SIGTERM in received:
                time.sleep(ENDING_SECONDS)
                print(f"stopped by force, {ENDING_SECONDS:g} s after SIGTERM", file=sys.stderr, flush=True)
                os._exit(TERMINATED)
        os.close(reader)

    threading.Thread(target=watch, name="termination", daemon=True).start()
    try:
        yield
    finally:
        if not stopping.asked:  # else the end of the interpreter may take its time too
            signal.set_wakeup_fd(before)
            os.close(writer)


def run_command_line(app: typer.Typer) -> None:
    """Run a program. Expected failures end with one line and an exit code, never with a traceback."""
    quiet_libraries()  # before a job loads them
    end_cleanly_when_terminated()
    try:
        with ended_by_force():
            app()
    except SystemExit as end:  # a job that is no run ends as after Ctrl-C
        raise SystemExit(TERMINATED if stopping.asked and end.code == _INTERRUPTED else end.code) from None
    except (ConfigError, *EXPECTED) as error:  # of a job that is no run
        print(f"error: {error}", file=sys.stderr)
        status = RunStatus.LOCKED if isinstance(error, LockedError) else RunStatus.FAILED
        sys.exit(_USAGE if isinstance(error, ConfigError) else EXIT_CODES[status])
