"""The job ``tune-reranker``: samples, zero-shot answers, tuning, answers, calibration, and at the end the manifest.

Reads training and validation samples only, of the split of the CTR model that is served: weight and band are fitted
against that model, so whatever keeps them from it is said before anything is tuned. Finished steps are not done again
when the job is started again: answers are kept by prompt, the tuning at its last saved step.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Mapping, Sequence

import numpy as np

from models.contract.arrays import FloatArray
from models.contract.prompts import PromptParts, Selection
from models.contract.reranker import FILE, ITEMS_FILE, RerankerManifest
from offline.data.catalogue import DataError
from offline.data.files import write_bytes, write_json
from offline.jobs.runs import Run
from offline.jobs.steps import Job
from offline.knowledge.run import load_knowledge
from offline.llm.arithmetic import arithmetic_line
from offline.metrics import auc, in_words
from offline.refresh import data
from offline.reranking.calibrate import Mix, fit_mix, probability_of
from offline.reranking.ctr import CtrScores, ctr_scores, refuse_another_live_model, trained_report
from offline.reranking.prepared import SELECTIONS, Prepared, prepare
from offline.reranking.prompting import canaries
from offline.reranking.scoring import Labeller
from offline.reranking.tune import tune
from offline.training.samples import Split

VALIDATION: Split = "validation"

Answers = dict[Selection, FloatArray]
"""Raw log-odds [n] of samples, by the selection of events."""


def tune_reranker(run: Run) -> RerankerManifest:
    """Tune, calibrate and write. DataError if the package peft is not there, if there is no CTR model to fit against,
    or errors of what is absent."""
    require_peft()
    refuse_another_live_model(run.job, trained_report(run.job))
    _, catalogue = data(run)
    with run.step("samples") as watch:
        ready = prepare(run.job, catalogue)
        run.computes_in(arithmetic_line(run.job.config.arithmetic))
        watch.done(
            f"{len(ready.rows('train'))} of {len(ready.splits.rows['train'])} training samples, told in "
            f"{len(SELECTIONS)} ways, {ready.weights.name}"
        )
    with run.step("CTR model") as watch:
        ctr = ctr_of(run.job, ready)
        scores = ctr.of(ready.rows(VALIDATION))
        area = auc(ready.label(ready.rows(VALIDATION)), scores)
        watch.done(f"{ctr.model}, AUC {in_words(area)} on validation samples")
    before = _answers(run, ready, ready.base(), "zero-shot")
    with run.step("tune") as watch:
        losses = _tuned(ready)
        watch.done(f"loss {' '.join(f'{loss:.3f}' for loss in losses)}")
    tuned = ready.tuned()
    after = _answers(run, ready, tuned, "tuned")
    with run.step("calibrate") as watch:
        mix = mix_of(ready, after[ready.prompt.selection], scores)
        metrics = _metrics(ready, before, after, ctr, scores, mix)
        write_json(ready.folder / "tuning.json", {"losses": losses, "metrics": metrics})
        manifest = write_manifest(ready, tuned, ctr, mix, metrics)
        band = "no history" if mix.band is None else f"{mix.band.shortest} to {mix.band.longest or 'any'}"
        watch.done(f"weight {mix.weight}, shown to help with {band} events: {ready.folder / FILE}")
    return manifest


def require_peft() -> None:
    """DataError if the package peft is not there."""
    if importlib.util.find_spec("peft") is None:
        raise DataError("tuning needs the extra: pip install 'lorank[lora]'")


def ctr_of(job: Job, ready: Prepared) -> CtrScores:
    """Scores of the CTR model that was trained last."""
    knowledge = load_knowledge(job.knowledge, job.config.feature_schema, ready.log)
    return ctr_scores(job, ready.catalogue, ready.log, knowledge, ready.report)


def mix_of(ready: Prepared, raw: FloatArray, scores: FloatArray) -> Mix:
    """Calibration, weight and band from raw log-odds [n] and CTR scores [n] of the validation samples."""
    rows = ready.rows(VALIDATION)
    return fit_mix(ready.settings.calibration, raw, scores, ready.label(rows), ready.user(rows), ready.events(rows))


def _answers(run: Run, ready: Prepared, model: Labeller, name: str) -> Answers:
    """Raw log-odds of the validation samples, by the selection of events."""
    rows = ready.rows(VALIDATION)
    with run.step(f"{name}: validation samples") as watch:
        answers = {how: ready.log_odds(model, how, rows, f"{name} {how}") for how in SELECTIONS}
        watch.done(", ".join(f"{how} AUC {in_words(auc(ready.label(rows), raw))}" for how, raw in answers.items()))
        return answers


def _tuned(ready: Prepared) -> list[float]:
    samples = ready.tuning_samples()
    return tune(ready.base(), samples.tokens, samples.answers, ready.settings.tuning, ready.settings.seed, ready.folder)


def _metrics(
    ready: Prepared, before: Answers, after: Answers, ctr: CtrScores, scores: FloatArray, mix: Mix
) -> dict[str, float]:
    """AUCs on the validation samples, by what gave the scores; none if the samples have one label."""
    label = ready.label(ready.rows(VALIDATION))
    areas = {
        **{f"{VALIDATION} AUC, zero-shot {how}": auc(label, raw) for how, raw in before.items()},
        **{f"{VALIDATION} AUC, tuned {how}": auc(label, raw) for how, raw in after.items()},
        f"{VALIDATION} AUC, {ctr.model}": auc(label, scores),
        f"{VALIDATION} AUC, mixed": auc(label, mix.scores(after[ready.prompt.selection], scores)),
    }
    return {name: area for name, area in areas.items() if not np.isnan(area)}


def write_manifest(
    ready: Prepared, tuned: Labeller, ctr: CtrScores, mix: Mix, metrics: Mapping[str, float]
) -> RerankerManifest:
    """The manifest, written to the folder of ``ready`` after the file of items that it names."""

    def answers(prompts: Sequence[PromptParts]) -> FloatArray:
        return probability_of(ready.answers(tuned, prompts, "canaries"))

    items = ready.prompts.items.pack()
    write_bytes(ready.folder / ITEMS_FILE, items)
    manifest = RerankerManifest(
        name=ready.config.name,
        model=tuned.id,
        base=ready.weights.name,
        dtype=ready.dtype,
        prompt=ready.prompt,
        label_ids=ready.labels,
        calibration=mix.calibration,
        weight=mix.weight,
        band=mix.band,
        fitted_to=ctr.fitted_to,
        canaries=canaries(ready.prompts, ready.prompt, ready.settings, answers),
        tolerance=ready.settings.tolerance,
        items=hashlib.sha256(items).hexdigest(),
        item_columns=ready.config.data.texts.item_columns,
        trained_until_ms=int(ready.log.time_ms[: ready.splits.trained_rows].max()),
        metrics=metrics,
    )
    write_bytes(ready.folder / FILE, manifest.model_dump_json(indent=1).encode() + b"\n")
    return manifest
