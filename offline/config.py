"""The configuration of the offline jobs: one frozen, strict TOML file per data set."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError, model_validator

from models.contract.schema import FeatureSchema, FrozenConfig
from offline.llm.config import LLMConfig

Share = Annotated[float, Field(ge=0, le=1)]


class ConfigError(ValueError):
    """The configuration file is missing, is not TOML, or says something this version does not understand."""


class DataConfig(BaseModel):
    model_config = FrozenConfig

    source: Literal["movielens-100k"]


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


class KnowledgeConfig(BaseModel):
    """LIBER partitions, text encoding, and how long a record stays fresh."""

    model_config = FrozenConfig

    partition_size: Annotated[int, Field(ge=2, le=500)] = 50
    item_tokens: Annotated[int, Field(ge=8, le=2048)] = 64
    partition_tokens: Annotated[int, Field(ge=8, le=2048)] = 64
    encoder: str = "all-MiniLM-L6-v2"
    encoder_tokens: Annotated[int, Field(ge=16, le=512)] = 128
    dtype: Literal["float16", "int8"] = "float16"
    shipped_responses: Path | None = None
    ttl_days: Annotated[float, Field(gt=0)] = 30.0


class TrainingConfig(BaseModel):
    """CTR model training. Every epoch is judged on the validation split; the test split is read once, at the end."""

    model_config = FrozenConfig

    served: Literal["din", "dcnv2", "deepfm"] = "din"
    compare: bool = True  # also train the other architectures and the served one without knowledge, for the report
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (1,)
    epochs: Annotated[int, Field(ge=1)] = 12
    patience: Annotated[int, Field(ge=1)] = 2
    batch_size: Annotated[int, Field(ge=1)] = 512
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    embedding_dim: Annotated[int, Field(ge=2)] = 32
    dropout: Share = 0.1
    knowledge_dropout: Share = 0.2
    retrain_growth: Annotated[float, Field(ge=0)] = 0.1  # a refresh trains again when the log grew by this share


class PublishConfig(BaseModel):
    """What a new release must show before traffic moves to it, and how many old ones stay for a rollback."""

    model_config = FrozenConfig

    min_item_coverage: Share = 0.99
    max_auc_drop: Share = 0.01
    keep_releases: Annotated[int, Field(ge=2)] = 3
    history_max_events: Annotated[int, Field(ge=1)] = 10_000


class JobConfig(BaseModel):
    """Everything one data set's jobs need. ``workdir`` holds all their state and may be deleted at any time."""

    model_config = FrozenConfig

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,40}$")]
    workdir: Path
    data: DataConfig
    samples: SamplesConfig = SamplesConfig()
    feature_schema: FeatureSchema
    llm: LLMConfig = LLMConfig()
    knowledge: KnowledgeConfig = KnowledgeConfig()
    training: TrainingConfig = TrainingConfig()
    publish: PublishConfig = PublishConfig()

    @model_validator(mode="after")
    def _shipped_responses_exist(self) -> JobConfig:
        path = self.knowledge.shipped_responses
        if path is not None and not path.is_file():
            raise ValueError(f"knowledge.shipped_responses: no file {path}")
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
        lines = [f"  {'.'.join(str(part) for part in one['loc'])}: {one['msg']}" for one in error.errors()]
        raise ConfigError(f"{path} is not understood:\n" + "\n".join(lines)) from error


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error
