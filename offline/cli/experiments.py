"""The jobs around A/B experiments. They read what the service wrote and change nothing that it reads."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from models.contract.requests import ReportKind
from offline.cli.call import DEFAULT_CONFIG, DEFAULT_DATA_DIR, Config, DataDir, job_of, sum_up
from offline.cli.panels import ARMS
from offline.config import DEMO_EXPERIMENTS
from offline.data.catalogue import DataError
from offline.data.files import write_bytes
from offline.jobs.runs import check_owner, exclusive
from offline.jobs.steps import Job
from offline.publish.connection import open_store
from offline.publish.release import refuse_another
from offline.publish.requests import publish_report
from offline.publish.tombstones import Door, forgotten_users

if TYPE_CHECKING:  # it loads polars
    from offline.publish.archive import Archived

app = typer.Typer()


@app.command(rich_help_panel=ARMS)
def exposures(config: Config = DEFAULT_CONFIG, data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """Move what the service logged since the last time, exposures and interactions, from Redis into Parquet files.

    Their streams are capped: run it often enough that nothing is trimmed unread. `lost` counts what was.
    """
    job = job_of(config, data_dir)
    archived = _archive_new(job, "exposures")
    for name, stream in archived.items():
        left_out = f"{stream.refused} not understood, {stream.of_nobody} of nobody, {stream.lost} lost"
        print(f"  {name}: {stream.added} new, {left_out}")
    sum_up({"job": "exposures", **{name: asdict(stream) for name, stream in archived.items()}})


@app.command(rich_help_panel=ARMS)
def ab_report(
    experiment: Annotated[str, typer.Option(help="Name of the experiment.")],
    config: Config = DEFAULT_CONFIG,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    file: Annotated[
        Path, typer.Option(envvar="LORANK_EXPERIMENTS", help="The service's experiments file.")
    ] = DEMO_EXPERIMENTS,
    of_replay: Annotated[
        bool, typer.Option("--replay", help="Of what the last `python -m research replay` logged.")
    ] = False,
    window_hours: Annotated[float, typer.Option(min=0.001, help="How long after its exposure a click counts.")] = 24.0,
    click: Annotated[list[str] | None, typer.Option(help="Types of interactions that are clicks; all of them.")] = None,
    least_value: Annotated[float | None, typer.Option(help="Value from which on an interaction is a click.")] = None,
    planned_units: Annotated[int, typer.Option(min=2, help="Units of all arms that are planned for.")] = 10_000,
    breakdown: Annotated[
        list[str] | None, typer.Option(help="Check the split by release, day or context.KEY; release and day.")
    ] = None,
    without_request: Annotated[
        bool, typer.Option(help="Clicks that name no request count for the unit's latest exposure of the item.")
    ] = False,
    pre_period_days: Annotated[
        float, typer.Option(min=0.001, help="How long before the start CUPED looks at units.")
    ] = 14.0,
    clip: Annotated[float | None, typer.Option(min=0.001, help="Cap of importance weights; none.")] = None,
    html: Annotated[Path | None, typer.Option(metavar="PAGE.html", help="Write one self-contained page.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One line of JSON instead.")] = False,
) -> None:
    """Compare the arms of an experiment by what was shown and clicked. Takes what is new out of the streams first."""
    from models.contract.experiments import read_experiments
    from offline.ab import report
    from offline.ab.analysis import analyse
    from offline.ab.inputs import settings_of
    from offline.publish.archive import of_experiment, read_exposures, read_interactions

    job = job_of(config, data_dir)
    folder = job.config.workdir / "replay" / "exposures" if of_replay else job.config.workdir / "exposures"
    if not of_replay:
        _archive_new(job, "ab-report")
    settings = settings_of(read_experiments(file), experiment, window_hours, click or (), least_value, planned_units)
    changed: dict[str, Any] = {"without_request": without_request, "pre_period_days": pre_period_days, "clip": clip}
    changed |= {"breakdowns": tuple(breakdown)} if breakdown else {}
    logged = read_exposures(folder)
    mine = of_experiment(logged, experiment)
    try:
        settings = settings.model_validate(settings.model_dump(by_alias=True) | changed)
        analysis = analyse(
            mine, read_interactions(folder), settings, logged.join(mine, "request_id", "anti")["request_id"]
        )
    except ValueError as error:
        raise DataError(f"{experiment}: {error}") from error
    if not of_replay:
        with open_store(job.data_dir, job.config.name) as store:
            publish_report(store, ReportKind.AB, experiment, without_units(analysis.document()))
    if html is not None:
        write_bytes(html, report.page(experiment, analysis).encode())
    if as_json:
        sum_up({"experiment": experiment, **analysis.document()})
        return
    print("\n".join(report.lines(experiment, analysis)))


def without_units(document: dict[str, Any]) -> dict[str, Any]:
    """The document of an analysis without the units that it lists by name, who may be users."""
    return document | {"multiple": {**document["multiple"], "listed": []}}


def _archive_new(job: Job, name: str) -> dict[str, Archived]:
    """Take what is new out of the streams, as the job ``name``. DataError and SwitchError if the work folder or the
    live release under the key prefix, whose streams these are, is another configuration's."""
    from offline.publish.archive import archive

    folder = job.config.workdir / "exposures"
    check_owner(job)
    with exclusive(folder, name), open_store(job.data_dir, job.config.name) as store:
        refuse_another(store, job.config.name)
        forgotten = forgotten_users(store, job.config.workdir)
        return archive(store, folder, job.config.data.nobody, Door(forgotten) if forgotten else None)
