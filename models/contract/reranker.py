"""The manifest of a reranker, and how its answers are mixed with the scores of the CTR model.

``reranker.json`` lies beside the checkpoint that a language-model server serves. It says what the service must know to
ask that model as it was tuned, what its answers are worth, and how to notice that it is broken: canaries are prompts
with answers that were measured when the manifest was written. Landscape: rerankers that answer .5 to everything, NaN,
or in an order that differs from the reference implementation are common, and look like success.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, Field, ValidationError, model_validator

from models.contract.arrays import FloatArray
from models.contract.artifact import Digest, ModelName
from models.contract.leaving import HISTORY
from models.contract.prompts import PromptParts, RerankPrompt
from models.contract.schema import FrozenConfig

FORMAT: Literal[1] = 1
FILE, ITEMS_FILE = "reranker.json", "items.npz"
"""Names beside the checkpoint; the items are ``models.contract.rerank_items``."""

_LEAST = 1e-6
"""Probabilities are kept so far from 0 and 1 before their log-odds are taken."""
_FLAT = 1e-4
"""Answers to all canaries within so little of each other are no answers."""

Probability = Annotated[float, Field(ge=0, le=1)]


class RerankerError(ValueError):
    """A reranker that this program must not use, or an answer that is none."""


class Platt(BaseModel):
    """Calibrated log-odds are ``slope`` x + ``intercept`` of the raw ones (Platt 1999)."""

    model_config = FrozenConfig

    kind: Literal["platt"] = "platt"
    slope: float = 1.0
    intercept: float = 0.0

    def log_odds(self, raw: FloatArray) -> FloatArray:
        return np.asarray(self.slope * raw + self.intercept, np.float32)


class Isotonic(BaseModel):
    """Calibrated log-odds are interpolated between knots and constant outside of them."""

    model_config = FrozenConfig

    kind: Literal["isotonic"] = "isotonic"
    raw: Annotated[tuple[float, ...], Field(min_length=1)]
    calibrated: Annotated[tuple[float, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _rises(self) -> Isotonic:
        if (
            len(self.raw) != len(self.calibrated)
            or (np.diff(self.raw) <= 0).any()
            or (np.diff(self.calibrated) < 0).any()
        ):
            raise ValueError("knots must be as many on both sides, rise in raw and not fall in calibrated")
        return self

    def log_odds(self, raw: FloatArray) -> FloatArray:
        return np.interp(raw, self.raw, self.calibrated).astype(np.float32)


Calibration = Annotated[Platt | Isotonic, Field(discriminator="kind")]


class HistoryBand(BaseModel):
    """Lengths of a user's history, both ends included. ``longest`` None: no end."""

    model_config = FrozenConfig

    shortest: Annotated[int, Field(ge=0)] = 0
    longest: Annotated[int, Field(ge=0)] | None = None


class Canary(BaseModel):
    """Two prompts, of which the first must get the likelier yes. ``probabilities`` were answered by the checkpoint
    itself, asked by the code that tuned it. The users in them are made up."""

    model_config = FrozenConfig

    prompts: tuple[PromptParts, PromptParts]
    probabilities: tuple[Probability, Probability]

    @model_validator(mode="after")
    def _has_an_order(self) -> Canary:
        if self.probabilities[0] <= self.probabilities[1]:
            raise ValueError("the first prompt of a canary must be the likelier one")
        return self


class FittedTo(BaseModel):
    """A CTR model, by the SHA-256 of its artifact; its name is for people."""

    model_config = FrozenConfig

    model: ModelName
    artifact_sha256: Digest


