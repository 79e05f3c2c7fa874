"""The configuration of the offline jobs: one frozen, strict TOML file per data set."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError, model_validator

from models.contract.experiments import Share
from models.contract.prompts import RerankPrompt
from models.contract.schema import FeatureSchema, FrozenConfig
from models.contract.unknown_keys import problem_lines
from offline.data.config import DataConfig
from offline.engine.engines import RayConfig
from offline.knowledge.config import KnowledgeConfig
from offline.llm.arithmetic import Precision
from offline.llm.config import LLMConfig

Count = Annotated[int, Field(ge=1)]

NAME = r"^[A-Za-z0-9_-]{1,40}$"
"""Pattern of a configuration's name, which becomes part of keys and folders."""

DEMO_EXPERIMENTS = Path("configs/ml-100k.experiments.toml")
"""Experiments of the demo's service, where it is started in a checkout."""


_MOVED = dict.fromkeys(("llm.dtype", "reranking.dtype"), "is `arithmetic` at the top of the configuration now")
"""Settings that moved on 2026-11-29, with the sentence that names their new place."""


class ConfigError(ValueError):
    """The configuration file is missing, is not TOML, or says something this version does not understand."""


class SamplesConfig(BaseModel):
    """The choice of interactions that become training samples, and their split by global time or by the order of rows
    (offline/data/config.py: ``split_by``)."""

    model_config = FrozenConfig

    min_history: Annotated[int, Field(ge=0)] = 5
    split: tuple[Share, Share, Share] = (0.8, 0.1, 0.1)

    @model_validator(mode="after")
    def _shares_add_up(self) -> SamplesConfig:
        if abs(sum(self.split) - 1.0) > 1e-9:
            raise ValueError("split must add up to 1")
        return self


class LifelongConfig(BaseModel):
    """The model of whole histories (models/ctr/lifelong.py). ``factors``: of an item, in the process of ratings.
    ``tokens``: events in a batch. ``folds``: processes fitted without a part of the users each; 1 fits none.
    ``attention``: whether candidates also look for events like themselves. Decays and rates were measured:
    research/LOG.md, 2026-11-21."""

    model_config = FrozenConfig

    factors: Annotated[int, Field(ge=1)] = 16
    tokens: Annotated[int, Field(ge=1)] = 2048
    process_epochs: Annotated[int, Field(ge=1)] = 4
    process_learning_rate: Annotated[float, Field(gt=0)] = 1e-2
    factor_decay: Annotated[float, Field(ge=0)] = 1.0
    prior_decay: Annotated[float, Field(ge=0)] = 0.3
    folds: Annotated[int, Field(ge=1)] = 4
    attention: bool = True
    learning_rate: Annotated[float, Field(gt=0)] = 2e-3
    weight_decay: Annotated[float, Field(ge=0)] = 1e-2
    value_weight: Annotated[float, Field(ge=0)] = 0.3


class TreeConfig(BaseModel):
    """Boosted trees (models/ctr/tree.py): at most ``trees`` of at most ``leaves``, with ``least_samples`` in each leaf,
    grown until the LogLoss of the validation samples has not fallen for ``patience`` rounds, on at most
    ``most_samples``."""

    model_config = FrozenConfig

    trees: Annotated[int, Field(ge=1)] = 500
    leaves: Annotated[int, Field(ge=2)] = 31
    least_samples: Annotated[int, Field(ge=1)] = 20
    learning_rate: Annotated[float, Field(gt=0)] = 0.05
    l2: Annotated[float, Field(ge=0)] = 1.0
    patience: Annotated[int, Field(ge=1)] = 20
    most_samples: Annotated[int, Field(ge=1)] = 1_000_000


Served = Literal["din", "dcnv2", "deepfm", "lifelong", "tree"]


class ChoiceConfig(BaseModel):
    """The choice that ``served = "auto"`` leaves to the validation samples (offline/training/choose.py).

    ``candidates`` from the simplest on; those that read a window of history see at most ``window`` events. Each that
    takes at most ``ceiling_ms`` for 500 candidates of one request on the reference core of offline/training/cost.py,
    give or take a tenth, is trained for at most ``epochs``, on that ``share`` of the training samples or on
    ``least_samples``, whichever is more, of whole users.
    """

    model_config = FrozenConfig

    candidates: Annotated[tuple[Served, ...], Field(min_length=1)] = ("tree", "dcnv2", "din", "lifelong")
    window: Count = 200
    share: Annotated[float, Field(gt=0, le=1)] = 0.25
    least_samples: Count = 100_000
    epochs: Count = 4
    ceiling_ms: Annotated[float, Field(gt=0)] = 3.0

    def samples_of(self, count: int) -> int:
        """The number of training samples, of so many, that each candidate is tried on."""
        return min(count, max(self.least_samples, round(self.share * count)))

    @model_validator(mode="after")
    def _names_each_once(self) -> ChoiceConfig:
        if len(set(self.candidates)) != len(self.candidates):
            raise ValueError("candidates must differ")
        return self


