"""Items that a model does not know: a share of the catalogue is hidden, a model is trained without any event of it, and
then judged on samples of these items, of which so many events have been revealed since, and on those of all others.

This is a new item between two trainings, as production has it: revealed events are in statistics and in histories, and
nothing is trained again. Items are shuffled once, and each training hides the next share of them, so that trainings
hide different items. Differences are paired over hidden items, on known ones over users
(offline/training/bootstrap.py). What is chosen by this is to be chosen on the validation part; there, too, hidden items
have no event before the part begins.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from models.contract.arrays import Array, BoolArray, FloatArray, IntArray
from models.contract.schema import FeatureSchema, fingerprint
from models.ctr.calibration import scaling
from models.ctr.gaussian_process import RatingProcess
from offline.config import JobConfig
from offline.data.catalogue import Catalogue, DataError
from offline.data.files import read_arrays, write_arrays
from offline.data.log import InteractionLog, RowShift
from offline.knowledge.vectors import Knowledge
from offline.metrics import in_words, log_losses
from offline.training.bootstrap import Difference, Resamples, difference
from offline.training.candidates import ModelSpec, architecture_of
from offline.training.fit import fit, predict, start_fields
from offline.training.item_dropout import ItemDropout
from offline.training.lifelong import beliefs, fit_process
from offline.training.samples import SampleEncoder, SplitRows, split_samples
from offline.training.sequences import SequenceEncoder
from research.tables import difference_cell, table
from research.trials import TrialRunner, TrialSpec, one_thread

REVEALED = (0, 1, 5, 20)
"""Events of each hidden item that are revealed after the training, or as many as there are."""

JudgedPart = Literal["validation", "test"]
_PARTS: tuple[JudgedPart, ...] = ("validation", "test")

_BEHAVIOUR_FREE = frozenset({"text"})
"""Producers whose vectors of items no event has a part in."""

_CODE = 1
"""Raise it when code changes what a training gives: all are then trained again."""


@dataclass(frozen=True, slots=True)
class ColdVariant:
    """A way to train. ``name`` is that of its rows; ``config`` has its settings, and it reads the knowledge of these
    ``producers``. ``process``: the process of ratings alone is trained, without the network that reads it."""

    name: str
    config: JobConfig
    producers: tuple[str, ...] = ()
    process: bool = False


@dataclass(frozen=True, slots=True)
class HiddenLog:
    """A log without the events of hidden items before a part begins, but those that are revealed, and the samples of it
    that are left, ``splits``. ``rows`` of the whole log [n] became those of this one, rising."""

    log: InteractionLog
    splits: SplitRows
    rows: IntArray


@dataclass(frozen=True, slots=True)
class ColdScores:
    """Probabilities of one trained model for the samples of a part: of the ``known`` items [n], and of the ``hidden``
    ones [m] by the number of revealed events."""

    known: FloatArray
    hidden: Mapping[int, FloatArray]


@dataclass(frozen=True, slots=True)
class ColdRow:
    """Means over all trainings of a variant. ``items`` is "known", or how many events of the hidden ones were revealed;
    ``samples`` is of all trainings together. Differences are against the first variant, None of that itself."""

    variant: str
    items: str
    samples: int
    auc: float
    logloss: float
    auc_difference: Difference | None = None
    logloss_difference: Difference | None = None


def cold_variants(
    config: JobConfig, shares: Sequence[float] = (), *, text: bool = False, process: bool = False
) -> list[ColdVariant]:
    """The configured training, or one with each of these ``shares`` of item dropout; and the same with plain ``text``
    if that is wanted, too."""
    variants, rows = [], list[float | None](shares) or [None]
    for share in rows:
        of_share, name = config, "as configured"
        if share is not None:
            training = config.training.model_copy(update={"item_dropout": share})
            of_share = config.model_copy(update={"training": training})
            name = f"item dropout {share:g}" if share else "no item dropout"
        variants.append(ColdVariant(name, of_share, process=process))
        if text:
            variants.append(ColdVariant(f"{name}, plain text", of_share, ("text",), process))
    return variants


def hidden_items(items: int, share: float, seed: int) -> BoolArray:
    """Mask [items] of what training ``seed`` (from 1) hides: the next ``share`` of a shuffled catalogue, and of another
    shuffle once all of it was hidden."""
    folds = int(1 / share + 1e-9)
    shuffle, fold = divmod(seed - 1, folds)
    order = np.random.default_rng([shuffle, items]).permutation(items)
    size = round(items * share)
    mask = np.zeros(items, np.bool_)
    mask[order[fold * size : (fold + 1) * size]] = True
    return mask


def hide(
    log: InteractionLog, splits: SplitRows, hidden: BoolArray, part: JudgedPart, revealed: int, seed: int
) -> HiddenLog:
    """The log without events of the items ``hidden`` [items] before ``part`` begins, but ``revealed`` ones of each from
    the training period, or as many as there are. Draws by one seed are nested: more events are the same and others."""
    removed = hidden[log.item]
    removed[splits.rows[part][0] :] = False
    events = log.observed[hidden[log.item[log.observed]]]
    events = np.random.default_rng(seed).permutation(events[events < splits.trained_rows])
    events = events[np.argsort(log.item[events], kind="stable")]
    item = log.item[events]
    rank = np.arange(len(events)) - np.searchsorted(item, item)
    removed[events[rank < revealed]] = False
    shift = RowShift.of(removed)
    rows = {name: shift.each(of_split[~removed[of_split]]) for name, of_split in splits.rows.items()}
    return HiddenLog(
        log.without(removed, ()), SplitRows(rows, shift(splits.trained_rows), splits.note), np.flatnonzero(~removed)
    )


@dataclass(frozen=True)
class ColdItems:
    """The study of one data set; finished trainings lie in ``folder``. ``share`` of the items are hidden."""

    config: JobConfig
    catalogue: Catalogue
    log: InteractionLog
    knowledge: Knowledge
    folder: Path
    share: float = 0.2
    splits: SplitRows = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "splits", split_samples(self.config.samples, self.log))

    def run(self, variants: Sequence[ColdVariant], seeds: int, part: JudgedPart) -> tuple[ColdRow, ...]:
        """Train what is not there yet, and judge all of it on the samples of ``part``. DataError for knowledge that
        comes from the behaviour which is hidden."""
        scores = {
            variant.name: {seed: self.scores(variant, seed)[part] for seed in range(1, seeds + 1)}
            for variant in variants
        }
        return tuple(row for rows in self._rows(scores, seeds, part) for row in rows)

    def samples(self, seed: int, part: JudgedPart) -> tuple[IntArray, IntArray]:
        """Log rows of a part's samples of known and of hidden items."""
        rows = self.splits.rows[part]
        of_hidden = hidden_items(len(self.log.item_ids), self.share, seed)[self.log.item[rows]]
        return rows[~of_hidden], rows[of_hidden]

    def scores(self, variant: ColdVariant, seed: int) -> dict[JudgedPart, ColdScores]:
        """Scores of one training, which takes place if it did not before under the same circumstances."""
        if others := set(variant.producers) - _BEHAVIOUR_FREE:
            raise DataError(
                f"knowledge of {', '.join(sorted(others))} comes from events of the items that are to be hidden: "
                f"name {', '.join(sorted(_BEHAVIOUR_FREE))} alone"
            )
        path = self._path(variant, seed)
        if not path.is_file():
            arrays = {}
            with one_thread():
                for part, scores in self._trained(variant, seed).items():
                    arrays[f"{part}/known"] = scores.known
                    arrays |= {f"{part}/{count}": score for count, score in scores.hidden.items()}
            write_arrays(path, **arrays)
        arrays = read_arrays(path)
        return {
            part: ColdScores(arrays[f"{part}/known"], {count: arrays[f"{part}/{count}"] for count in REVEALED})
            for part in _PARTS
        }

    def _path(self, variant: ColdVariant, seed: int) -> Path:
        runner = TrialRunner(variant.config, self.catalogue, self.log, self.folder)
        schema, knowledge = self._read_by(variant)
        document = {
            "code": _CODE,
            "trial": runner.circumstances(TrialSpec(schema, knowledge, variant.name, seed)),
            "process": variant.process,
            "share": self.share,
            "revealed": list(REVEALED),
        }
        return self.folder / f"{fingerprint(document)}-seed{seed}.npz"

    def _read_by(self, variant: ColdVariant) -> tuple[FeatureSchema, Knowledge]:
        schema = variant.config.feature_schema.with_knowledge(variant.producers)
        return schema, self.knowledge.of(variant.producers)

    def _trained(self, variant: ColdVariant, seed: int) -> dict[JudgedPart, ColdScores]:
        hidden = hidden_items(len(self.log.item_ids), self.share, seed)
        training = hide(self.log, self.splits, hidden, "test", 0, seed)
        trained = self._encoder(variant, training)
        score = (_process if variant.process else _model)(variant, trained, training.splits, seed)
        scores = {}
        for part in _PARTS:
            known, of_hidden = self.samples(seed, part)
            of_revealed: dict[int, FloatArray] = {}
            for count in REVEALED:
                judged = hide(self.log, self.splits, hidden, part, count, seed)
                encoder = self._encoder(variant, judged).as_trained(trained)
                if not count:
                    of_known = score(encoder, np.searchsorted(judged.rows, known))
                of_revealed[count] = score(encoder, np.searchsorted(judged.rows, of_hidden))
            scores[part] = ColdScores(of_known, of_revealed)
        return scores

    def _encoder(self, variant: ColdVariant, of: HiddenLog) -> SampleEncoder:
        schema, knowledge = self._read_by(variant)
        return SampleEncoder(schema, self.catalogue, of.log, knowledge, of.splits.trained_rows)

    def _rows(
        self, scores: Mapping[str, Mapping[int, ColdScores]], seeds: int, part: JudgedPart
    ) -> list[list[ColdRow]]:
        """The rows of each variant."""
        groups: list[tuple[str, _Measure]] = [("known", self._measure(scores, seeds, part, None))]
        groups += [(str(count), self._measure(scores, seeds, part, count)) for count in REVEALED]
        base = next(iter(scores))
        rows = []
        for name in scores:
            of_variant = []
            for items, measure in groups:
                auc, logloss = measure.auc[name], measure.logloss[name]
                row = ColdRow(name, items, measure.samples, float(auc[0]), float(logloss[0]))
                if name != base:
                    row = replace(
                        row,
                        auc_difference=difference(auc, measure.auc[base]),
                        logloss_difference=difference(logloss, measure.logloss[base]),
                    )
                of_variant.append(row)
            rows.append(of_variant)
        return rows

    def _measure(
        self, scores: Mapping[str, Mapping[int, ColdScores]], seeds: int, part: JudgedPart, revealed: int | None
    ) -> _Measure:
        """On known items, whose resamples are those of the part's users, or on hidden ones, whose resamples are those
        of each training's hidden items."""
        log, users = self.log, self.log.user[self.splits.rows[part]]
        aucs: dict[str, list[Array]] = {name: [] for name in scores}
        losses: dict[str, list[Array]] = {name: [] for name in scores}
        samples = 0
        for seed in range(1, seeds + 1):
            rows = self.samples(seed, part)[0 if revealed is None else 1]
            samples += len(rows)
            label = (log.value[rows] > self.config.feature_schema.liked_above).astype(np.float32)
            if revealed is None:
                resamples = Resamples(label, log.user[rows], users=users)
            else:
                resamples = Resamples(label, log.item[rows], seed=seed)
            for name, of_seeds in scores.items():
                score = of_seeds[seed].known if revealed is None else of_seeds[seed].hidden[revealed]
                aucs[name].append(resamples.auc(score))
                losses[name].append(resamples.mean(log_losses(label, score)))
        means = ({name: np.asarray(np.mean(of, axis=0)) for name, of in each.items()} for each in (aucs, losses))
        return _Measure(samples, *means)


