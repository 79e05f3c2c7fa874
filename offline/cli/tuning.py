"""Language models tuned to the data set: the reranker's (docs/reranking.md), and the one MARC reads (docs/marc.md)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from offline.cli.call import DEFAULT_CONFIG, DEFAULT_DATA_DIR, Config, DataDir, MetricsFile, carry_out, job_of
from offline.cli.panels import TUNE
from offline.forgetting.run import forget_users
from offline.jobs.llm_requests import data_of, inputs_of
from offline.jobs.runs import Run
from offline.jobs.steps import Job
from offline.publish.connection import store_if_there

app = typer.Typer()

Samples = Annotated[
    int | None, typer.Option(min=1, help="Training samples, each told in two ways; default: the configuration's.")
]
Epochs = Annotated[int | None, typer.Option(min=1, help="Times that each is learned from.")]
Model = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", help="A transformers folder or a GGUF file to tune, not the packaged one."),
]


@app.command(rich_help_panel=TUNE)
def tune_reranker(
    config: Config = DEFAULT_CONFIG,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    samples: Samples = None,
    epochs: Epochs = None,
    model: Model = None,
    metrics_file: MetricsFile = None,
) -> None:
    """Tune a language model to rerank (ReLLa's way) and calibrate it; its manifest lies beside the checkpoint.

    The CTR model must be trained already (`refresh`): calibration, weight and band are fitted against it. The defaults
    are for the packaged small model on a CPU. A larger model wants a GPU and the extra `lora`.
    """
    from offline.reranking.run import tune_reranker as tune

    job = sized(job_of(config, data_dir, metrics=metrics_file), samples, epochs, model)

    def work(run: Run) -> None:
        with store_if_there(job.data_dir, job.config.name) as store:
            forget_users(run, store)
        tune(run)

    carry_out(job, "tune-reranker", work)


@app.command(rich_help_panel=TUNE)
def unlearn_reranker(
    users: Annotated[Path, typer.Option(metavar="FILE", help="Ids of the users to forget, one on each line.")],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where the reranker goes; must not be there yet.")],
    config: Config = DEFAULT_CONFIG,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    samples: Samples = None,
    epochs: Epochs = None,
    model: Model = None,
    metrics_file: MetricsFile = None,
) -> None:
    """Let the tuned reranker forget what it was tuned on of some users (E2URec's way), into a folder beside it.

    Say the same sizes as when it was tuned, and before the log forgets the users. `unlearning.json` in the new folder
    says what came of it: whether losses still tell their samples from those of users that tuning did not see.
    """
    from offline.reranking.unlearn import read_users
    from offline.reranking.unlearn import unlearn_reranker as work

    job, named = sized(job_of(config, data_dir, metrics=metrics_file), samples, epochs, model), read_users(users)
    carry_out(job, "unlearn-reranker", lambda run: work(run, named, out))


@app.command(rich_help_panel=TUNE)
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
    from offline.knowledge.marc.adapt import AdaptationConfig, adapt_model
    from offline.llm.arithmetic import arithmetic_line

    job = job_of(config, data_dir)
    catalogue, log = data_of(job)
    print(f"  arithmetic: {arithmetic_line(job.config.arithmetic)}")
    marc = job.config.knowledge.marc
    adaptation = AdaptationConfig(
        depth=marc.depth, max_tokens=marc.max_tokens, steps=steps, rank=rank, precision=job.config.arithmetic
    )
    with inputs_of(job, catalogue, log, "marc") as inputs:
        pairs = adapt_model(inputs, out, adaptation)
    print(f"{out}: adapted in {steps} steps to {pairs} interactions of the training period")


def sized(job: Job, samples: int | None, epochs: int | None, model: Path | None) -> Job:
    """The job with what the command line says in place of its configuration."""
    given = {name: value for name, value in (("samples", samples), ("epochs", epochs)) if value is not None}
    tuning = job.config.reranking.tuning.model_copy(update=given)
    update = {"tuning": tuning} | ({} if model is None else {"model": model})
    settings = job.config.reranking.model_copy(update=update)
    return replace(job, config=job.config.model_copy(update={"reranking": settings}))
