"""The jobs around A/B experiments. They read what the service wrote and change nothing that it reads."""

from __future__ import annotations

from dataclasses import asdict

import typer

from offline.cli.endings import sum_up
from offline.cli.options import DEFAULT_CONFIG, DEFAULT_DATA_DIR, Config, DataDir, job_of
from offline.lock import exclusive
from offline.publish.connection import open_store

app = typer.Typer()


@app.command()
def exposures(config: Config = DEFAULT_CONFIG, data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """Move what the service logged since the last time, exposures and interactions, from Redis into Parquet files.

    Their streams are capped: run it often enough that nothing is trimmed unread. `lost` counts what was.
    """
    from offline.publish.archive import archive

    folder = job_of(config, data_dir).config.workdir / "exposures"
    with exclusive(folder, "exposures"), open_store(data_dir) as store:
        found = archive(store, folder)
    for name, one in found.items():
        print(f"  {name}: {one.added} new, {one.refused} not understood, {one.lost} lost")
    sum_up({"job": "exposures", **{name: asdict(one) for name, one in found.items()}})
