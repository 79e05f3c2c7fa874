"""Unlearning of a tuned reranker, judged: E2URec's protocol (a fifth of the users that it was tuned on), small.

Four models answer the same samples: as it comes, tuned, unlearned, and tuned anew without the forgotten users, which is
what unlearning wants to come near to. Nothing is chosen by what comes out. Test samples of forgotten users count, too:
they were in no tuning.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from models.contract.arrays import Array, FloatArray, IntArray
from models.contract.schema import fingerprint
from offline.data.files import read_json, write_json
from offline.jobs.runs import Run
from offline.reranking.calibrate import probability_of
from offline.reranking.prepared import Prepared
from offline.reranking.scoring import Labeller
from offline.reranking.tune import tune
from offline.reranking.unlearn import REPORT, losses_of, unlearn_reranker, unseen_samples
from offline.training.bootstrap import Difference, Resamples, difference, interval
from research.tables import difference_cell, table
from research.test_set_ledger import Ledger, score_digest

ZERO_SHOT, TUNED, UNLEARNED, RETRAINED = "as it comes", "tuned", "unlearned", "tuned anew without them"
FORGOTTEN_SHARE = 0.2
"""Of the users with tuning samples, as in the authors' protocol."""


@dataclass(frozen=True, slots=True)
class ModelLine:
    """What a model does. ``membership`` is the AUC of telling forgotten from unseen samples by the loss, ``losses`` the
    mean losses of forgotten, retained and unseen samples; differences are paired: of ``membership`` from the model that
    was tuned anew, of ``test`` (AUC) from the tuned one; ``divergence`` the mean Jensen-Shannon divergences of the
    answers' probabilities from those of the model tuned anew, in nats, of forgotten, retained and test samples."""

    name: str
    membership: tuple[float, float, float]
    membership_difference: Difference | None
    losses: tuple[float, float, float]
    test: tuple[float, float, float] | None
    test_difference: Difference | None
    divergence: tuple[float, float, float] | None


@dataclass(frozen=True, slots=True)
class UnlearningStudy:
    """``seconds`` of the processor: unlearning, and tuning anew; 0 where it was there already."""

    name: str
    model: str
    users: int
    forgotten: int
    retained: int
    unseen: int
    unseen_users: int
    test: int
    test_users: int
    seconds: tuple[float, float]
    uses: int
    lines: tuple[ModelLine, ...]

    def save(self, path: Path) -> None:
        write_json(path, asdict(self))

    def markdown(self) -> str:
        """The tables, with a sentence on how they came about."""
        unlearning, anew = self.seconds
        ratio = f", {unlearning / anew:.2f} of it" if anew else ""
        how = (
            f"Language model: {self.model}. {self.forgotten + self.retained} tuning samples, told in both ways; "
            f"{self.users} users, {FORGOTTEN_SHARE:.0%} of those with tuning samples, are forgotten, with "
            f"{self.forgotten} samples. Beside them {self.unseen} training and validation samples of "
            f"{self.unseen_users} users that no model was tuned on. {self.test} test samples of {self.test_users} "
            f"users. Tuning anew took {anew:.0f} s of a core, unlearning {unlearning:.0f} s{ratio}. Intervals: 1,000 "
            "resamples of users, paired where they are of differences; bold where they exclude zero. Candidates that "
            f"were ever scored on this test split: {self.uses}."
        )
        membership = table(
            ["model", "membership AUC [95 %]", "minus tuned anew", "loss of forgotten", "of retained", "of unseen"],
            [
                [line.name, _area(line.membership), difference_cell(line.membership_difference)]
                + [f"{loss:.4f}" for loss in line.losses]
                for line in self.lines
            ],
        )
        worth = table(
            ["model", "test AUC [95 %]", "minus tuned", "JS from tuned anew: forgotten", "retained", "test"],
            [
                [line.name, _area(line.test), difference_cell(line.test_difference)]
                + [f"{part:.4f}" for part in line.divergence or ()]
                for line in self.lines
                if line.test is not None
            ],
        )
        return "\n\n".join([how, membership, worth])


