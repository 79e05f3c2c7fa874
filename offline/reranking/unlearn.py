"""The job: a tuned reranker unlearns the samples of some users, into a folder beside the one it comes from.

What it was tuned on is not stored: seed, configuration, log and split give the samples again, and the digest of the
tuning proves that they are those. So a reranker is unlearned before the log forgets, and before the CTR model is
trained on a longer one; afterwards `tune-reranker` tunes it again, without the users. The new folder is served as the
old one is. Calibration, weight and band are fitted anew, and no sample of a forgotten user takes part in them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from models.contract.arrays import FloatArray, IntArray
from models.contract.ids import ID_DEMANDS, id_fault
from offline.data.catalogue import DataError
from offline.data.files import read_json, write_folder, write_json
from offline.jobs.runs import Run
from offline.llm.arithmetic import arithmetic_line
from offline.metrics import auc
from offline.refresh import data
from offline.reranking.calibrate import fit_mix
from offline.reranking.ctr import CtrScores, refuse_another_live_model, trained_report
from offline.reranking.prepared import Prepared, TuningSamples, prepare
from offline.reranking.run import VALIDATION, ctr_of, require_peft, write_manifest
from offline.reranking.scoring import Labeller
from offline.reranking.teachers import unlearn
from offline.reranking.tune import ADAPTER, DONE, MODEL, circumstances_of, save_tuned
from offline.training.bootstrap import Resamples, difference, interval

REPORT = "unlearning.json"
UNSEEN_SAMPLES = 300
"""Most samples of users that tuning did not see, beside which those to forget are judged; as many as those, if more."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure and the bounds of its 95 % interval over users; NaN where it is undefined."""

    middle: float
    low: float
    high: float

    def __str__(self) -> str:
        return "undefined" if math.isnan(self.middle) else f"{self.middle:.4f} [{self.low:.4f}, {self.high:.4f}]"


@dataclass(frozen=True, slots=True)
class BeforeAfter:
    """A figure of the tuned model, of the one that forgot, and the second minus the first, paired."""

    before: Estimate
    after: Estimate
    difference: Estimate

    @classmethod
    def of(cls, measure: Resamples, before: FloatArray, after: FloatArray) -> BeforeAfter:
        """AUCs of two models' scores [n] of the samples of ``measure``."""
        areas = measure.auc(before), measure.auc(after)
        delta = difference(areas[1], areas[0])
        first, second = (Estimate(float(area[0]), *interval(area[1:])) for area in areas)
        return cls(first, second, Estimate(delta.middle, delta.low, delta.high))


@dataclass(frozen=True, slots=True)
class UnlearningReport:
    """A reranker that forgot; names no user.

    users       so many were named, of whom ``unknown`` are not in the log and ``tuned_on`` have tuning samples
    forgotten   tuning samples of theirs, and ``retained`` those of the others; ``unseen`` those of users that tuning
                did not see
    membership  AUC of telling forgotten samples from unseen ones by the loss of the answer; .5 tells nothing
    validation  AUC on the validation samples of users who stay
    divergence  mean KL to the forget teacher, in nats, of each pass
    processor_seconds  of unlearning itself, teachers included
    """

    tuned: str
    unlearned: str
    users: int
    unknown: int
    tuned_on: int
    forgotten: int
    retained: int
    unseen: int
    membership: BeforeAfter
    validation: BeforeAfter
    divergence: tuple[float, ...]
    processor_seconds: float

    def save(self, path: Path) -> None:
        write_json(path, _without_nan(asdict(self)))


@dataclass(frozen=True, slots=True)
class Parting:
    """Samples by whether their users leave; all are log rows.

    leaving              users of the log, as its indices
    forgotten, retained  tuning samples
    unseen               samples of users who stay and have no tuning samples (``unseen_samples``)
    judged               validation samples of users who stay
    """

    leaving: IntArray
    forgotten: IntArray
    retained: IntArray
    unseen: IntArray
    judged: IntArray

    @classmethod
    def of(cls, ready: Prepared, users: Collection[str]) -> Parting:
        """Of the users with these ids, as far as the log knows them."""
        named = set(users)
        leaving = np.array([at for at, user in enumerate(ready.log.user_ids) if user in named], np.int64)
        rows, judged = ready.rows("train"), ready.rows(VALIDATION)
        leaves = np.isin(ready.user(rows), leaving)
        return cls(
            leaving,
            rows[leaves],
            rows[~leaves],
            unseen_samples(ready, rows, leaving, int(leaves.sum())),
            judged[~np.isin(ready.user(judged), leaving)],
        )


