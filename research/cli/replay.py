"""The test period sent to a service of its own, as an experiment: docs/ab.md."""

from __future__ import annotations

import shutil
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from offline.cli.call import DEFAULT_CONFIG, DEFAULT_DATA_DIR, Config, DataDir, job_of, sum_up
from offline.cli.panels import REPLAY
from offline.jobs.runs import exclusive

app = typer.Typer()


@app.command(rich_help_panel=REPLAY)
def replay(
    config: Config = DEFAULT_CONFIG,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    requests: Annotated[int, typer.Option(min=1, help="How many interactions of the test period to send.")] = 2000,
    rate: Annotated[
        float | None, typer.Option(min=0.01, help="Requests per second at most; as fast as it goes.")
    ] = None,
    others: Annotated[int, typer.Option(min=1, help="Candidates beside the item that was really taken.")] = 49,
    top_k: Annotated[int, typer.Option(min=1, help="How many are shown.")] = 10,
    experiments: Annotated[Path | None, typer.Option(help="Experiments file; the demo's without it.")] = None,
    seed: Annotated[int, typer.Option(help="Of the other candidates.")] = 1,
) -> None:
    """Drive a service with what users really did in the test period, in order, and log what comes of it.

    The service is started here, under a key prefix and in a data folder of its own, with everything as it was when the
    period began. What it logs lies in workdir/replay/exposures afterwards; `ab-report --replay` reads it.
    """
    import asyncio

    from offline import demo
    from offline.data.log import InteractionLog
    from offline.publish.archive import add_interactions, archive
    from offline.publish.erasure import empty
    from research import replay as driver

    job = driver.replay_job(job_of(config, data_dir))
    folder = job.config.workdir / "replay"
    with exclusive(folder, "replay"), driver.replay_store(job) as store:
        try:
            shutil.rmtree(folder / "exposures", ignore_errors=True)  # of the replay before
            visits = driver.begin(job, store, requests, others, seed)
            past = driver.past(InteractionLog.load(job.log), job.config.samples, round(time.time() * 1000))
            add_interactions(folder / "exposures", past)
            settings = {"LORANK_KEY_PREFIX": store.keys.prefix, **demo.experiments(experiments)}
            with demo.running_service(job, 0, settings) as service:
                outcome = asyncio.run(driver.replay(service.url, visits, top_k, rate))
                outcome.dropped = driver.dropped(service.url)
            archived = archive(store, folder / "exposures", job.config.data.nobody)
        finally:
            # Or users would be there whom nobody looks for, and a service on the same Redis would count it among its
            # configurations.
            empty(store, store.keys.prefix)
    print(f"  {outcome.requests} requests in {outcome.seconds:.1f} s, {outcome.shown} with the item in the list")
    if outcome.dropped:
        print(f"  {outcome.dropped} exposures were dropped, because Redis did not take them")
    sum_up({"job": "replay", **outcome.document(), **{name: asdict(entries) for name, entries in archived.items()}})