def judge_unlearning(run: Run, ready: Prepared, folder: Path, ledger: Ledger) -> UnlearningStudy:
    """Unlearn and tune anew in ``folder``, where what is there is taken as it is, and judge. ``run`` is of a job that
    is at work."""
    rows, settings = ready.rows("train"), ready.settings
    owners = np.unique(ready.user(rows))
    draw = np.random.default_rng([settings.seed, 19]).permutation(owners)
    leaving = np.sort(draw[: max(1, round(FORGOTTEN_SHARE * len(owners)))])
    users = [ready.log.user_ids[user] for user in leaving]
    if not (folder / UNLEARNED).is_dir():
        unlearn_reranker(run, users, folder / UNLEARNED)
    anew = _tuned_anew(ready, leaving, folder / "retrained")
    models = {
        ZERO_SHOT: ready.base(),
        TUNED: ready.tuned(),
        UNLEARNED: ready.beside(folder / UNLEARNED).tuned(),
        RETRAINED: ready.beside(folder / "retrained").tuned(),
    }
    forgotten = rows[np.isin(ready.user(rows), leaving)]
    retained = rows[~np.isin(rows, forgotten)]
    unseen = unseen_samples(ready, rows, leaving, len(forgotten))
    test = ready.rows("test")
    parts = {"forgotten": forgotten, "retained": retained, "unseen": unseen}
    losses = {name: {part: losses_of(ready, model, of) for part, of in parts.items()} for name, model in models.items()}
    odds = {name: _log_odds(ready, models[name], test) for name in (TUNED, UNLEARNED, RETRAINED)}
    circumstances = fingerprint([settings.model_dump(mode="json"), ready.prompt.fingerprint, users], 12)
    for name, scores in odds.items():
        candidate = f"reranker: unlearning, {name} ({len(test)} rows)"
        ledger.record(ready.config.name, candidate, circumstances, {str(settings.seed): score_digest(scores)})
    return UnlearningStudy(
        name=ready.config.name,
        model=ready.weights.name,
        users=len(users),
        forgotten=len(forgotten),
        retained=len(retained),
        unseen=len(unseen),
        unseen_users=len(np.unique(ready.user(unseen))),
        test=len(test),
        test_users=len(np.unique(ready.user(test))),
        seconds=(read_json(folder / UNLEARNED / REPORT)["processor_seconds"], anew),
        uses=ledger.count(ready.config.name),
        lines=tuple(_lines(ready, parts, losses, test, odds)),
    )


def _lines(
    ready: Prepared,
    parts: Mapping[str, IntArray],
    losses: Mapping[str, Mapping[str, FloatArray]],
    test: IntArray,
    odds: Mapping[str, FloatArray],
) -> list[ModelLine]:
    member = np.concatenate([np.ones(len(parts["forgotten"])), np.zeros(len(parts["unseen"]))])
    owner = ready.user(np.concatenate([parts["forgotten"], parts["unseen"]]))
    membership, worth = Resamples(member, owner), Resamples(ready.label(test), ready.user(test))
    memberships = {
        name: membership.auc(-np.concatenate([of["forgotten"], of["unseen"]])) for name, of in losses.items()
    }
    areas = {name: worth.auc(scores) for name, scores in odds.items()}
    lines = []
    for name, of in losses.items():
        line = ModelLine(
            name,
            _estimate(memberships[name]),
            None if name == RETRAINED else difference(memberships[name], memberships[RETRAINED]),
            (float(of["forgotten"].mean()), float(of["retained"].mean()), float(of["unseen"].mean())),
            None,
            None,
            None,
        )
        if name in odds:
            other = losses[RETRAINED]
            divergence = (
                # the probability of the right answer stands for both answers'
                jensen_shannon(np.exp(-of["forgotten"]), np.exp(-other["forgotten"])),
                jensen_shannon(np.exp(-of["retained"]), np.exp(-other["retained"])),
                jensen_shannon(probability_of(odds[name]), probability_of(odds[RETRAINED])),
            )
            line = replace(
                line,
                test=_estimate(areas[name]),
                test_difference=None if name == TUNED else difference(areas[name], areas[TUNED]),
                divergence=None if name == RETRAINED else divergence,
            )
        lines.append(line)
    return lines


def jensen_shannon(p: Array, q: Array) -> float:
    """Mean Jensen-Shannon divergence, in nats, of pairs of distributions over two answers: probabilities [n] of one."""
    first, second = (np.stack([part, 1.0 - part], -1).astype(np.float64) for part in (p, q))
    middle = (first + second) / 2

    def divergence(part: Array) -> Array:
        ratio = np.divide(part, middle, out=np.ones_like(part), where=part > 0)
        return np.asarray((part * np.log(ratio)).sum(-1))

    return float((divergence(first) + divergence(second)).mean() / 2)


def _tuned_anew(ready: Prepared, leaving: IntArray, target: Path) -> float:
    """Tune from the model as it comes on the samples that stay; seconds of the processor, 0 if it was done before."""
    samples = ready.tuning_samples()
    stays = np.flatnonzero(~np.isin(ready.user(samples.rows), leaving))
    base, started = ready.base(), time.process_time()
    tune(
        base,
        [samples.tokens[row] for row in stays],
        samples.answers[stays],
        ready.settings.tuning,
        ready.settings.seed,
        target,
    )
    path, seconds = target / "seconds.json", time.process_time() - started
    if not path.is_file():
        write_json(path, seconds)
    return float(read_json(path))


def _log_odds(ready: Prepared, model: Labeller, rows: IntArray) -> FloatArray:
    odds = np.zeros(len(rows), np.float32)
    for places, part in model.log_odds(ready.prompts.of_rows(ready.prompt, rows), ready.labels):
        odds[places] = part
    return odds


def _estimate(areas: Array) -> tuple[float, float, float]:
    return (float(areas[0]), *interval(areas[1:]))


def _area(estimate: tuple[float, float, float] | None) -> str:
    return "" if estimate is None else "{:.4f} [{:.4f}, {:.4f}]".format(*estimate)
