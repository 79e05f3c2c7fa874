"""Tuning the reranker, which is a run like any other job's, and judging it, which is a study: docs/reranking.md."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from offline.cli.endings import carry_out
from offline.cli.options import DEFAULT_CONFIG, DEFAULT_DATA_DIR, Config, DataDir, MetricsFile, job_of
from offline.cli.studies import Write, tell
from offline.data.source import open_source
from offline.stages import Job

app = typer.Typer()

Samples = Annotated[
    int | None, typer.Option(min=1, help="Training samples, each told in two ways; default: the configuration's.")
]
Epochs = Annotated[int | None, typer.Option(min=1, help="Times that each is learned from.")]
Model = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", help="A transformers folder or a GGUF file to tune, not the packaged one."),
]


@app.command()
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
    from offline.reranking.run import tune_reranker as work

    job = sized(job_of(config, data_dir, metrics=metrics_file), samples, epochs, model)
    carry_out(job, "tune-reranker", work)


@app.command()
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
    from offline.reranking import judging, report
    from offline.reranking.prepared import prepared
    from offline.reranking.run import ctr_of

    job = sized(job_of(config, data_dir), samples, epochs, model)
    source = open_source(job.config.data, job.raw)
    source.fetch()
    ready = prepared(job, source.catalogue())
    tuned = ready.tuned()
    manifest = RerankerManifest.from_json((ready.folder / FILE).read_bytes())
    ledger = (write.parent if write else Path("docs")) / "test-looks.jsonl"
    judged = judging.judge(ready, tuned, manifest, ctr_of(job, ready), ledger, f"reranking --config {config}")
    judged.save(ready.folder / "judged.json")
    tell(report.marker(judged), report.markdown(judged), write)


def sized(job: Job, samples: int | None, epochs: int | None, model: Path | None) -> Job:
    """The job with what the command line says in place of its configuration."""
    from dataclasses import replace

    given = {name: value for name, value in (("samples", samples), ("epochs", epochs)) if value is not None}
    tuning = job.config.reranking.tuning.model_copy(update=given)
    update = {"tuning": tuning} | ({} if model is None else {"model": model})
    settings = job.config.reranking.model_copy(update=update)
    return replace(job, config=job.config.model_copy(update={"reranking": settings}))
