"""A small seeded data set with a rule in it: every user likes the films of one genre, and little else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from models.contract.knowledge import FloatArray, Space
from models.contract.schema import FeatureSchema, FieldSpec
from offline.config import DataConfig, JobConfig, KnowledgeConfig, PublishConfig, SamplesConfig, TrainingConfig
from offline.data.catalogue import Catalogue
from offline.data.log import InteractionLog
from offline.knowledge.build import Knowledge
from offline.knowledge.liber.partitions import close_partitions

GENRES = ("Comedy", "Drama", "Thriller", "War")
OCCUPATIONS = ("farmer", "teacher", "writer")
PARTITION_SIZE = 5

SCHEMA = FeatureSchema(
    name="synthetic",
    user_fields=(FieldSpec(name="age", edges=(25, 45)), FieldSpec(name="occupation", vocab=OCCUPATIONS)),
    item_fields=(FieldSpec(name="genres", vocab=GENRES, slots=2), FieldSpec(name="year", edges=(1980, 1990, 2000))),
    history_length=8,
    partitions=3,
    knowledge_dim=6,
)


@dataclass(frozen=True, slots=True)
class Synthetic:
    """A data set and the configuration that its jobs would have."""

    config: JobConfig
    catalogue: Catalogue
    log: InteractionLog
    knowledge: Knowledge


def synthetic(workdir: Path, *, seed: int = 0, users: int = 60, items: int = 40, events: int = 30) -> Synthetic:
    """``events`` interactions of each of ``users`` users with ``items`` items, in one shuffled stream."""
    generator = np.random.default_rng(seed)
    catalogue = _catalogue(generator, users, items)
    log = _log(generator, catalogue, events)
    return Synthetic(job_config(workdir), catalogue, log, knowledge_of(catalogue, log))


def job_config(workdir: Path, **training: Any) -> JobConfig:
    """One epoch of one small model, unless ``training`` says otherwise."""
    return JobConfig(
        name="synthetic",
        workdir=workdir,
        data=DataConfig(source="movielens-100k"),
        samples=SamplesConfig(min_history=3),
        feature_schema=SCHEMA,
        knowledge=KnowledgeConfig(partition_size=PARTITION_SIZE, ttl_days=2),
        training=TrainingConfig(
            **{"compare": False, "epochs": 1, "batch_size": 256, "embedding_dim": 8, "learning_rate": 5e-3, **training}
        ),
        publish=PublishConfig(keep_releases=2),
    )


def knowledge_of(catalogue: Catalogue, log: InteractionLog) -> Knowledge:
    """Knowledge without a language model: an item's vector tells its genres, a partition's what was liked in it."""
    items = np.array([_item_vector(catalogue.items.get(item, {})) for item in log.item_ids], np.float32)
    partitions = close_partitions(log, PARTITION_SIZE)
    signs = np.where(log.value[partitions.rows] > SCHEMA.liked_above, 1.0, -1.0).astype(np.float32)
    vectors = (items[log.item[partitions.rows]] * signs[..., None]).mean(axis=1)
    return Knowledge(
        spaces={
            "item": _space("item-text", "item", 1),
            "user": _space("liber", "user", SCHEMA.partitions),
        },
        items=items,
        known_items=np.array([item in catalogue.items for item in log.item_ids], np.bool_),
        partitions=vectors.astype(np.float32).reshape(len(partitions), SCHEMA.knowledge_dim),
        partition_start=partitions.start,
        item_texts=tuple(log.item_ids),
        partition_texts=("",) * len(partitions),
    )


def _space(name: str, side: str, rows: int) -> Space:
    return Space.model_validate(
        {"name": name, "side": side, "rows": rows, "dim": SCHEMA.knowledge_dim, "components": {"made": "by hand"}}
    )


def _catalogue(generator: np.random.Generator, users: int, items: int) -> Catalogue:
    return Catalogue(
        users={
            f"u{at}": {"age": int(generator.integers(15, 70)), "occupation": str(generator.choice(OCCUPATIONS))}
            for at in range(users)
        },
        items={
            f"i{at}": {
                "title": f"Film {at}",
                "year": int(generator.integers(1970, 2010)),
                "genres": [str(one) for one in generator.choice(GENRES, generator.integers(1, 3), replace=False)],
            }
            for at in range(items)
        },
    )


def _log(generator: np.random.Generator, catalogue: Catalogue, events: int) -> InteractionLog:
    users, items = list(catalogue.users), list(catalogue.items)
    rows = []
    for number, at in enumerate(generator.permutation(len(users) * events)):
        user, item = int(at) // events, items[int(generator.integers(len(items)))]
        likes = GENRES[user % len(GENRES)] in catalogue.items[item]["genres"]
        likes = likes if generator.random() < 0.9 else not likes
        value = generator.choice((4.0, 5.0)) if likes else generator.choice((1.0, 2.0, 3.0))
        rows.append((users[user], item, float(value), 1_000_000 + 60_000 * number))
    return InteractionLog.sorted_by_time(rows, users, items)


def _item_vector(features: Mapping[str, Any]) -> FloatArray:
    genres = [float(genre in features.get("genres", ())) for genre in GENRES]
    year = (features.get("year", 1990) - 1990) / 20
    return np.array([*genres, year, 1.0], np.float32)