class TrainingConfig(BaseModel):
    """CTR model training. Every epoch is judged on the validation split; the test split is read once, at the end.

    ``item_dropout``: the share of the items that a model does not know in training, drawn anew for each user and
    epoch: it sees neither their id embeddings nor their statistics, and so learns to rank new items. None: a quarter
    where negatives are drawn, else none (docs/knowledge.md has the measurements).
    """

    model_config = FrozenConfig

    served: Literal["auto", "din", "dcnv2", "deepfm", "lifelong", "tree"] = "din"
    choice: ChoiceConfig = ChoiceConfig()
    compare: bool = False  # also train the other architectures and the served one without knowledge, for the report
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (1,)
    epochs: Annotated[int, Field(ge=1)] = 6
    patience: Annotated[int, Field(ge=1)] = 2
    batch_size: Annotated[int, Field(ge=1)] = 512
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    embedding_dim: Annotated[int, Field(ge=2)] = 32
    dropout: Share = 0.1
    knowledge_dropout: Share = 0.2
    item_dropout: Share | None = None
    fusion: Literal["target", "learned"] = "target"  # of LIBER's partitions
    knowledge_adaptor: Literal["linear", "experts"] = "linear"  # what other knowledge vectors pass
    lifelong: LifelongConfig = LifelongConfig()
    tree: TreeConfig = TreeConfig()
    retrain_growth: Annotated[float, Field(ge=0)] = 0.1  # a refresh trains again when the log grew by this share


class TuningConfig(BaseModel):
    """Low-rank updates (LoRA, arXiv 2106.09685). Rank, scale, dropout and the two projections are ReLLa's.

    ``samples`` of the training split are told in both ways, with recent and with relevant events, so twice as many are
    learned from in an epoch. A step takes ``batch_size`` prompts, at most ``padded_tokens`` of them at once.
    ``checkpointing`` computes activations twice to hold fewer, which a large model on one GPU needs.
    """

    model_config = FrozenConfig

    samples: Count = 4000
    epochs: Count = 1
    batch_size: Count = 32
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    warm_up: Annotated[float, Field(ge=0, lt=1)] = 0.05
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    clip: Annotated[float, Field(gt=0)] = 1.0
    rank: Count = 8
    scale: Annotated[float, Field(gt=0)] = 16.0
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.05
    modules: Annotated[tuple[str, ...], Field(min_length=1)] = ("q_proj", "v_proj")
    checkpointing: bool = False
    save_every: Count = 25


class RerankingConfig(BaseModel):
    """The model that is tuned, how it is asked, and on how many rows it is calibrated and judged.

    ``model`` None: the packaged SmolLM2. ``frame`` "chat" writes out the model's own chat format with ``instruction``
    as its system message; "plain" keeps the prompt's ``opening`` and ``closing``. ``vector_dim`` numbers of an item's
    encoded text, by a principal component analysis, say what is similar. Each of the ``canaries`` is picked
    from so many ``candidates``.
    """

    model_config = FrozenConfig

    model: Path | None = None
    frame: Literal["chat", "plain"] = "chat"
    instruction: str = "You judge whether a viewer will like a film."
    prompt: RerankPrompt = RerankPrompt()
    vector_dim: Count = 64
    padded_tokens: Count = 8192
    tuning: TuningConfig = TuningConfig()
    validation_rows: Count = 2000
    test_rows: Count = 5000
    calibration: Literal["platt", "isotonic"] = "platt"
    canaries: Annotated[int, Field(ge=1, le=32)] = 4
    candidates: Annotated[int, Field(ge=2)] = 12
    tolerance: Annotated[float, Field(gt=0, lt=1)] = 0.1
    seed: int = 1


class BenchmarkConfig(BaseModel):
    """The comparison of `python -m research benchmark`. ``samples``: how many the protocol gives (train, validation,
    test), if that is known. ``shares`` of the training samples for the sample-efficiency curve, with ``share_seeds``
    trainings each."""

    model_config = FrozenConfig

    samples: tuple[int, int, int] | None = None
    peer_history: Annotated[int, Field(ge=1)] | None = None  # events that peers see; None: as many as our models
    shares: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = (0.01, 0.1)
    share_seeds: Annotated[int, Field(ge=1)] = 2


class PublishConfig(BaseModel):
    """Bounds that a new release must keep before traffic moves to it, and how many old ones stay for a rollback.
    ``max_auc_drop``: against the live model on the same validation samples, see offline/publish/comparison.py."""

    model_config = FrozenConfig

    min_item_coverage: Share = 0.99
    max_auc_drop: Share = 0.01
    keep_releases: Annotated[int, Field(ge=2)] = 3
    history_max_events: Annotated[int, Field(ge=1)] = 10_000
    texts: bool = False


class RetentionConfig(BaseModel):
    """How long what is stored of users stays, in days; None: without an end, as far as this goes. Histories and
    profiles end in Redis so long after the user's last interaction that the log has."""

    model_config = FrozenConfig

    history_days: Annotated[float, Field(gt=0)] | None = None
    profile_days: Annotated[float, Field(gt=0)] | None = None
    exposure_days: Annotated[float, Field(gt=0)] | None = None