def unlearn_reranker(run: Run, users: Collection[str], out: Path) -> UnlearningReport | None:
    """Write ``out``, whole or not at all; None, and nothing is written, if no tuning sample is of these ids ``users``.

    DataError if ``out`` is there already, if nothing is tuned, if log and configuration no longer give the samples that
    it was tuned on, if all of them or all validation samples are of these users, and as for tuning.
    """
    require_peft()
    if out.exists():
        raise DataError(f"{out} is there already, and nothing is unlearned in place: name a folder that is not")
    refuse_another_live_model(run.job, trained_report(run.job))
    _, catalogue = data(run)
    with run.step("samples") as watch:
        ready = prepare(run.job, catalogue)
        run.computes_in(arithmetic_line(run.job.config.arithmetic))
        samples = ready.tuning_samples()
        refuse_other_samples(ready, samples)
        parting, named = Parting.of(ready, users), len(set(users))
        owners, unknown = len(np.unique(ready.user(parting.forgotten))), named - len(parting.leaving)
        watch.done(
            f"{len(parting.forgotten)} of {len(ready.rows('train'))} tuning samples, of {owners} of {named} users"
            + (f"; {unknown} of them are not in the log" if unknown else "")
        )
    if not len(parting.forgotten):
        print(f"  nothing to unlearn: {ready.folder / ADAPTER} was tuned on no sample of these users", flush=True)
        return None
    if not len(parting.retained):
        raise DataError(
            f"all tuning samples of {ready.folder} are of these users, and nothing would stay of it: delete the "
            "folder, and tune again (`tune-reranker`) once the log has forgotten them"
        )
    if not len(parting.judged):
        raise DataError(
            "all validation samples are of these users, and none would be left to calibrate on: raise [reranking] "
            "validation_rows, or tune again (`tune-reranker`) once the log has forgotten them"
        )
    with run.step("CTR model") as watch:
        ctr = ctr_of(run.job, ready)
        watch.done(ctr.model)
    with run.step("tuned model") as watch:
        before = _Judged.of(ready, parting)
        watch.done(f"{len(before.losses)} samples of forgotten and unseen users, {len(parting.judged)} for validation")
    with run.step("unlearn") as watch:
        base, started = ready.base(), time.process_time()
        leaves = np.isin(samples.rows, parting.forgotten)
        tuning, seed = ready.settings.tuning, ready.settings.seed
        model, divergence = unlearn(base, ready.folder / ADAPTER, samples.tokens, samples.answers, leaves, tuning, seed)
        seconds = time.process_time() - started
        watch.done(f"KL to the forget teacher {' '.join(f'{part:.3f}' for part in divergence)}")
    reports: list[UnlearningReport] = []

    def write(partial: Path) -> None:
        save_tuned(base, model, partial)
        beside = ready.beside(partial)
        after = _Judged.of(beside, parting)
        membership, validation = before.compared(after, beside, parting)
        _write_manifest(beside, after, parting.judged, ctr)
        report = UnlearningReport(
            tuned=before.model.id,
            unlearned=after.model.id,
            users=named,
            unknown=unknown,
            tuned_on=owners,
            forgotten=len(parting.forgotten),
            retained=len(parting.retained),
            unseen=len(parting.unseen),
            membership=membership,
            validation=validation,
            divergence=tuple(divergence),
            processor_seconds=seconds,
        )
        report.save(partial / REPORT)
        reports.append(report)

    with run.step("calibrate") as watch:
        write_folder(out, write)
        (report,) = reports
        watch.done(
            f"{out}: membership AUC {report.membership.before} before, {report.membership.after} after; validation AUC "
            f"{report.validation.before} before, {report.validation.after} after"
        )
    print(f"  {ready.folder} is as it was, and knows them: serve {out} in its place, then delete it", flush=True)
    return report


