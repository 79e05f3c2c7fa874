"""The job that tells a team what it would gain, from its own logged impressions. It holds no lock and leaves no line in
the ledger."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from offline.cli.call import DEFAULT_CONFIG, DEFAULT_DATA_DIR, Config, DataDir, job_of
from offline.cli.jobs import data_and_knowledge, trained_last
from offline.cli.panels import LOOK
from offline.data.files import write_json

app = typer.Typer()


def _column(words: str) -> object:
    return typer.Option(metavar="COLUMN", help=f"Column of {words}, where it is not recognised.")


@app.command("compare", rich_help_panel=LOOK)
def compare_impressions(
    impressions: Annotated[
        Path, typer.Option(metavar="FILE", help="Who was shown what, and what was clicked: .csv, .tsv, .parquet, …")
    ],
    user: Annotated[str | None, _column("users")] = None,
    item: Annotated[str | None, _column("items, one in each row or a list in the order shown")] = None,
    time: Annotated[str | None, _column("times")] = None,
    position: Annotated[str | None, _column("places (without one, rows lie in the order shown)")] = None,
    click: Annotated[str | None, _column("clicks, of each item or the clicked ones of a list")] = None,
    propensity: Annotated[str | None, _column("probabilities with which items were put at their places")] = None,
    request: Annotated[str | None, _column("requests (without one, rows of a user and a time are one)")] = None,
    with_trained: Annotated[
        bool, typer.Option("--with-trained", help="Also requests from before the end of the model's training.")
    ] = False,
    most_requests: Annotated[
        int, typer.Option(min=1, max=100_000, help="More requests than these are left out, of users drawn by chance.")
    ] = 20_000,
    to_json: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the numbers there, too.")
    ] = None,
    config: Config = DEFAULT_CONFIG,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Say what you would gain: your own logged impressions, as they were shown and as the model would order them."""
    job = job_of(config, data_dir)
    trained = trained_last(job)
    log, knowledge = data_and_knowledge(job)
    from offline.impressions.role import Role  # polars
    from offline.impressions.run import Question, what_would_be_gained

    columns = {
        Role.USER: user, Role.ITEM: item, Role.TIME: time, Role.POSITION: position, Role.CLICK: click,
        Role.PROPENSITY: propensity, Role.REQUEST: request,
    }  # fmt: skip
    named = {role: column for role, column in columns.items() if column is not None}
    gained = what_would_be_gained(
        job, log, knowledge, trained, Question(impressions, named, with_trained, most_requests)
    )
    print("\n".join(gained.lines()))
    if to_json is not None:
        write_json(to_json, gained.document())
