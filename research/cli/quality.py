"""Studies of the models' quality beside others: docs/quality.md, docs/reranking.md, and the table of the README.

They change nothing that is served. Trainings take hours; finished ones are found again when a study is repeated.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from offline.cli.call import DEFAULT_CONFIG, DEFAULT_DATA_DIR, Config, DataDir, job_of
from offline.cli.panels import WORTH
from offline.cli.tuning import Epochs, Model, Samples, sized
from offline.data.dataset import open_dataset
from offline.jobs.llm_requests import data_of
from research.cli.options import CORES, Workers, Write
from research.data_set import data_set_of
from research.tables import ledger_of, write_table

app = typer.Typer()

_LONG_PEERS = (
    "Train ETA and SDIM with 128 and 256 events too, one seed each: four hours of a core on MovieLens-1M. They are "
    "trained, too, if --only names one of them."
)


@app.command(rich_help_panel=WORTH)
def benchmark(
    config: Config = DEFAULT_CONFIG,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each of our models.")] = 5,
    peer_seeds: Annotated[int, typer.Option(min=0, help="Trainings of every peer.")] = 3,
    only: Annotated[str, typer.Option(help='Train and judge only models whose name contains this, as "ETA".')] = "",
    long_peers: Annotated[bool, typer.Option("--long-peers", help=_LONG_PEERS)] = False,
    validation: Annotated[bool, typer.Option(help="Judge on the validation split: no look at the test split.")] = False,
    workers: Workers = CORES,
    write: Write = None,
) -> None:
    """Compare our model with its peers, trained with their own code on the same samples: docs/quality.md.

    A part that --only names needs no more than this part reads: knowledge for ours alone, FuxiCTR or LightGBM for peers
    that are theirs.
    """
    from offline.knowledge.run import load_knowledge
    from research.quality import evaluate, plot, report, run, trainings
    from research.quality.evaluation import EvaluatedSplit

    job = job_of(config, data_dir)
    catalogue, log = data_set_of(job)
    knowledge = load_knowledge(job.knowledge, job.config.feature_schema, log)
    folder = job.config.workdir / "benchmark"
    bench = run.Bench(job.config, catalogue, log, knowledge, folder / "answers")
    planned = trainings.trainings(job.config, knowledge, seeds, peer_seeds, only, long_peers)
    trained = run.run(bench, planned, workers)
    split: EvaluatedSplit = "validation" if validation else "test"
    ledger = None if validation else ledger_of(write, f"benchmark --config {config}")
    evaluation = evaluate.evaluate(
        job.config.name, trained, log, bench.splits(), split=split, ledger=ledger, cache=folder / "judged",
    )  # fmt: skip
    evaluation.save(folder / f"{split}.json")
    if write is not None:
        plot.draw(evaluation, write.parent / "figures", f"quality-{job.config.name}")
    figures = f"figures/quality-{job.config.name}"
    write_table(
        report.marker(evaluation), report.page_section(evaluation, figures, ledger.path.name if ledger else ""), write
    )


@app.command(rich_help_panel=WORTH)
def comparison(config: Config = DEFAULT_CONFIG, data_dir: DataDir = DEFAULT_DATA_DIR, write: Write = None) -> None:
    """Train the served architecture with and without knowledge, and the others beside it: the table of README.md.

    Looks at the test split, as every training does for its report. A quarter of an hour on two cores.
    """
    from offline.knowledge.run import load_knowledge
    from offline.training.report import markdown
    from offline.training.run import train

    job = job_of(config, data_dir)
    catalogue, log = data_of(job)
    knowledge = load_knowledge(job.knowledge, job.config.feature_schema, log)
    training = job.config.training.model_copy(update={"compare": True})
    comparing = job.config.model_copy(update={"training": training})
    report = train(comparing, catalogue, log, knowledge, job.config.workdir / "comparison")
    write_table(f"comparison {job.config.name}", markdown(report.table), write)


@app.command(rich_help_panel=WORTH)
def candidates(
    config: Config = DEFAULT_CONFIG,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each network; trees are trained once.")] = 2,
    beside: Annotated[Path | None, typer.Option(help="Configuration whose model the default is compared with.")] = None,
    write: Write = None,
) -> None:
    """Train every candidate of `served = "auto"` in full and compare them with the trees: docs/quality.md.

    Chooses first, as a first refresh does, and then looks at the test split. Reads the knowledge that is there.
    """
    from offline.knowledge.run import load_knowledge
    from research.studies.candidates import other_model, train_candidates

    job = job_of(config, data_dir)
    catalogue, log = data_of(job)
    knowledge = load_knowledge(job.knowledge, job.config.feature_schema, log)
    ledger = ledger_of(write, f"candidates --config {config}")
    folder = job.config.workdir / "candidates"
    study = train_candidates(job.config, catalogue, log, knowledge, seeds, folder, ledger)
    if beside is not None:
        study = replace(study, other=other_model(job_of(beside, data_dir), study.label))
    write_table(f"candidates {job.config.name}", study.markdown(), write)


@app.command(rich_help_panel=WORTH)
def shop(folder: Annotated[Path, typer.Argument(help="Where purchases.csv and products.csv are written.")]) -> None:
    """Write the files of a made-up shop, whose customers buy some products again and again."""
    from research.retail import Shop, write_shop

    print(f"{write_shop(Shop(), folder):,} purchases in {folder}")


@app.command(rich_help_panel=WORTH)
def reranking(
    config: Config = DEFAULT_CONFIG,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    samples: Samples = None,
    epochs: Epochs = None,
    model: Model = None,
    write: Write = None,
) -> None:
    """Judge the tuned reranker on drawn test samples, alone and mixed with the CTR model: docs/reranking.md.

    Say the same sizes as when it was tuned. What is scored is noted in docs/test-looks.jsonl.
    """
    from models.contract.reranker import FILE, RerankerManifest
    from offline.reranking.prepared import prepare
    from offline.reranking.run import ctr_of
    from research.reranking import evaluation, report

    job = sized(job_of(config, data_dir), samples, epochs, model)
    source = open_dataset(job.config.data, job.raw)
    source.fetch()
    ready = prepare(job, source.catalogue())
    tuned = ready.tuned()
    manifest = RerankerManifest.from_json((ready.folder / FILE).read_bytes())
    ledger = ledger_of(write, f"reranking --config {config}")
    result = evaluation.evaluate_reranker(ready, tuned, manifest, ctr_of(job, ready), ledger)
    result.save(ready.folder / "judged.json")
    write_table(report.marker(result), report.page_section(result), write)


@app.command(rich_help_panel=WORTH)
def unlearning(
    config: Config = DEFAULT_CONFIG,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    samples: Samples = None,
    epochs: Epochs = None,
    model: Model = None,
    write: Write = None,
) -> None:
    """Judge what the tuned reranker forgets: a fifth of its users unlearned, beside tuning anew without them.

    Say the same sizes as when it was tuned. What is scored is noted in docs/test-looks.jsonl.
    """
    from offline.jobs.runs import Run
    from offline.reranking.prepared import prepare
    from research.reranking.unlearning import judge_unlearning

    job = sized(job_of(config, data_dir), samples, epochs, model)
    source = open_dataset(job.config.data, job.raw)
    source.fetch()
    ready, folder = prepare(job, source.catalogue()), job.config.workdir / "unlearning"
    with Run(job, "unlearn-reranker").working() as run:
        study = judge_unlearning(run, ready, folder, ledger_of(write, f"unlearning --config {config}"))
    study.save(folder / "judged.json")
    write_table(f"unlearning {study.name}", study.markdown(), write)