@dataclass(frozen=True, slots=True)
class _Measure:
    """``samples`` of all trainings, and by variant its mean AUC and LogLoss, whole and of every resample."""

    samples: int
    auc: dict[str, Array]
    logloss: dict[str, Array]


def cold_items_table(rows: Sequence[ColdRow]) -> str:
    """The table of docs/knowledge.md."""
    heads = ["variant", "items", "samples", "AUC", "LogLoss", "AUC against the first [95 %]", "LogLoss"]
    words = {"known": "known", "1": "hidden, 1 event"} | {str(n): f"hidden, {n} events" for n in REVEALED if n != 1}
    cells = [
        [
            row.variant,
            words[row.items],
            f"{row.samples:,}",
            in_words(row.auc),
            f"{row.logloss:.4f}",
            difference_cell(row.auc_difference),
            difference_cell(row.logloss_difference),
        ]
        for row in rows
    ]
    return table(heads, cells)


_Score = Callable[[SampleEncoder, IntArray], FloatArray]
"""Probabilities of an encoder's samples at log rows."""


def _model(variant: ColdVariant, encoder: SampleEncoder, splits: SplitRows, seed: int) -> _Score:
    """The served architecture, trained."""
    training = variant.config.training
    spec = ModelSpec(f"{variant.name}, seed {seed}", architecture_of(training))
    fitted = fit(spec, training, encoder, splits, seed)
    return lambda judged, rows: predict(fitted.model, judged, rows)


def _process(variant: ColdVariant, encoder: SampleEncoder, splits: SplitRows, seed: int) -> _Score:
    """The process of ratings of whole histories alone: how likely a value is above the bound of a like, calibrated on
    validation samples of known items."""
    schema, own = encoder.schema, variant.config.training.lifelong
    torch.manual_seed(seed)
    process = RatingProcess(schema, int(encoder.table.index.max()) + 1, own.factors)
    start_fields(process, encoder)
    sequences = SequenceEncoder(encoder, ItemDropout.of(variant.config.training, encoder, seed))
    fit_process(process, own, sequences, splits.rows["train"], seed)
    bound = (schema.liked_above - schema.value_center) / schema.value_scale

    def logits(judged: SampleEncoder, rows: IntArray) -> torch.Tensor:
        mean, deviation = beliefs(process, SequenceEncoder(judged), rows)[rows].T
        return torch.from_numpy((mean - bound) / deviation)

    validation = splits.rows["validation"]
    slope, offset = scaling(logits(encoder, validation), torch.from_numpy(encoder.labels[validation]))
    return lambda judged, rows: np.asarray(torch.sigmoid(slope * logits(judged, rows) + offset).numpy())