class RetrievalConfig(BaseModel):
    """Indexes of item vectors, with which the service finds candidates itself (docs/retrieval.md).

    ``matching``      producer whose vectors of users and items are compared; by default AutoGraph, if the schema has
                      both
    ``neighbours``    producer whose item vectors say what is alike; by default the texts, or else the matching one
    ``least_recall``  of the ``top`` nearest items against an exact search, on ``queries`` sampled ones; an index that
                      cannot reach it is not published
    ``flat_up_to``    items up to which every search looks at all of them
    ``popularity_days`` before the newest interaction whose likes say what is popular; older ones break ties. None: all
                      likes count alike
    """

    model_config = FrozenConfig

    enabled: bool = True
    matching: str | None = None
    neighbours: str | None = None
    kind: Literal["flat", "ivf", "hnsw"] | None = None  # None: by the number of items
    flat_up_to: Annotated[int, Field(ge=0)] = 20_000
    top: Annotated[int, Field(ge=1, le=2000)] = 200
    least_recall: Annotated[float, Field(gt=0, le=1)] = 0.99
    queries: Annotated[int, Field(ge=1)] = 500
    popularity_days: Annotated[float, Field(gt=0)] | None = None


class JobConfig(BaseModel):
    """The configuration of one data set's jobs. ``workdir`` holds all their state; docs/operations.md says what of
    it cannot be made again. ``arithmetic``: of language models and encoders in the jobs' own processes
    (offline/llm/arithmetic.py)."""

    model_config = FrozenConfig

    name: Annotated[str, Field(pattern=NAME)]
    workdir: Path
    data: DataConfig
    samples: SamplesConfig = SamplesConfig()
    feature_schema: FeatureSchema
    llm: LLMConfig = LLMConfig()
    ray: RayConfig = RayConfig()
    arithmetic: Precision = "auto"
    knowledge: KnowledgeConfig = KnowledgeConfig()
    training: TrainingConfig = TrainingConfig()
    reranking: RerankingConfig = RerankingConfig()
    publish: PublishConfig = PublishConfig()
    retention: RetentionConfig = RetentionConfig()
    retrieval: RetrievalConfig = RetrievalConfig()
    benchmark: BenchmarkConfig = BenchmarkConfig()

    @model_validator(mode="after")
    def _retrieval_reads_what_there_is(self) -> JobConfig:
        keys = {spec.key for spec in self.feature_schema.knowledge if spec.rows == 1}
        for role, sides in {"matching": ("user", "item"), "neighbours": ("item",)}.items():
            name = getattr(self.retrieval, role)
            missing = [f"{side}/{name}" for side in sides if f"{side}/{name}" not in keys]
            if name is not None and missing:
                raise ValueError(f"retrieval.{role}: the feature schema has no vector {', '.join(missing)}")
        return self

    @model_validator(mode="after")
    def _settings_suit_the_data(self) -> JobConfig:
        if self.data.brings_parts and "split" in self.samples.model_fields_set:
            raise ValueError(f"samples.split: takes no effect, samples are split {self.data.split_words}")
        if not self.data.timed and self.knowledge.liber.partition_days is not None:
            raise ValueError("knowledge.liber.partition_days: takes no effect, interactions have no times")
        running = self.feature_schema.running
        if running is not None and running.is_timed and not self.data.timed:
            raise ValueError("feature_schema.running.half_lives_days: takes no effect, interactions have no times")
        if self.training.served in ("tree", "auto") and running is None:
            served = self.training.served
            raise ValueError(f'training.served = "{served}" reads running features: add [feature_schema.running]')
        return self

    @model_validator(mode="after")
    def _shipped_files_exist(self) -> JobConfig:
        for name in ("shipped_responses", "shipped_vectors"):
            path = getattr(self.knowledge, name)
            if path is not None and not path.is_file():
                raise ValueError(f"knowledge.{name}: no file {path}")
        return self


def load_config(path: Path) -> JobConfig:
    """The configuration in ``path``. ConfigError names the file and every offending key.

    ``extends = "other.toml"`` takes everything from a file beside it that is not said here; a table replaces the whole
    table of that name.
    """
    document = _read(path)
    base = document.pop("extends", None)
    if base is not None:
        document = {**_read(path.parent / str(base)), **document}
    try:
        return JobConfig.model_validate(document)
    except ValidationError as error:
        lines = "\n".join(f"  {line}" for line in problem_lines(JobConfig, error, _MOVED))
        raise ConfigError(f"{path} is not understood:\n{lines}") from error


def _read(path: Path) -> dict[str, Any]:
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error
    texts = document["data"].get("texts") if isinstance(document.get("data"), dict) else None
    if isinstance(texts, dict) and texts.pop("event", None) is not None:
        print(f"{path}: [data.texts] event never had an effect and can be removed", file=sys.stderr)
    return document
