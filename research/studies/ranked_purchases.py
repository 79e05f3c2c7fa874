"""The worth of knowledge where items are new: each purchase of a part is ranked among items of its own coldness
(research/quality/drawn.py), by the model that is served, trained with this knowledge or that.

Rows: popularity; the model without knowledge, and without the items' fields too; plain text; the same vectors dealt
out to other items, which shows what a model gains from more inputs; each method; the groups without their texts; all
together. What a language model adds is a method minus plain text. Differences are paired over users
(offline/training/bootstrap.py). A trained model and its scores are kept, so that a run that was stopped goes on where
it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from models.contract.arrays import Array, BoolArray, FloatArray, IntArray
from models.contract.encoding import ItemBatch, encode_items
from models.contract.schema import FeatureSchema, fingerprint
from models.ctr.calibration import Calibrated
from offline.config import JobConfig
from offline.data.catalogue import Catalogue, DataError
from offline.data.files import read_arrays, write_arrays
from offline.data.log import InteractionLog
from offline.knowledge.vectors import Knowledge
from offline.metrics import auc
from offline.training.artifact import as_request
from offline.training.bootstrap import Difference, Resamples, difference
from offline.training.candidates import candidate_config
from offline.training.lifelong import as_torch
from offline.training.samples import SampleEncoder
from research.quality.drawn import (
    COLDNESS,
    DRAWINGS,
    Drawing,
    DrawnLists,
    JudgedPart,
    draw_lists,
    purchases,
    row_measures,
)
from research.studies.ablation import BASE, CONTROL, METHODS, knowledge_of
from research.studies.ablation import variants as readers
from research.test_set_ledger import Ledger, score_digest
from research.trials import TrialRunner, TrialSpec, one_thread

POPULARITY, WITHOUT_FIELDS, SHUFFLED = "popularity", "base without fields", "shuffled text"

FEW_EVENTS = 5
"""A user with fewer earlier events is a slice of their own."""

_CODE = 1
"""Raise it when code changes what a trained model says: all is then scored again."""

_AT_ONCE = 512


@dataclass(frozen=True, slots=True)
class PurchaseSettings:
    """The part that is judged, the trainings of each variant, how many purchases are ranked (None: all; else drawn by
    ``draw_seed``, as are the ``negatives`` of each), and which rows are trained (None: all that there is knowledge
    for)."""

    part: JudgedPart = "validation"
    seeds: int = 2
    rows: int | None = None
    negatives: int = 99
    draw_seed: int = 1
    only: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class PurchaseVariant:
    """A way to train: the knowledge of these ``producers``, with the ``fields`` of items or without, or ``shuffled``:
    each item has the vectors of another."""

    name: str
    producers: tuple[str, ...] = ()
    fields: bool = True
    shuffled: bool = False


@dataclass(frozen=True, slots=True)
class VariantMeasures:
    """Measures of a variant on some purchases, means over its trainings. ``against`` maps "base" and "plain text" to
    differences of "auc" and "ndcg"; ``pooled`` is the AUC of all lists together."""

    variant: str
    auc: float
    ndcg: float
    hits: float
    pooled: float
    against: Mapping[str, Mapping[str, Difference]]


@dataclass(frozen=True, slots=True)
class PurchaseSlice:
    """Some of the purchases by some of the users, ranked among candidates that were ``drawn`` so; a row for each
    variant."""

    name: str
    drawn: Drawing
    purchases: int
    users: int
    rows: tuple[VariantMeasures, ...]


def settled(config: JobConfig) -> JobConfig:
    """The configuration with whole histories in the place of "auto", which chose them on both sets of purchases
    (docs/quality.md)."""
    return candidate_config(config, "lifelong") if config.training.served == "auto" else config


def purchase_variants(
    knowledge: Knowledge, only: Sequence[str] | None = None, *, fields: bool = True
) -> list[PurchaseVariant]:
    """What there is knowledge for, or the ``only`` names among it, of items that have ``fields`` or none. DataError for
    a name that is not among it."""
    chosen = [PurchaseVariant(name, producers) for name, producers in readers(knowledge).items()]
    if fields:
        chosen.append(PurchaseVariant(WITHOUT_FIELDS, fields=False))
    if "text" in knowledge.produced:
        chosen.append(PurchaseVariant(SHUFFLED, ("text",), shuffled=True))
    order = [BASE, CONTROL, SHUFFLED, WITHOUT_FIELDS]
    chosen.sort(key=lambda variant: order.index(variant.name) if variant.name in order else len(order))
    if only is None:
        return chosen
    if unknown := set(only) - {variant.name for variant in chosen}:
        names = ", ".join(variant.name for variant in chosen)
        raise DataError(f"no such row, or no knowledge for it: {', '.join(sorted(unknown))}; there are {names}")
    return [variant for variant in chosen if variant.name in only]


def absent_methods(knowledge: Knowledge) -> list[str]:
    """Producers whose knowledge is still to be made."""
    return [method for method in METHODS if method not in knowledge.produced]


def shuffled(knowledge: Knowledge, seed: int) -> Knowledge:
    """The knowledge with the vectors of its items dealt out anew among those that have some."""
    produced = {}
    for name, of in knowledge.produced.items():
        if of.items is not None:
            owners = np.flatnonzero(of.items.known)
            vectors = of.items.vectors.copy()
            vectors[:, owners] = vectors[:, np.random.default_rng(seed).permutation(owners)]
            of = replace(of, items=replace(of.items, vectors=vectors))
        produced[name] = of
    return Knowledge(produced)


class RankedPurchases:
    """The study of one data set; trained models and their scores lie in ``folder``. ``ledger`` notes what is scored on
    the test part; None for no test part."""

    def __init__(
        self,
        config: JobConfig,
        catalogue: Catalogue,
        log: InteractionLog,
        knowledge: Knowledge,
        folder: Path,
        settings: PurchaseSettings,
        ledger: Ledger | None = None,
    ) -> None:
        self.config, self.log, self.knowledge, self.settings = settled(config), log, knowledge, settings
        self.runner = TrialRunner(self.config, catalogue, log, folder)
        self._folder, self._ledger = folder, ledger
        rows = purchases(log, self.runner.splits, settings.part, config.feature_schema.liked_above)
        if settings.rows is not None and settings.rows < len(rows):
            drawn = np.random.default_rng(settings.draw_seed).choice(rows, settings.rows, replace=False)
            rows = np.sort(drawn)
        self.lists: dict[Drawing, DrawnLists] = {
            drawn: draw_lists(
                log, self.runner.splits, settings.part, rows, drawn, settings.negatives, settings.draw_seed
            )
            for drawn in DRAWINGS
        }

    @property
    def rows(self) -> IntArray:
        """Log rows of the purchases [n]."""
        return self.lists[DRAWINGS[0]].rows

    def run(self) -> list[PurchaseSlice]:
        """Train and score what is not there yet, and measure all of it."""
        scores: dict[str, list[dict[Drawing, FloatArray]]] = {POPULARITY: [self._popularity()]}
        fields = bool(self.config.feature_schema.item_fields)
        chosen = purchase_variants(self.knowledge, self.settings.only, fields=fields)
        for seed in range(1, self.settings.seeds + 1):  # seed by seed, so that a table can be made of any prefix
            for variant in chosen:
                scores.setdefault(variant.name, []).append(self.scores(variant, seed))
        return self._slices(scores)

    def spec(self, variant: PurchaseVariant, seed: int) -> TrialSpec:
        """The training of a variant."""
        schema: FeatureSchema = self.config.feature_schema.with_knowledge(variant.producers)
        if not variant.fields:
            schema = FeatureSchema.model_validate({**schema.model_dump(), "item_fields": ()})
        knowledge = knowledge_of(variant.name, variant.producers, self.knowledge, seed)
        return TrialSpec(schema, shuffled(knowledge, seed) if variant.shuffled else knowledge, variant.name, seed)

    def scores(self, variant: PurchaseVariant, seed: int) -> dict[Drawing, FloatArray]:
        """Scores of the lists [n, 1 + negatives], by a model that is trained unless it was before."""
        spec = self.spec(variant, seed)
        trial = self.runner.circumstances(spec)
        document = {
            "code": _CODE,
            "trial": trial,
            "lists": [fingerprint(of.items.tolist()) for of in self.lists.values()],
        }
        path = self._folder / f"{fingerprint(document)}-seed{seed}-scores.npz"
        if not path.is_file():
            encoder = self.runner.encoder(spec)
            fitted, _ = self.runner.fitted(spec, encoder)
            with one_thread():
                write_arrays(path, **list_scores(fitted.model, encoder, self.lists))
        arrays = read_arrays(path)
        if self._ledger is not None:
            together = np.concatenate([arrays[drawn].ravel() for drawn in DRAWINGS])
            self._ledger.record(
                self.config.name, f"ranked purchases: {variant.name}", fingerprint(document),
                {str(seed): score_digest(together)},
            )  # fmt: skip
        return {drawn: arrays[drawn] for drawn in DRAWINGS}

    def _popularity(self) -> dict[Drawing, FloatArray]:
        """How often training met each candidate."""
        log, trained = self.log, self.log.observed[self.log.observed < self.runner.splits.trained_rows]
        count = np.bincount(log.item[trained], minlength=len(log.item_ids)).astype(np.float32)
        return {drawn: count[of.items] for drawn, of in self.lists.items()}

    def slice_masks(self) -> dict[str, BoolArray]:
        """The purchases [n] of each slice."""
        coldness = self.lists[DRAWINGS[0]].coldness
        masks = {"all": np.ones(len(self.rows), np.bool_)}
        masks |= {f"items with {name}": coldness == number for number, name in enumerate(COLDNESS)}
        masks[f"users with fewer than {FEW_EVENTS} earlier events"] = (
            self.log.by_user().position[self.rows] < FEW_EVENTS
        )
        return masks

    def _slices(self, scores: Mapping[str, Sequence[Mapping[Drawing, FloatArray]]]) -> list[PurchaseSlice]:
        slices = []
        for drawn in DRAWINGS:
            of_drawn = {name: [of_seed[drawn] for of_seed in seeds] for name, seeds in scores.items()}
            measures = {name: [row_measures(of_seed) for of_seed in seeds] for name, seeds in of_drawn.items()}
            for name, inside in self.slice_masks().items():
                if not inside.any():
                    continue
                users = self.log.user[self.rows[inside]]
                resamples = Resamples(np.ones(len(users)), users)
                resampled = {
                    variant: {
                        measure: np.mean([resamples.mean(of_seed[measure][inside]) for of_seed in seeds], axis=0)
                        for measure in ("auc", "ndcg", "hits")
                    }
                    for variant, seeds in measures.items()
                }
                pooled = {
                    variant: float(np.mean([_pooled(of_seed[inside]) for of_seed in seeds]))
                    for variant, seeds in of_drawn.items()
                }
                rows = tuple(_measured(variant, resampled, pooled[variant]) for variant in resampled)
                slices.append(PurchaseSlice(name, drawn, int(inside.sum()), len(np.unique(users)), rows))
        return slices


def list_scores(
    model: Calibrated, encoder: SampleEncoder, lists: Mapping[Drawing, DrawnLists]
) -> dict[Drawing, FloatArray]:
    """What a model says of the lists of the same purchases, [n, 1 + negatives] each: logits, which calibration does not
    reorder. Each purchase is a request, as it is served: its user's history so far, items as training left them."""
    first, *_ = lists.values()
    order = np.argsort(encoder.index.position[first.rows], kind="stable")  # of one length together: little padding
    together = np.concatenate([of.items for of in lists.values()], axis=1)
    scores = np.empty(together.shape, np.float32)
    model.eval()
    with torch.inference_mode():
        for at in range(0, len(order), _AT_ONCE):
            chosen = order[at : at + _AT_ONCE]
            users = encoder.tensors(first.rows[chosen])
            for place, number in enumerate(chosen.tolist()):
                candidates = together[number] + 1
                items = encode_items(ItemBatch.gather(encoder.table, candidates))
                row = np.full(len(candidates), first.rows[number])
                items["item_vectors"] = encoder.slices.at(row, candidates)
                user = {name: array[place : place + 1] for name, array in users.items()}
                scores[number] = model.model(as_torch(as_request(user, items))).numpy()
    ends = np.cumsum([of.items.shape[1] for of in lists.values()])[:-1]
    return dict(zip(lists, np.split(scores, ends, axis=1), strict=True))


def _pooled(scores: FloatArray) -> float:
    """AUC of all lists' scores [n, 1 + negatives] together."""
    label = np.zeros(scores.shape, np.float32)
    label[:, 0] = 1.0
    return auc(label.ravel(), scores.ravel())


def _measured(variant: str, resampled: Mapping[str, Mapping[str, Array]], pooled: float) -> VariantMeasures:
    own = resampled[variant]
    against = {
        other: {measure: difference(own[measure], resampled[other][measure]) for measure in ("auc", "ndcg")}
        for other in (BASE, CONTROL)
        if other in resampled and other != variant
    }
    auc_of, ndcg, hits = (float(own[measure][0]) for measure in ("auc", "ndcg", "hits"))
    return VariantMeasures(variant, auc_of, ndcg, hits, pooled, against)
