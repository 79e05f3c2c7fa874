"""Studies: what each method is worth, measured with the served model, and MARC's adapted language model.

They change nothing that is served. Those that train take hours, and find what they finished before when they are
started again.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from offline.analysis.studied import data_of, data_set_of, sources_of
from offline.cli.options import DEFAULT_CONFIG, DEFAULT_DATA_DIR, Config, DataDir, job_of
from offline.data.catalogue import DataError
from offline.data.files import write_bytes

app = typer.Typer()

Seeds = Annotated[int, typer.Option(min=1, help="Trainings of every variant.")]
Write = Annotated[
    Path | None, typer.Option(metavar="PAGE.md", help="Put the table into this page, between its markers.")
]

Workers = Annotated[int, typer.Option(min=1, help="Trainings at once, each on a core of its own.")]
_CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@app.command()
def ablation(
    config: Config = DEFAULT_CONFIG,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    seeds: Seeds = 5,
    workers: Workers = _CORES,
    write: Write = None,
) -> None:
    """Compare the model without knowledge, with plain text, with each method and with all: docs/knowledge.md."""
    from offline.analysis import ablation as study
    from offline.knowledge.held import held

    job = job_of(config, data_dir)
    catalogue, log = data_of(job)
    knowledge = held(job.knowledge, job.config.feature_schema, log)
    folder = job.config.workdir / "ablation"
    found = study.run_ablation(job.config, catalogue, log, knowledge, seeds, folder, workers)
    found.save(folder / "results.json")
    tell(f"ablation {job.config.name}", study.markdown(found), write)


@app.command()
def benchmark(
    config: Config = DEFAULT_CONFIG,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each of our models.")] = 5,
    peer_seeds: Annotated[int, typer.Option(min=0, help="Trainings of every peer.")] = 3,
    only: Annotated[str, typer.Option(help="Train and judge only models whose name contains this.")] = "",
    validation: Annotated[bool, typer.Option(help="Judge on the validation split: no look at the test split.")] = False,
    workers: Workers = _CORES,
    write: Write = None,
) -> None:
    """Compare our model with its peers, trained with their own code on the same samples: docs/quality.md."""
    from offline.benchmark import judge, plan, plot, report, run
    from offline.benchmark.judged import Judgeable
    from offline.knowledge.held import held

    job = job_of(config, data_dir)
    catalogue, log = data_set_of(job)
    knowledge = held(job.knowledge, job.config.feature_schema, log)
    folder = job.config.workdir / "benchmark"
    bench = run.Bench(job.config, catalogue, log, knowledge, folder / "answers")
    wanted = [one for one in plan.trainings(job.config, knowledge, seeds, peer_seeds) if only in one.label]
    trained = run.run(bench, wanted, workers)
    split: Judgeable = "validation" if validation else "test"
    ledger = None if validation else (write.parent if write else Path("docs")) / "test-looks.jsonl"
    judged = judge.judge(
        job.config.name, trained, log, bench.splits(), split=split, ledger=ledger,
        command=f"benchmark --config {config}", cache=folder / "judged",
    )  # fmt: skip
    judged.save(folder / f"{split}.json")
    if write is not None:
        plot.draw(judged, write.parent / "figures", f"quality-{job.config.name}")
    figures = f"figures/quality-{job.config.name}"
    tell(report.marker(judged), report.markdown(judged, figures, ledger.name if ledger else ""), write)


@app.command()
def compression(
    config: Config = DEFAULT_CONFIG,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    seeds: Seeds = 5,
    workers: Workers = _CORES,
    write: Write = None,
) -> None:
    """Compare MARC with other compressions of the same hidden states, by the model that reads them: docs/marc.md."""
    from offline.analysis import compression as study
    from offline.knowledge.marc.produce import read_states

    job = job_of(config, data_dir)
    catalogue, log = data_of(job)
    with sources_of(job, catalogue, log, "marc") as sources:
        states = read_states(sources)
    folder = job.config.workdir / "compression"
    found = study.compare(job.config, catalogue, log, states, folder, seeds=seeds, workers=workers)
    found.save(folder / "results.json")
    tell(f"compression {job.config.name}", study.markdown(found), write)


@app.command()
def retrieval(config: Config = DEFAULT_CONFIG, data_dir: DataDir = DEFAULT_DATA_DIR, write: Write = None) -> None:
    """How much of what users like next is among the candidates of each source, on the validation split:
    docs/retrieval.md."""
    from offline.knowledge.held import held
    from offline.retrieval import hits as study

    job = job_of(config, data_dir)
    _, log = data_of(job)
    found = study.hits(job.config, log, held(job.knowledge, job.config.feature_schema, log))
    tell(f"retrieval {job.config.name}", study.markdown(found), write)


@app.command()
def layers(
    config: Config = DEFAULT_CONFIG,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    seeds: Seeds = 2,
    write: Write = None,
) -> None:
    """Compress the language model's states at four depths, and judge them within the training period: docs/marc.md."""
    from offline.analysis import layers as study
    from offline.knowledge.marc.produce import states_at

    job = job_of(config, data_dir)
    catalogue, log = data_of(job)
    with sources_of(job, catalogue, log, "marc") as sources:
        states = states_at(sources, study.DEPTHS)
    found = study.sweep(job.config, log, states, range(seeds))
    found.save(job.config.workdir / "layers.json")
    tell(f"layers {job.config.name}", study.markdown(found), write)


@app.command()
def adapt(
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where the adapted model goes.")],
    config: Config = DEFAULT_CONFIG,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    steps: Annotated[int, typer.Option(min=1, help="Batches to learn from.")] = 200,
    rank: Annotated[int, typer.Option(min=1, help="Of the low-rank updates.")] = 8,
) -> None:
    """Adapt MARC's language model to the training period by low-rank updates (LoRA); better with a GPU.

    `[knowledge.marc] model = "FOLDER"` then reads the result, which makes a new space.
    """
    from offline.knowledge.marc.adapt import AdaptationConfig
    from offline.knowledge.marc.adapting import adapt_model

    job = job_of(config, data_dir)
    catalogue, log = data_of(job)
    marc = job.config.knowledge.marc
    adaptation = AdaptationConfig(
        depth=marc.depth, max_tokens=marc.max_tokens, steps=steps, rank=rank, precision=job.config.arithmetic
    )
    with sources_of(job, catalogue, log, "marc") as sources:
        pairs = adapt_model(sources, out, adaptation)
    print(f"{out}: adapted in {steps} steps to {pairs} interactions of the training period")


@app.command()
def factors(config: Config = DEFAULT_CONFIG, data_dir: DataDir = DEFAULT_DATA_DIR, write: Write = None) -> None:
    """Report on AutoGraph's latent factors, and name them by the words of their members: docs/autograph.md."""
    from offline.analysis import factors as study

    job = job_of(config, data_dir)
    catalogue, log = data_of(job)
    with sources_of(job, catalogue, log, "autograph") as sources:
        found = study.report(sources)
    tell(f"factors {job.config.name}", study.markdown(found), write)


def tell(name: str, table: str, page: Path | None) -> None:
    """Print a table, and put it into a page between its markers. DataError if the page has no place for it."""
    print(table)
    if page is None:
        return
    text = page.read_text(encoding="utf-8")
    start, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    if text.count(start) != 1 or text.count(end) != 1:
        raise DataError(f"{page} has no place for the table: it needs the lines {start.strip()} and {end}")
    before, rest = text.split(start)
    write_bytes(page, f"{before}{start}{table}\n{end}{rest.split(end)[1]}".encode())
