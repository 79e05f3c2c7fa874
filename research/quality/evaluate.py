"""From the answers of trained models to one judged table.

Every number of a candidate is the mean over its seeds. Others are compared with the best peer on the validation split,
and our own choice is made there too: nothing is picked on the split that is judged. A candidate is scored on the test
split only after the look at it is in the ledger.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from models.contract.arrays import Array
from offline.data.catalogue import DataError
from offline.data.log import InteractionLog
from offline.metrics import reliability
from offline.training.bootstrap import Difference, difference
from offline.training.samples import SplitRows
from research.quality.candidates import Candidates, Group, candidates
from research.quality.evaluation import (
    CandidateRow,
    EvaluatedSplit,
    Evaluation,
    Quartiles,
    SharePoint,
    SliceAuc,
    SliceSize,
    Spread,
)
from research.quality.measuring import Measure, Measured
from research.quality.predictions import Family, Trained
from research.quality.slices import slices_of
from research.test_set_ledger import Ledger, score_digest

_FAMILIES: tuple[Family, ...] = ("reference", "peer", "ours")


@dataclass(frozen=True, slots=True, eq=False)
class _Resampled:
    """Means over seeds [1 + resamples]; ``parts`` by the name of the slice."""

    auc: Array
    logloss: Array
    parts: Mapping[str, Array]


def evaluate(
    name: str,
    trained: Sequence[Trained],
    log: InteractionLog,
    splits: SplitRows,
    *,
    split: EvaluatedSplit = "test",
    ledger: Ledger | None = None,
    resamples: int = 1000,
    cache: Path | None = None,
) -> Evaluation:
    """Judge all that was trained on the data set ``name``.

    The test split needs the ``ledger`` of its uses. What takes long is kept in the folder ``cache``. DataError if the
    models do not belong together or to these samples.
    """
    scored = candidates(trained, splits, split)
    uses = _recorded(name, scored, ledger) if split == "test" else None
    rows = splits.rows[split]
    user, slices = log.user[rows].astype(np.int64), slices_of(log, splits, split)
    measure = Measure(scored.label, user, slices, resamples, cache)
    measured = [[measure.whole(score) for score in group.scores] for group in scored.groups]
    best_peer, chosen = scored.best("peer"), scored.best("ours")
    resampled = [
        _resampled(of_seeds, _parts(measure, group) if group.family == "ours" or group is best_peer else {})
        for group, of_seeds in zip(scored.groups, measured, strict=True)
    ]
    of_peer = None if best_peer is None else resampled[scored.groups.index(best_peer)]
    table_rows = [
        _row(group, of_seeds, mine, None if group is best_peer else of_peer, scored.label)
        for group, of_seeds, mine in zip(scored.groups, measured, resampled, strict=True)
        if group.candidate.share == 1
    ]
    return Evaluation(
        name=name,
        split=split,
        samples=len(rows),
        users=len(np.unique(user)),
        positives=float(scored.label.mean()),
        resamples=resamples,
        rows=tuple(sorted(table_rows, key=lambda row: (_FAMILIES.index(row.family), -row.auc.middle))),
        shares=_shares(scored, measured, resampled, None if chosen is None else chosen.candidate.model),
        slices=tuple(
            SliceSize(part.group, part.name, int(part.mask.sum()), len(np.unique(user[part.mask]))) for part in slices
        ),
        best_peer=None if best_peer is None else best_peer.candidate,
        chosen=None if chosen is None else chosen.candidate,
        test_set_uses=uses,
        left_out=tuple(str(candidate) for candidate in scored.left_out),
    )


def _recorded(name: str, scored: Candidates, ledger: Ledger | None) -> int:
    """Number of candidates ever scored on the test split, these included: all are noted before anything is scored."""
    if ledger is None:
        raise DataError("judging the test split needs the ledger of looks")
    for group in scored.groups:
        seeds = zip(group.members, group.scores, strict=True)
        digests = {str(member.seed): score_digest(score) for member, score in seeds}
        ledger.record(name, str(group.candidate), group.members[0].circumstances, digests)
    return ledger.count(name)


def _parts(measure: Measure, group: Group) -> dict[str, Array]:
    """Mean over seeds of each slice's AUCs; nothing for a model that saw a share of the training rows."""
    if group.candidate.share < 1:
        return {}
    of_seeds = [measure.parts(score) for score in group.scores]
    return {name: np.asarray(np.mean([aucs[name] for aucs in of_seeds], axis=0)) for name in of_seeds[0]}


def _resampled(of_seeds: Sequence[Measured], parts: Mapping[str, Array]) -> _Resampled:
    auc, logloss = (np.mean([getattr(measures, name) for measures in of_seeds], axis=0) for name in ("auc", "logloss"))
    return _Resampled(np.asarray(auc), np.asarray(logloss), parts)


def _row(
    group: Group, of_seeds: Sequence[Measured], mine: _Resampled, peer: _Resampled | None, label: Array
) -> CandidateRow:
    """``peer`` is the one to compare with, None for the best peer itself."""
    times = [ms for member in group.members for ms in member.ms_per_500]
    return CandidateRow(
        candidate=group.candidate,
        family=group.family,
        seeds=tuple(member.seed for member in group.members),
        validation_auc=group.validation_auc,
        auc=Spread.of([float(measures.auc[0]) for measures in of_seeds]),
        logloss=Spread.of([float(measures.logloss[0]) for measures in of_seeds]),
        gauc=Spread.of([measures.gauc for measures in of_seeds]),
        ndcg=Spread.of([measures.ndcg for measures in of_seeds]),
        ece=Spread.of([measures.ece for measures in of_seeds]),
        ms_per_500=Quartiles.of(times) if times else None,
        parameters=round(np.median([member.parameters for member in group.members])),  # trees grow as many as they need
        seconds=float(np.mean([member.seconds for member in group.members])),
        auc_against=None if peer is None else _against(mine.auc, peer.auc),
        logloss_against=None if peer is None else _against(mine.logloss, peer.logloss),
        slices={
            name: SliceAuc(float(auc[0]), None if peer is None else _against(auc, peer.parts[name]))
            for name, auc in mine.parts.items()
        },
        reliability=reliability(np.tile(label, len(of_seeds)), np.concatenate(group.scores)),
    )


def _against(mine: Array, other: Array) -> Difference | None:
    """None where no resample has both labels, as on a slice of very few users."""
    return None if np.isnan((mine - other)[1:]).all() else difference(mine, other)


def _shares(
    scored: Candidates, measured: Sequence[Sequence[Measured]], resampled: Sequence[_Resampled], chosen: str | None
) -> tuple[SharePoint, ...]:
    """Of models that were trained with several shares. ``chosen`` names the one that others are compared with."""
    frozen = [group.candidate.statistics == "frozen" for group in scored.groups]
    best = {
        group.candidate.share: mean.auc
        for group, mean, is_frozen in zip(scored.groups, resampled, frozen, strict=True)
        if group.candidate.model == chosen and is_frozen
    }
    points = [
        SharePoint(
            group.candidate,
            group.family,
            len(of_seeds),
            Spread.of([float(measures.auc[0]) for measures in of_seeds]),
            None if group.candidate.model == chosen else _over(best.get(group.candidate.share), mine.auc),
        )
        for group, of_seeds, mine in zip(scored.groups, measured, resampled, strict=True)
    ]
    smaller = {(point.candidate.model, point.candidate.statistics) for point in points if point.candidate.share < 1}
    return tuple(point for point in points if (point.candidate.model, point.candidate.statistics) in smaller)


def _over(best: Array | None, other: Array) -> Difference | None:
    return None if best is None else _against(best, other)
