"""A new model beside the live one, and beside popularity, on the same validation samples: may it go live?

Both models are run from their files on the samples that the new one was validated on, with the same past and each with
its own id embedding; differences of AUC have intervals over users (paired bootstrap). The new model is refused

- if it is worse than the live one by more than ``max_auc_drop``, and the interval of the difference lies below zero:
  the measured drop is more than the operator allows, and it is not the luck of who came;
- if it is worse than popularity, the whole interval below zero, and nothing shows that the live model is worse still.

A first model has nothing that could stay in its place: it goes live, with a warning. Where a comparison would not be of
like with like, it is left out and a note says why.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from models.contract.arrays import Array
from models.contract.artifact import ArtifactError, ArtifactManifest, RefusedModel, ReleaseManifest
from offline.config import JobConfig
from offline.data.catalogue import DataError
from offline.data.files import file_digest
from offline.publish.connection import Store
from offline.publish.features import stored_embedding_rows
from offline.publish.gate import GateError
from offline.publish.release import manifest_or_none, read_model, refused_model
from offline.publish.rewriting import are_of_other_settings
from offline.training.bootstrap import Difference, difference
from offline.training.validation import IncomparableError, ValidationSamples

CHANCE = 0.5
"""AUC of a constant score."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """The outcome: sentences why the model is refused, none if it may go live; and notes for people."""

    reasons: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NewModel:
    """A model that is to go live: the id of its release, its file, and the manifest inside."""

    release: str
    file: Path
    artifact: ArtifactManifest


def refusal(
    store: Store, config: JobConfig, new: NewModel, live: str | None, samples: Callable[[], ValidationSamples]
) -> tuple[RefusedModel | None, tuple[str, ...]]:
    """The new model as it is refused in favour of the ``live`` release, None if it may go live; and notes on how they
    compare.

    What was refused stays so, and costs nothing, until the live release or the bound is another. GateError if the model
    cannot be run. ``samples`` may raise DataError or IncomparableError: then there is nothing to go by.
    """
    allowed, before = config.publish.max_auc_drop, refused_model(store)
    if before is not None and (before.release, before.live, before.max_auc_drop) == (new.release, live, allowed):
        return before, ()
    try:
        comparison = compare(store, config, samples(), new, None if live is None else manifest_or_none(store, live))
    except (DataError, IncomparableError) as error:
        comparison = Comparison(notes=(f"the new model is compared with nothing: {error}",))
    if live is None or not comparison.reasons:
        return None, comparison.notes
    now, reasons = int(time.time()), comparison.reasons
    refused = RefusedModel(release=new.release, live=live, reasons=reasons, at=now, max_auc_drop=allowed)
    return refused, comparison.notes


def check_acceptable(store: Store, new: str) -> None:
    """GateError unless the release ``new`` is the one that was refused last."""
    refused = refused_model(store)
    if refused is None:
        raise GateError("no model is refused, so there is none to accept: run `publish` without --accept")
    if refused.release != new:
        raise GateError(f"{refused.release} was refused, but {new} was trained since: run `publish` without --accept")


def compare(
    store: Store, config: JobConfig, samples: ValidationSamples, new: NewModel, live: ReleaseManifest | None
) -> Comparison:
    """The new model beside that of the live release, if there is one, and beside popularity. GateError if it cannot be
    run: no service could serve it."""
    try:
        auc = samples.auc(new.file)
    except IncomparableError as error:
        raise GateError(f"the new model is refused: {error}") from error
    reasons, notes = [], []
    gain: Difference | None = None
    if live is not None:
        try:
            gain = difference(auc, _live_auc(store, config, samples, new, live))
        except IncomparableError as error:
            notes.append(f"not compared with the live model: {error}")
    if gain is not None:
        measured = f"AUC {gain} against the live model on {samples}"
        notes.append(measured)
        if is_worse(gain, config.publish.max_auc_drop):
            reasons.append(f"{measured}, and max_auc_drop is {config.publish.max_auc_drop:g}")
    name, baseline = _baseline(config, samples)
    margin = difference(auc, baseline)
    measured = f"AUC {margin} against {name} on {samples}"
    notes.append(measured)
    if margin.high < 0:
        if live is None:
            notes.append(f"warning: the model is worse than {name}, and goes live because there is no other")
        elif gain is not None and gain.middle > 0:
            notes.append(f"warning: the model is worse than {name}, and takes the place of one that is worse still")
        else:
            reasons.append(measured)
    return Comparison(tuple(reasons), tuple(notes))


def is_worse(gain: Difference, allowed: float) -> bool:
    """Whether an AUC has fallen by more than is ``allowed``, and users that come by chance do not explain it."""
    return gain.middle < -allowed and gain.high < 0


def _live_auc(
    store: Store, config: JobConfig, samples: ValidationSamples, new: NewModel, live: ReleaseManifest
) -> Array:
    """AUC of the live model, in the order of ``Resamples.auc``. IncomparableError if these samples are none for it."""
    file, encoder = store.artifacts / live.artifact, samples.encoder
    if are_of_other_settings(store, config.name, encoder.log):
        raise IncomparableError("it was trained on a log of other settings of the data")
    if file_digest(file) != live.artifact_sha256:
        raise IncomparableError(f"its file {file.name} is damaged or gone")
    try:
        artifact = read_model(file)
    except ArtifactError as error:
        raise IncomparableError(f"its file cannot be read: {error}") from error
    reads, read = ({spec.key for spec in model.feature_schema.knowledge} for model in (new.artifact, artifact))
    if reads != read:
        raise IncomparableError(f"one of them reads {', '.join(sorted(reads ^ read))}, the other does not")
    if artifact.feature_schema.fingerprint != new.artifact.feature_schema.fingerprint:
        raise IncomparableError("it reads another feature schema")
    ours, theirs = ({space.key: space.fingerprint for space in model.spaces} for model in (new.artifact, artifact))
    if others := sorted(key for key in {*ours, *theirs} if ours.get(key) != theirs.get(key)):
        raise IncomparableError(f"it reads other spaces of knowledge ({', '.join(others)})")
    if artifact.trained_until_ms > new.artifact.trained_until_ms:
        raise IncomparableError("its training reaches into these samples")
    return samples.auc(file, stored_embedding_rows(store, live.id, encoder.schema, encoder.log.item_ids))


def _baseline(config: JobConfig, samples: ValidationSamples) -> tuple[str, Array]:
    """What any model should be better than, by name, and its AUC in the order of ``Resamples.auc``.

    Negatives that are drawn by popularity are as popular as the positives, or more: of all items that the user did
    *not* touch, the popular ones. The order by popularity is then below chance by construction.
    """
    labels, popularity = config.data.labels, samples.popularity_auc()
    if labels.draws_by_popularity:
        name = "chance (popularity itself is below it, because negatives are drawn by popularity)"
        return name, np.full_like(popularity, CHANCE)
    return "popularity (share of likes)", popularity
