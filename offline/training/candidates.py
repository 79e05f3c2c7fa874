"""The models that a configuration trains, and the one that "auto" chose. Knows no torch, so any job may read it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from models.contract.schema import FeatureSchema, RunningSpec, fingerprint
from offline.config import JobConfig, Served, TrainingConfig
from offline.data.catalogue import DataError
from offline.data.files import read_json, write_json

NAMES: dict[Served, str] = {
    "din": "DIN (target attention)",
    "dcnv2": "DCNv2",
    "deepfm": "DeepFM",
    "lifelong": "whole histories",
    "tree": "boosted trees",
}
"""Names of architectures in reports."""

TREE = NAMES["tree"]
"""Name of the trees' row in a quality table: what every model has to beat."""

HALF_LIVES_DAYS = (1.0, 7.0, 30.0)
"""Of counts that forget by the clock, where a configuration lists none."""

_CHOICE_FILE = "choice.json"

_COMPARED: tuple[Served, ...] = ("din", "dcnv2", "deepfm")


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A model to train; ``label`` names it in reports. ``producers`` None: it reads all knowledge there is."""

    label: str
    architecture: Served
    producers: tuple[str, ...] | None = None

    def schema(self, config: JobConfig, of_knowledge: FeatureSchema) -> FeatureSchema:
        """What the model reads, of ``of_knowledge``, the configured schema with as much of its knowledge as there is.
        Trees beside another model have running features whatever that has."""
        schema = of_knowledge if self.producers is None else of_knowledge.with_knowledge(self.producers)
        if self.architecture != "tree" or config.training.served == "tree":
            return schema
        running = schema.running or RunningSpec(half_lives_days=HALF_LIVES_DAYS if config.data.timed else ())
        length = min(schema.history_length, config.training.choice.window)
        return schema.model_copy(update={"running": running, "history_length": length})


def architecture_of(training: TrainingConfig) -> Served:
    """The architecture that is served. DataError for "auto", which only a training can settle."""
    if training.served == "auto":
        raise DataError('training.served = "auto" is settled by a training: run `refresh`, or name an architecture')
    return training.served


def specs(config: JobConfig) -> list[ModelSpec]:
    """The served model first, then (``compare``) its rivals, then trees. DataError for "auto"."""
    served = architecture_of(config.training)
    chosen = [ModelSpec(NAMES[served] if served == "tree" else f"{NAMES[served]} + knowledge", served)]
    if config.training.compare:
        if served != "tree":
            chosen.append(ModelSpec(f"{NAMES[served]}, no knowledge", served, ()))
        chosen += [ModelSpec(f"{NAMES[key]} + knowledge", key) for key in _COMPARED if key != served]
    if served != "tree":
        chosen.append(ModelSpec(TREE, "tree", ()))
    return chosen


def candidate_config(config: JobConfig, architecture: Served) -> JobConfig:
    """The configuration with a candidate of "auto" in its place. A window of history is shorter than whole
    histories."""
    schema, training = config.feature_schema, config.training
    whole = architecture == "lifelong" and config.data.labels.kind != "implicit"
    length = schema.history_length if whole else min(schema.history_length, training.choice.window)
    return config.model_copy(
        update={
            "training": training.model_copy(update={"served": architecture}),
            "feature_schema": schema.model_copy(update={"history_length": length}),
        }
    )


@dataclass(frozen=True, slots=True)
class Choice:
    """The architecture that "auto" chose, for as long as the ``settings`` are those.

    ``table`` has a row for each candidate, from the simplest: ``architecture``, ``milliseconds`` for 500 candidates on
    the reference core (cost.py), and of those that were fast enough to be trained ``logloss``, ``auc``, ``ece`` of
    validation samples, ``seconds`` of training, and ``logloss_difference`` and ``auc_difference`` from the best
    (middle, low, high). ``sentence`` says why; ``seconds`` is what choosing took in all. Seconds are processor time.
    """

    architecture: Served
    settings: str
    samples: int
    sentence: str
    seconds: float
    table: list[dict[str, Any]] = field(default_factory=list)

    @property
    def too_slow(self) -> dict[Served, float]:
        """Milliseconds of the candidates that were not trained."""
        return {row["architecture"]: row["milliseconds"] for row in self.table if "seconds" not in row}

    def document(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of(cls, document: dict[str, Any], config: JobConfig) -> Choice | None:
        """The choice as it was noted; None if there is none, or it was made under other settings."""
        if not document or document.get("settings") != settings_of(config):
            return None
        return cls(**document)


def save_choice(choice: Choice, folder: Path) -> None:
    """Note the choice in the folder of models. It outlives a training that does not end, and one of an architecture
    that the configuration names."""
    write_json(folder / _CHOICE_FILE, choice.document())


def former_choice(folder: Path, config: JobConfig) -> Choice | None:
    """The last choice that was noted in the folder of models; None if there is none that still holds."""
    path = folder / _CHOICE_FILE
    try:
        return Choice.of(read_json(path), config) if path.is_file() else None
    except (DataError, TypeError):  # damaged, or of another version
        return None


def settings_of(config: JobConfig) -> str:
    """Digest of the settings of the choice: under others it is made anew."""
    return fingerprint(config.training.choice.model_dump(mode="json"))


def as_trained(config: JobConfig, architecture: str) -> JobConfig:
    """The configuration of a model that was trained, by its report's architecture: without "auto". DataError for a
    report that names none of them."""
    if config.training.served != "auto":
        return config
    if architecture not in NAMES:
        raise DataError("the report of the last training names no architecture: run `refresh` first")
    return candidate_config(config, architecture)
