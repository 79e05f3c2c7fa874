"""The trainings of the benchmark: our model, with and without knowledge and from fewer samples, and every peer."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import metadata

from models.contract.schema import FeatureSchema, fingerprint
from offline.config import JobConfig
from offline.data.catalogue import DataError
from offline.knowledge.vectors import Knowledge
from research.quality.peers import LONG_PEERS, PEERS, PeerSettings, TreeSettings
from research.quality.predictions import Family, Statistics
from research.trials import TrialRunner, TrialSpec

OURS = "Lorank"
WITHOUT_KNOWLEDGE = "Lorank without knowledge"

PEER_SETTINGS = {
    "DIN": PeerSettings(use_statistics=True),
    "DCNv2": PeerSettings(use_statistics=True, embedding_regularizer=1e-4),
    "DeepFM": PeerSettings(),
    "FinalMLP": PeerSettings(use_statistics=True, embedding_regularizer=1e-4),
    "LightGBM": PeerSettings(tree=TreeSettings(learning_rate=0.02)),
    "Bayesian": PeerSettings(),
    "ETA": PeerSettings(use_statistics=True),
    "SDIM": PeerSettings(use_statistics=True),
}
"""Chosen on the validation split: research/LOG.md. ETA's and SDIM's are those of DIN, which reads the same inputs."""

LONG_HISTORIES = (128, 256)
"""Events that peers made for long histories are trained with, each once."""

_CODE = 2
"""Raise it when code changes what a training gives: what was trained before is then trained again."""

_SERVING = 3
"""Raise it when code changes what our exported models answer or how long they take: they are then exported, scored and
timed again, from the weights that are there."""

_PACKAGES = {"LightGBM": "lightgbm", "Bayesian": "numpy"}
"""Distributions that peers' numbers come from; FuxiCTR's models have it in common."""


@dataclass(frozen=True, slots=True)
class Circumstances:
    """Fingerprints of all but the seed that weights come from, and of all that answers come from. A peer trains and
    answers in one step."""

    weights: str
    answers: str


@dataclass(frozen=True, slots=True)
class Training:
    """A model to train with one seed. ``producers``: whose knowledge it reads, if it is ours; ``peer``: its name, if
    it is one. ``statistics``: with which it is scored; it is trained once."""

    model: str
    family: Family
    seed: int
    share: float = 1.0
    producers: tuple[str, ...] = ()
    peer: str = ""
    statistics: tuple[Statistics, ...] = ("frozen",)
    history: int = 0

    @property
    def label(self) -> str:
        share = "" if self.share == 1.0 else f", {100 * self.share:g} %"
        return f"{self.model}{share}, seed {self.seed}"

    def keys(self, circumstances: Circumstances) -> list[str]:
        """Names of the files of its answers, one for each of its ``statistics``."""
        return [
            self._name("-live" if statistics == "live" else "", circumstances.answers) for statistics in self.statistics
        ]

    def weights_key(self, circumstances: Circumstances) -> str:
        """Name of the file of its weights."""
        return self._name("", circumstances.weights)

    def _name(self, kind: str, circumstances: str) -> str:
        slug = re.sub(r"[^a-z0-9]+", "-", self.model.lower()).strip("-")
        return f"{slug}{kind}-{self.share:g}-{circumstances}-seed{self.seed}"


def trainings(
    config: JobConfig,
    knowledge: Knowledge,
    seeds: int,
    peer_seeds: int,
    only: str = "",
    long_peers: bool = False,
) -> list[Training]:
    """Seed by seed, so that a table can be made of any prefix. What the curve of shares needs has ``share_seeds``.

    Those whose label contains ``only``. Peers made for long histories are among them if ``long_peers`` or ``only`` asks
    for them. DataError if there are none, or if one reads knowledge that is not there: a model without it would go by
    the name of one with it.
    """
    producers = tuple(knowledge.produced)
    planned = []
    for seed in range(1, max(seeds, peer_seeds) + 1):
        if seed <= seeds:
            planned.append(Training(OURS, "ours", seed, producers=producers, statistics=("frozen", "live")))
        if seed <= peer_seeds:
            planned += [Training(f"{name} ({_origin(name)})", "peer", seed, peer=name) for name in PEERS]
        if seed <= min(seeds, config.benchmark.share_seeds):
            planned.append(Training(WITHOUT_KNOWLEDGE, "ours", seed))
            planned += [
                Training(name, "ours", seed, share, reads)
                for share in config.benchmark.shares
                for name, reads in ((OURS, producers), (WITHOUT_KNOWLEDGE, ()))
            ]
    if peer_seeds and (long_peers or any(name in only for name in LONG_PEERS)):
        planned += [
            Training(f"{name} ({_origin(name)}, {events} events)", "peer", 1, peer=name, history=events)
            for events in LONG_HISTORIES
            for name in LONG_PEERS
        ]
    chosen = [training for training in planned if only in training.label]
    if not chosen:
        names = sorted({training.model for training in planned})
        raise DataError(f"no training's name contains {only!r}; models are {', '.join([*names, *LONG_PEERS])}")
    missing = {spec.name for spec in config.feature_schema.knowledge}.difference(knowledge.produced)
    if missing and any(training.model == OURS for training in chosen):
        raise DataError(
            f"there is no knowledge {sorted(missing)} of these users and items: make it first "
            f"(python -m offline knowledge), or choose models that do not read it (--only)"
        )
    return chosen


def circumstances(config: JobConfig, runner: TrialRunner, knowledge: Knowledge, training: Training) -> Circumstances:
    """Circumstances of a training. A peer's do not change with our settings."""
    if not training.peer:
        schema = config.feature_schema.with_knowledge(training.producers)
        spec = TrialSpec(schema, knowledge.of(training.producers), training.label, training.seed)
        weights = {"ours": runner.circumstances(spec), "share": training.share, "code": _CODE}
        answers = weights | {"serving": _SERVING, "onnxruntime": metadata.version("onnxruntime")}
        return Circumstances(fingerprint(weights, 12), fingerprint(answers, 12))
    settings = PEER_SETTINGS[training.peer]
    document = {
        "data": runner.data(peer_schema(config, training.history), Knowledge({})),
        "peer": training.peer,
        # settings of one peer alone do not make others train again
        "settings": settings.model_dump(mode="json", exclude=None if training.peer == "Bayesian" else {"regression"}),
        "package": _package(training),
        "code": _CODE,
    }
    both = fingerprint(document, 12)
    return Circumstances(both, both)


def peer_schema(config: JobConfig, history: int = 0) -> FeatureSchema:
    """The schema as peers see it: no knowledge, and their own length of history, which ``history`` is if it is not
    0."""
    schema = config.feature_schema.with_knowledge(())
    length = history or config.benchmark.peer_history or schema.history_length
    return schema.model_copy(update={"history_length": length})


def _package(training: Training) -> str:
    """Name and version of the distribution that a peer comes from; DataError if it is not installed."""
    package = _PACKAGES.get(training.peer, "fuxictr")
    try:
        return f"{package} {metadata.version(package)}"
    except metadata.PackageNotFoundError as error:
        raise DataError(
            f"{training.model} needs {package}: pip install -e '.[offline,peers]' -c constraints.txt, or choose others "
            "(--only)"
        ) from error


def _origin(peer: str) -> str:
    return {"LightGBM": "running statistics", "Bayesian": "ALS factors"}.get(peer, "FuxiCTR")
