"""The jobs that forget users, and that export one."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Annotated

import typer

from models.contract.forgetting import Tombstone
from models.contract.ids import ID_DEMANDS, id_fault
from models.contract.requests import JobRequest, RequestKind
from offline.cli.call import DEFAULT_CONFIG, DEFAULT_DATA_DIR, Config, DataDir, MetricsFile, carry_out, job_of
from offline.cli.panels import BACK, LOOK
from offline.data.catalogue import DataError
from offline.forgetting.export import export_of
from offline.forgetting.run import forget_users
from offline.jobs.runs import Run
from offline.publish.connection import open_store
from offline.publish.requests import write_request
from offline.publish.tombstones import synchronise, write_tombstones

app = typer.Typer()

_ASKED_BY = "python -m offline forget"


@app.command(rich_help_panel=BACK)
def forget(
    user: Annotated[list[str] | None, typer.Option(metavar="ID", help="A user; may be repeated.")] = None,
    file: Annotated[Path | None, typer.Option(metavar="FILE", help="Users, an id on each line.")] = None,
    opt_out: Annotated[
        bool,
        typer.Option("--opt-out", help="Also store nothing of them from now on: they are ranked as unknown users."),
    ] = False,
    config: Config = DEFAULT_CONFIG,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    metrics_file: MetricsFile = None,
) -> None:
    """Delete all that is stored of users, in Redis and in the work folder; they do not come back from the source files.

    Running services forget them within a poll interval. A receipt of each user, in Redis, tells what was removed and
    what is left; a job that is killed is completed by the next one of any kind.
    """
    users = [*(user or ()), *(_ids_of(file) if file is not None else ())]
    if not users:
        raise typer.BadParameter("say --user ID or --file FILE")
    for name in users:
        if fault := id_fault(name):
            raise typer.BadParameter(f"the id {name!r} {ID_DEMANDS[fault]}")
    job = job_of(config, data_dir, metrics=metrics_file)

    def work(run: Run) -> None:
        with open_store(job.data_dir, job.config.name) as store:
            known, now = synchronise(store, job.config.workdir), time.time_ns() // 1_000_000
            tombstones = {
                name: Tombstone(forgotten_ms=now, opted_out=opt_out or known.opted_out(name)) for name in users
            }
            write_tombstones(store, tombstones)  # first: whoever writes something of them now deletes it again
            requests = [JobRequest.new(RequestKind.FORGET, name, _ASKED_BY) for name in tombstones]
            for request in requests:
                write_request(store, request)
            forget_users(run, store, at_once=users)
            for request in requests:
                print(f"  receipt {request.id}")

    carry_out(job, "forget", work)


@app.command(rich_help_panel=LOOK)
def export_user(
    to: Annotated[Path, typer.Argument(help="A .json file, which nobody but you may read.")],
    user: Annotated[str, typer.Option(metavar="ID", help="The user.")],
    config: Config = DEFAULT_CONFIG,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    metrics_file: MetricsFile = None,
) -> None:
    """Write all that is stored of a user, in Redis and in the work folder, to a file that people can read.

    It is what `forget` would delete, store by store. Vectors are told by their shapes. What is not there to be told, as
    the source files, is named at the end.
    """
    if fault := id_fault(user):
        raise typer.BadParameter(f"the id {user!r} {ID_DEMANDS[fault]}")
    job = job_of(config, data_dir, metrics=metrics_file)
    if to.resolve().is_relative_to(job.config.workdir.resolve()):
        raise typer.BadParameter(f"{to} lies in the work folder, where `forget` would not find it: say another folder")

    def work(run: Run) -> None:
        with open_store(job.data_dir, job.config.name) as store, run.step("export") as watch:
            document = export_of(job, store, user)
            _write_privately(to, json.dumps(document, indent=1, ensure_ascii=False) + "\n")
            stored = document["work_folder"]["stored"]
            counts = (f"{len(records):,} {name}" for name, records in sorted(stored.items()) if records)
            watch.done(f"of the work folder: {', '.join(counts) or 'nothing'}; with what is in Redis, in {to}")

    carry_out(job, "export-user", work)


def _write_privately(path: Path, text: str) -> None:
    """Write a file that only its owner may read."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        os.fchmod(descriptor, 0o600)
        file.write(text)


def _ids_of(path: Path) -> list[str]:
    """The lines of a file. DataError if it cannot be read."""
    try:
        return [line for line in path.read_text(encoding="utf-8").splitlines() if line]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as lines of UTF-8: {error}") from error
