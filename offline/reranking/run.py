"""The job ``tune-reranker``: samples, zero-shot answers, tuning, answers, calibration, and at the end the manifest.

Reads training and validation samples only. What was finished is found again when the job is started again: answers by
prompt, the tuning at its last saved step, the CTR model by its circumstances.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Sequence

import numpy as np

from models.contract.knowledge import FloatArray
from models.contract.prompts import Blocks, Selection
from models.contract.reranker import FILE, ITEMS_FILE, RerankerManifest, blend
from offline.data.catalogue import DataError
from offline.data.files import write_bytes, write_json
from offline.knowledge.held import held
from offline.refresh import data
from offline.reranking.calibrate import auc, best_weight, fitted, helped, probability_of
from offline.reranking.canaries import canaries
from offline.reranking.ctr import CtrScores, ctr_scores
from offline.reranking.framing import tokens_of
from offline.reranking.prepared import SELECTIONS, Prepared, prepared
from offline.reranking.scoring import Labeller, ScoreStore
from offline.reranking.tune import tune
from offline.runs import Run
from offline.stages import Job

VALIDATION = "validation"

Answers = dict[Selection, FloatArray]
"""Raw log-odds [n] of samples, by the way they are told."""


def tune_reranker(run: Run) -> RerankerManifest:
    """Tune, calibrate and write. DataError if the package peft is not there, or errors of what is absent."""
    if importlib.util.find_spec("peft") is None:
        raise DataError("tuning needs the extra: pip install 'lorank[lora]'")
    source, catalogue = data(run)
    with run.stage("samples") as watch:
        ready = prepared(run.job, source, catalogue)
        watch.done(
            f"{len(ready.rows('train'))} of {len(ready.splits.rows['train'])} training samples, told in "
            f"{len(SELECTIONS)} ways, {ready.weights.name}"
        )
    before = _answers(run, ready, ready.base(), "zero-shot")
    with run.stage("tune") as watch:
        losses = _tuned(ready)
        watch.done(f"loss {' '.join(f'{one:.3f}' for one in losses)}")
    tuned = ready.tuned()
    after = _answers(run, ready, tuned, "tuned")
    with run.stage("CTR model") as watch:
        ctr = ctr_of(run.job, ready)
        watch.done(ctr.model)
    with run.stage("calibrate") as watch:
        manifest = _manifest(ready, tuned, before, after, ctr, losses)
        write_bytes(ready.folder / FILE, manifest.model_dump_json(indent=1).encode() + b"\n")
        band = (
            "no history" if manifest.band is None else f"{manifest.band.shortest} to {manifest.band.longest or 'any'}"
        )
        watch.done(f"weight {manifest.weight}, shown to help with {band} events: {ready.folder / FILE}")
    return manifest


def ctr_of(job: Job, ready: Prepared) -> CtrScores:
    """Scores of the CTR model, trained now if they are not there."""
    knowledge = held(job.knowledge, job.config.feature_schema, ready.log)
    folder = job.config.workdir / "benchmark" / "answers"
    return ctr_scores(job.config, ready.catalogue, ready.log, knowledge, folder)


def _answers(run: Run, ready: Prepared, model: Labeller, name: str) -> Answers:
    """Raw log-odds of the validation samples, by the way they are told."""
    rows = ready.rows("validation")
    with run.stage(f"{name}: validation samples") as watch:
        found = {how: ready.log_odds(model, how, rows, f"{name} {how}") for how in SELECTIONS}
        told = (f"{how} AUC {auc(ready.label(rows), score):.4f}" for how, score in found.items())
        watch.done(", ".join(told))
        return found


def _tuned(ready: Prepared) -> list[float]:
    rows = ready.rows("train")
    blocks = [one for how in SELECTIONS for one in ready.teller.blocks(ready.told(how), rows)]
    yes, no = ready.labels
    answers = np.tile(np.where(ready.label(rows) > 0.5, yes, no), len(SELECTIONS)).astype(np.int64)
    tokens = tokens_of(ready.tokenizer, blocks)
    return tune(ready.base(), tokens, answers, ready.settings.tuning, ready.settings.seed, ready.folder)


def _manifest(
    ready: Prepared,
    tuned: Labeller,
    before: Answers,
    after: Answers,
    ctr: CtrScores,
    losses: list[float],
) -> RerankerManifest:
    settings, rows, how = ready.settings, ready.rows("validation"), ready.prompt.selection
    label, scores = ready.label(rows), ctr.of(rows)
    calibration = fitted(settings.calibration, after[how], label)
    odds = calibration.log_odds(after[how])
    weight = best_weight(label, scores, odds)
    mixed = blend(scores, odds, weight)
    band = helped(label, ready.user(rows), ready.events(rows), scores, mixed) if weight > 0 else None

    def answers(blocks: Sequence[Blocks]) -> FloatArray:
        store = ScoreStore(ready.folder / "scores")
        return probability_of(store.log_odds(tuned, ready.labels, blocks, "canaries"))

    items = ready.teller.items.pack()
    write_bytes(ready.folder / ITEMS_FILE, items)
    metrics = {
        **{f"{VALIDATION} AUC, zero-shot {one}": auc(label, score) for one, score in before.items()},
        **{f"{VALIDATION} AUC, tuned {one}": auc(label, score) for one, score in after.items()},
        f"{VALIDATION} AUC, {ctr.model}": auc(label, scores),
        f"{VALIDATION} AUC, mixed": auc(label, mixed),
    }
    write_json(ready.folder / "tuning.json", {"losses": losses, "metrics": metrics})
    last = int(ready.log.time_ms[: ready.splits.trained_rows].max())
    return RerankerManifest(
        name=ready.config.name,
        model=tuned.id,
        base=ready.weights.name,
        dtype=ready.dtype,
        prompt=ready.prompt,
        label_ids=ready.labels,
        calibration=calibration,
        weight=weight,
        band=band,
        canaries=canaries(ready.teller, ready.prompt, settings.canaries, settings.candidates, settings.seed, answers),
        tolerance=settings.tolerance,
        items=hashlib.sha256(items).hexdigest(),
        trained_until_ms=last,
        metrics=metrics,
    )