def read_users(path: Path) -> list[str]:
    """Ids of users from a file with one on each line. DataError for what is no id, and for a file without any."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no UTF-8: write one id of a user on each line") from error
    for number, line in enumerate(lines, 1):
        if line.strip() and (fault := id_fault(line)) is not None:
            raise DataError(f"{path}, line {number}: an id {ID_DEMANDS[fault]}")
    users = [line for line in lines if line.strip()]
    if not users:
        raise DataError(f"{path} names no user: write one id on each line")
    return users


def refuse_other_samples(ready: Prepared, samples: TuningSamples) -> None:
    """DataError unless the model in ``ready.folder`` was tuned on exactly these samples, in whichever arithmetic."""
    folder = ready.folder
    if not ((folder / DONE).is_file() and (folder / MODEL).is_dir() and (folder / ADAPTER).is_dir()):
        raise DataError(f"nothing is tuned in {folder}, so there is nothing to unlearn")
    tuning, seed = ready.settings.tuning, ready.settings.seed
    possible = {
        circumstances_of(f"{ready.weights.name}/{dtype}", samples.tokens, samples.answers, tuning, seed)
        for dtype in ("float32", "bfloat16")
    }
    if read_json(folder / DONE)["circumstances"] not in possible:
        raise DataError(
            f"{folder} was not tuned on the samples that log and configuration give now (they changed since, or the "
            "log has forgotten somebody already): tune it again (`tune-reranker`), without who is not in the log"
        )


def unseen_samples(ready: Prepared, tuned: IntArray, leaving: IntArray, count: int) -> IntArray:
    """Log rows, rising, of samples of users without any tuning sample (rows ``tuned``) who are not ``leaving`` either:
    ``count`` or ``UNSEEN_SAMPLES`` of the training and validation splits, whichever is more, or all if fewer."""
    rows = np.concatenate([ready.splits.rows["train"], ready.splits.rows[VALIDATION]])
    rows = rows[~np.isin(ready.user(rows), np.concatenate([ready.user(tuned), leaving]))]
    draw = np.random.default_rng([ready.settings.seed, 17])
    return np.sort(draw.permutation(rows)[: max(count, UNSEEN_SAMPLES)])


def losses_of(ready: Prepared, model: Labeller, rows: IntArray) -> FloatArray:
    """Cross entropies [n] of the right one of the two answers to samples at log rows ``rows`` [n]. Nothing of them is
    stored: some are about users who are to be forgotten."""
    prompts = ready.prompts.of_rows(ready.prompt, rows)
    log_odds = np.zeros(len(rows), np.float64)
    for places, odds in model.log_odds(prompts, ready.labels):
        log_odds[places] = odds
    return np.logaddexp(0.0, np.where(ready.label(rows) > 0.5, -log_odds, log_odds))


@dataclass(frozen=True, slots=True)
class _Judged:
    """The tuned model in a folder, with its ``losses`` [n] of forgotten, then of unseen samples, and its raw log-odds
    ``odds`` [m] of the validation samples of users who stay."""

    model: Labeller
    losses: FloatArray
    odds: FloatArray

    @classmethod
    def of(cls, ready: Prepared, parting: Parting) -> _Judged:
        model = ready.tuned()
        losses = losses_of(ready, model, np.concatenate([parting.forgotten, parting.unseen]))
        return cls(model, losses, ready.log_odds(model, ready.prompt.selection, parting.judged, "validation"))

    def compared(self, after: _Judged, ready: Prepared, parting: Parting) -> tuple[BeforeAfter, BeforeAfter]:
        """(membership AUC, validation AUC) of this model and the one ``after``."""
        member = np.repeat([1.0, 0.0], [len(parting.forgotten), len(parting.unseen)])
        owners = ready.user(np.concatenate([parting.forgotten, parting.unseen]))
        label, user = ready.label(parting.judged), ready.user(parting.judged)
        return (
            BeforeAfter.of(Resamples(member, owners), -self.losses, -after.losses),
            BeforeAfter.of(Resamples(label, user), self.odds, after.odds),
        )


def _write_manifest(ready: Prepared, judged: _Judged, rows: IntArray, ctr: CtrScores) -> None:
    """The manifest, fitted to the validation samples at log rows ``rows`` [m]."""
    label, scores = ready.label(rows), ctr.of(rows)
    mix = fit_mix(ready.settings.calibration, judged.odds, scores, label, ready.user(rows), ready.events(rows))
    areas = {
        f"{VALIDATION} AUC, unlearned {ready.prompt.selection}": auc(label, judged.odds),
        f"{VALIDATION} AUC, {ctr.model}": auc(label, scores),
        f"{VALIDATION} AUC, mixed": auc(label, mix.scores(judged.odds, scores)),
    }
    write_manifest(ready, judged.model, ctr, mix, {name: area for name, area in areas.items() if not np.isnan(area)})


def _without_nan(document: object) -> object:
    """The document with None for NaN, which JSON does not have."""
    if isinstance(document, dict):
        return {name: _without_nan(part) for name, part in document.items()}
    return None if isinstance(document, float) and math.isnan(document) else document
