"""The reranker's quality on samples of the test split: before and after tuning, alone and mixed with the CTR model.

Calibrations, weights and the choice between the two ways of telling come from the validation split and are taken as
they are. Every set of scores is noted in the ledger of looks before anything is computed from it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from models.contract.arrays import Array, FloatArray
from models.contract.prompts import Selection
from models.contract.reranker import RerankerManifest, blend
from models.contract.schema import fingerprint
from offline.data.files import write_json
from offline.metrics import gauc, log_losses
from offline.reranking.calibrate import best_weight, fit_calibration, probability_of
from offline.reranking.ctr import CtrScores
from offline.reranking.prepared import SELECTIONS, Prepared
from offline.reranking.scoring import Labeller
from offline.training.bootstrap import Difference, Resamples, difference, interval
from research.quality.slices import slices_of
from research.test_set_ledger import Ledger, score_digest

CTR, MIXED = "CTR model", "CTR model + reranker"
SHOWN_WEIGHTS = (0.1, 0.25, 0.5)
"""Mixes that are shown whatever the validation split says: a weight of 0 would show nothing."""


@dataclass(frozen=True, slots=True)
class Line:
    """A model on some samples. ``auc_interval`` is over users; ``against`` its AUC minus another model's, whose name
    is ``other``."""

    model: str
    auc: float
    auc_interval: tuple[float, float]
    logloss: float
    gauc: float
    weight: float | None = None
    other: str = ""
    against: Difference | None = None


@dataclass(frozen=True, slots=True)
class SliceLine:
    """AUCs of samples whose users have so many earlier events. ``gains`` are of the mixes over the CTR model, None
    where there is one user only."""

    name: str
    samples: int
    users: int
    ctr: float
    reranker: float
    gains: tuple[Difference | None, ...]


@dataclass(frozen=True, slots=True)
class RerankerEvaluation:
    """``alone`` are the language model's four; ``mixed`` the CTR model and its mixes; ``slices`` of mixes with the
    ``weights``."""

    name: str
    model: str
    ctr: str
    samples: int
    users: int
    positives: float
    validation_samples: int
    tuned_on: int
    history: int
    served: str
    alone: tuple[Line, ...]
    mixed: tuple[Line, ...]
    weights: tuple[float, ...]
    slices: tuple[SliceLine, ...]
    test_set_uses: int

    def save(self, path: Path) -> None:
        write_json(path, {name.replace("test_set_uses", "looks"): value for name, value in asdict(self).items()})


def evaluate_reranker(
    ready: Prepared, tuned: Labeller, manifest: RerankerManifest, ctr: CtrScores, ledger: Ledger
) -> RerankerEvaluation:
    """Score the drawn test samples in all four ways, and mix each way of the tuned model with the CTR model."""
    rows, settings = ready.rows("test"), ready.settings
    raw = _raw(ready, tuned, "test")
    how = manifest.prompt.selection
    served, alone = f"{MIXED}, {how}", raw[f"tuned, {how}"]
    odds = {
        selection: _calibrated(ready, tuned, selection, raw[f"tuned, {selection}"], ctr) for selection in SELECTIONS
    }
    scores: dict[str, FloatArray] = {name: probability_of(odds_of) for name, odds_of in raw.items()}
    scores[CTR] = ctr.of(rows)
    scores |= {f"{MIXED}, {selection}": blend(scores[CTR], *odds[selection]) for selection in SELECTIONS}
    weights = {f"{MIXED}, {selection}": odds[selection][1] for selection in SELECTIONS}
    shown = tuple(sorted({*SHOWN_WEIGHTS, odds[how][1]} - {0.0}))
    fixed = {f"{served}, weight {weight:g}": weight for weight in shown}
    scores |= {name: blend(scores[CTR], odds[how][0], weight) for name, weight in fixed.items()}
    if manifest.band is not None:
        inside = np.array([manifest.mixes(int(count)) for count in ready.events(rows)])
        banded = np.where(inside, scores[served], scores[CTR]).astype(np.float32)
        scores[f"{served}, only where it was shown to help"] = banded
    uses = _recorded(ready, scores, ctr, ledger)
    label, user = ready.label(rows), ready.user(rows)
    lines = _lines(label, user, scores, weights | fixed)
    return RerankerEvaluation(
        name=ready.config.name,
        model=ready.weights.name,
        ctr=ctr.model,
        samples=len(rows),
        users=len(np.unique(user)),
        positives=float(label.mean()),
        validation_samples=len(ready.rows("validation")),
        tuned_on=len(ready.rows("train")),
        history=settings.prompt.history,
        served=how,
        alone=tuple(lines[name] for name in raw),
        mixed=tuple(lines[name] for name in scores if name not in raw),
        weights=shown,
        slices=tuple(_slices(ready, scores[CTR], alone, [scores[name] for name in fixed])),
        test_set_uses=uses,
    )


def _raw(ready: Prepared, tuned: Labeller, split: Any) -> dict[str, FloatArray]:
    """Raw log-odds by "zero-shot, recent" and the like."""
    rows = ready.rows(split)
    models: tuple[tuple[str, Callable[[], Labeller]], ...] = (("zero-shot", ready.base), ("tuned", lambda: tuned))
    odds = {}
    for name, load in models:
        model = load()
        for how in SELECTIONS:
            odds[f"{name}, {how}"] = ready.log_odds(model, how, rows, f"{name} {how}")
    return odds


def _calibrated(
    ready: Prepared, tuned: Labeller, how: Selection, raw: FloatArray, ctr: CtrScores
) -> tuple[FloatArray, float]:
    """(calibrated log-odds of the test samples, weight of the mix), both by the validation samples."""
    rows = ready.rows("validation")
    label = ready.label(rows)
    seen = ready.log_odds(tuned, how, rows, f"tuned {how}")
    calibration = fit_calibration(ready.settings.calibration, seen, label)
    return calibration.log_odds(raw), best_weight(label, ctr.of(rows), calibration.log_odds(seen))


def _recorded(ready: Prepared, scores: Mapping[str, FloatArray], ctr: CtrScores, ledger: Ledger) -> int:
    circumstances = fingerprint(
        [ready.settings.model_dump(mode="json"), ready.prompt.fingerprint, ctr.circumstances], 12
    )
    for name, score in scores.items():
        candidate = f"{ctr.model if name == CTR else f'reranker: {name}'} ({len(score)} rows)"
        ledger.record(ready.config.name, candidate, circumstances, {str(ready.settings.seed): score_digest(score)})
    return ledger.count(ready.config.name)


def _lines(
    label: Array, user: Array, scores: Mapping[str, FloatArray], weights: Mapping[str, float]
) -> dict[str, Line]:
    """The tuned model is compared with the untuned one told in the same way, and every mix with the CTR model."""
    measure = Resamples(label, user)
    aucs = {name: measure.auc(score) for name, score in scores.items()}
    lines = {}
    for name, score in scores.items():
        other = CTR if name.startswith(MIXED) else name.replace("tuned", "zero-shot") if "tuned" in name else ""
        line = Line(
            name,
            float(aucs[name][0]),
            interval(aucs[name][1:]),
            float(log_losses(label, score).mean()),
            gauc(label, score, user, least=1),
            weights.get(name),
        )
        lines[name] = replace(line, other=other, against=difference(aucs[name], aucs[other])) if other else line
    return lines


def _slices(ready: Prepared, ctr: FloatArray, alone: FloatArray, mixes: Sequence[FloatArray]) -> Iterator[SliceLine]:
    rows = ready.rows("test")
    label, user = ready.label(rows), ready.user(rows)
    sampled = replace(ready.splits, rows={**ready.splits.rows, "test": rows})
    for part in slices_of(ready.log, sampled):
        inside, users = label[part.mask], user[part.mask]
        if part.group != "history" or inside.min() == inside.max():
            continue
        measure = Resamples(inside, users)
        aucs: Sequence[Array] = [measure.auc(score[part.mask]) for score in (ctr, alone, *mixes)]
        several = len(np.unique(users)) > 1
        yield SliceLine(
            part.name,
            len(inside),
            len(np.unique(users)),
            float(aucs[0][0]),
            float(aucs[1][0]),
            tuple(difference(mixed, aucs[0]) if several else None for mixed in aucs[2:]),
        )
