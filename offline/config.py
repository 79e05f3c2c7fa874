"""The configuration of the offline jobs: one frozen, strict TOML file per data set."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError, model_validator

from models.contract.schema import FeatureSchema, FrozenConfig
from offline.data.config import DataConfig
from offline.engine.config import RayConfig
from offline.knowledge.autograph.config import AutoGraphConfig as Founding
from offline.knowledge.liber.partitions import Trigger
from offline.knowledge.marc.config import CompressionConfig
from offline.llm.arithmetic import Precision
from offline.llm.config import LLMConfig
from offline.reranking.config import RerankingConfig

Share = Annotated[float, Field(ge=0, le=1)]

DEMO_EXPERIMENTS = Path("configs/ml-100k.experiments.toml")
"""Experiments of the demo's service, where it is started in a checkout."""


_MOVED = dict.fromkeys(("llm.dtype", "reranking.dtype"), "is `arithmetic` at the top of the configuration now")
"""Settings that moved on 2026-11-29, with the sentence that names their new place."""


class ConfigError(ValueError):
    """The configuration file is missing, is not TOML, or says something this version does not understand."""


class SamplesConfig(BaseModel):
    """Which interactions become training samples, and how they are split by global time."""

    model_config = FrozenConfig

    min_history: Annotated[int, Field(ge=0)] = 5
    split: tuple[Share, Share, Share] = (0.8, 0.1, 0.1)

    @model_validator(mode="after")
    def _shares_add_up(self) -> SamplesConfig:
        if abs(sum(self.split) - 1.0) > 1e-9:
            raise ValueError("split must add up to 1")
        return self


Dtype = Literal["float16", "int8"]


class PlainTextConfig(BaseModel):
    """The control: items' own texts, encoded without a language model."""

    model_config = FrozenConfig

    dtype: Dtype = "float16"


class LiberConfig(BaseModel):
    """When a user's cache of interactions closes, and what is asked about a closed partition."""

    model_config = FrozenConfig

    partition_size: Annotated[int, Field(ge=2, le=500)] | None = 50
    partition_days: Annotated[float, Field(gt=0)] | None = None
    titles: Annotated[int, Field(ge=1, le=500)] = 20  # at most so many liked, and so many others, are told to the model
    summary_tokens: Annotated[int, Field(ge=8, le=2048)] = 64
    shift: bool = True
    shift_tokens: Annotated[int, Field(ge=8, le=2048)] = 48
    dtype: Dtype = "float16"

    @model_validator(mode="after")
    def _partitions_close(self) -> LiberConfig:
        if self.partition_size is None and self.partition_days is None:
            raise ValueError("partitions need partition_size, partition_days, or both")
        return self

    @property
    def trigger(self) -> Trigger:
        span = None if self.partition_days is None else round(self.partition_days * 86_400_000)
        return Trigger(self.partition_size, span)


class MarcConfig(BaseModel):
    """Which states of which language model are compressed. ``depth`` is a fraction of its layers (the sweep that chose
    it: docs/marc.md). ``model`` None: the packaged SmolLM2; states cannot be had from a server."""

    model_config = FrozenConfig

    model: Path | None = None
    depth: Annotated[float, Field(gt=0, le=1)] = 0.5
    max_tokens: Annotated[int, Field(ge=8, le=4096)] = 192
    titles: bool = True  # partitions are read with their titles: better, and twice as slow
    compression: CompressionConfig = CompressionConfig()
    dtype: Dtype = "int8"


class AutoGraphConfig(Founding):
    """Latent factors of items and users, and the network over them. The defaults were measured: docs/autograph.md."""

    dtype: Dtype = "float16"

    @property
    def founding(self) -> Founding:
        return Founding.model_validate(self.model_dump(exclude={"dtype"}))


class KnowledgeConfig(BaseModel):
    """What the producers of knowledge share: item texts, the text encoder, how long a record stays fresh.

    Which producers run follows from the feature schema: those whose knowledge it lists.
    """

    model_config = FrozenConfig

    item_tokens: Annotated[int, Field(ge=8, le=2048)] = 64
    encoder: str = "all-MiniLM-L6-v2"
    encoder_tokens: Annotated[int, Field(ge=16, le=512)] = 128
    text: PlainTextConfig = PlainTextConfig()
    liber: LiberConfig = LiberConfig()
    autograph: AutoGraphConfig = AutoGraphConfig()
    marc: MarcConfig = MarcConfig()
    shipped_responses: Path | None = None
    shipped_vectors: Path | None = None
    ttl_days: Annotated[float, Field(gt=0)] = 30.0


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