class RerankerManifest(BaseModel):
    """One reranker.

    model       name and digest of the weights that are served; ``base`` of those they were tuned from
    label_ids   tokens of ``prompt.yes`` and ``prompt.no``; a server whose tokenizer disagrees serves another model
    weight      of the calibrated log-odds in the mix, if an arm says nothing else
    band        lengths of history for which mixing raised the AUC on the validation split; None: for none was it shown
    fitted_to   the CTR model beside which weight and band were found; None in manifests older than this field
    tolerance   by how much a probability of a canary may differ, as another implementation rounds otherwise
    items       SHA-256 of the file of items beside the manifest
    item_columns  of which the items' names and texts were written; None in manifests older than this field
    metrics     measured offline, on the named splits
    """

    model_config = FrozenConfig

    format: Literal[1] = FORMAT
    name: str
    model: str
    base: str
    dtype: str
    prompt: RerankPrompt
    label_ids: tuple[int, int]
    calibration: Calibration = Platt()
    weight: Probability = 0.0
    band: HistoryBand | None = None
    fitted_to: FittedTo | None = None
    canaries: tuple[Canary, ...] = ()
    tolerance: Probability = 0.1
    items: Digest
    item_columns: tuple[str, ...] | None = None
    trained_until_ms: int
    metrics: Mapping[str, float] = {}

    @classmethod
    def from_json(cls, text: str | bytes) -> RerankerManifest:
        """RerankerError if it is not understood."""
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise RerankerError(f"reranker manifest is not understood: {error}") from error

    @property
    def carried(self) -> frozenset[str] | None:
        """Fields that prompts carry (``models.contract.leaving``); None if nothing tells."""
        if self.item_columns is None:
            return None
        fields = [f"users.{name}" for name in self.prompt.profile_fields]
        fields += [f"items.{column}" for column in self.item_columns]
        return frozenset([*fields, *([HISTORY] if self.prompt.history else [])])

    def mixes(self, events: int) -> bool:
        """Whether mixing was shown to help users with a history of so many events."""
        band = self.band
        return band is not None and band.shortest <= events and (band.longest is None or events <= band.longest)

    def mismatch(self, live: FittedTo) -> str:
        """Why weight and band are not those of the CTR model ``live``; "" if they are, or if that was not noted."""
        if self.fitted_to is None or self.fitted_to.artifact_sha256 == live.artifact_sha256:
            return ""
        return (
            f"weight and band were fitted against model {self.fitted_to.model}, and {live.model} is live: "
            "run `tune-reranker`"
        )

    def broken(self, answers: Sequence[Sequence[float]]) -> str:
        """The fault of the probabilities [canaries][2] that a server answered to the canaries' prompts; "" if they are
        sound."""
        if not self.canaries:
            return ""
        probabilities = np.array(answers, np.float64)
        if probabilities.shape != (len(self.canaries), 2):
            return f"{len(self.canaries)} canaries of two prompts got answers of shape {probabilities.shape}"
        if not (np.isfinite(probabilities).all() and (probabilities >= 0).all() and (probabilities <= 1).all()):
            return "an answer to a canary is no probability"
        if np.ptp(probabilities) < _FLAT:
            return f"all canaries are answered with {probabilities.mean():.4f}"
        if (probabilities[:, 0] <= probabilities[:, 1]).any():
            return "a canary is answered in the wrong order"
        off = np.abs(probabilities - np.array([canary.probabilities for canary in self.canaries])).max()
        return f"an answer to a canary is {off:.4f} off" if off > self.tolerance else ""


def log_odds(probability: FloatArray) -> FloatArray:
    """Log-odds [n] of probabilities [n]. RerankerError for what is none: no verdict must not pass for a low one."""
    values = np.asarray(probability, np.float64)
    if not ((values >= 0) & (values <= 1)).all():  # also refuses NaN
        raise RerankerError("an answer is no probability")
    inside = np.clip(values, _LEAST, 1 - _LEAST)
    return (np.log(inside) - np.log1p(-inside)).astype(np.float32)


def calibrated(calibration: Platt | Isotonic, probability: FloatArray) -> FloatArray:
    """Calibrated log-odds [n] of the model's raw probabilities of yes [n]."""
    return calibration.log_odds(log_odds(probability))


def blend(ctr: FloatArray, calibrated: FloatArray, weight: float) -> FloatArray:
    """Probabilities [n]: the mean of the CTR model's log-odds and the ``calibrated`` ones [n], weighted.

    ``ctr`` [n] are probabilities. Weight 0 is the CTR model alone, 1 the language model alone.
    """
    mixed = (1.0 - weight) * log_odds(ctr).astype(np.float64) + weight * calibrated.astype(np.float64)
    return np.asarray(1.0 / (1.0 + np.exp(-mixed)), np.float32)