class TrainingConfig(BaseModel):
    """CTR model training. Every epoch is judged on the validation split; the test split is read once, at the end."""

    model_config = FrozenConfig

    served: Literal["din", "dcnv2", "deepfm", "lifelong"] = "din"
    compare: bool = False  # also train the other architectures and the served one without knowledge, for the report
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (1,)
    epochs: Annotated[int, Field(ge=1)] = 12
    patience: Annotated[int, Field(ge=1)] = 2
    batch_size: Annotated[int, Field(ge=1)] = 512
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    embedding_dim: Annotated[int, Field(ge=2)] = 32
    dropout: Share = 0.1
    knowledge_dropout: Share = 0.2
    fusion: Literal["target", "learned"] = "target"  # of LIBER's partitions
    lifelong: LifelongConfig = LifelongConfig()
    retrain_growth: Annotated[float, Field(ge=0)] = 0.1  # a refresh trains again when the log grew by this share


class BenchmarkConfig(BaseModel):
    """What `python -m research benchmark` compares. ``samples``: how many the protocol must give (train, validation,
    test), if that is known. ``shares`` of the training samples for the sample-efficiency curve, with ``share_seeds``
    trainings each."""

    model_config = FrozenConfig

    samples: tuple[int, int, int] | None = None
    peer_history: Annotated[int, Field(ge=1)] | None = None  # events that peers see; None: as many as our models
    shares: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = (0.01, 0.1)
    share_seeds: Annotated[int, Field(ge=1)] = 2


class PublishConfig(BaseModel):
    """What a new release must show before traffic moves to it, and how many old ones stay for a rollback."""

    model_config = FrozenConfig

    min_item_coverage: Share = 0.99
    max_auc_drop: Share = 0.01
    keep_releases: Annotated[int, Field(ge=2)] = 3
    history_max_events: Annotated[int, Field(ge=1)] = 10_000


class RetrievalConfig(BaseModel):
    """Indexes of item vectors, with which the service finds candidates itself (docs/retrieval.md).

    ``matching``      producer whose vectors of users and items are compared; by default AutoGraph, if the schema has
                      both
    ``neighbours``    producer whose item vectors say what is alike; by default the texts, or else the matching one
    ``least_recall``  of the ``top`` nearest items against an exact search, on ``queries`` sampled ones; an index that
                      cannot reach it is not published
    ``flat_up_to``    items up to which every search looks at all of them
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


class JobConfig(BaseModel):
    """Everything one data set's jobs need. ``workdir`` holds all their state; docs/operations.md says what of
    it cannot be made again. ``arithmetic``: of language models and encoders in the jobs' own processes
    (offline/llm/arithmetic.py)."""

    model_config = FrozenConfig

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,40}$")]
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
    retrieval: RetrievalConfig = RetrievalConfig()
    benchmark: BenchmarkConfig = BenchmarkConfig()

    @model_validator(mode="after")
    def _retrieval_reads_what_there_is(self) -> JobConfig:
        keys = {spec.key for spec in self.feature_schema.knowledge if spec.rows == 1}
        wanted: list[tuple[str, str | None, tuple[str, ...]]] = [
            ("matching", self.retrieval.matching, ("user", "item")),
            ("neighbours", self.retrieval.neighbours, ("item",)),
        ]
        for role, name, sides in wanted:
            missing = [f"{side}/{name}" for side in sides if f"{side}/{name}" not in keys]
            if name is not None and missing:
                raise ValueError(f"retrieval.{role}: the feature schema has no vector {', '.join(missing)}")
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
        lines = []
        for detail in error.errors():
            key = ".".join(str(part) for part in detail["loc"])
            lines.append(f"  {key}: {_MOVED.get(key, detail['msg'])}")
        raise ConfigError(f"{path} is not understood:\n" + "\n".join(lines)) from error


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error
