"""A small seeded data set with a rule in it: every user likes the films of one genre, and little else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from models.contract.arrays import FloatArray
from models.contract.knowledge import Space
from models.contract.schema import FeatureSchema, FieldSpec, KnowledgeSpec
from offline.config import JobConfig, PublishConfig, SamplesConfig, TrainingConfig
from offline.data.catalogue import Catalogue
from offline.data.config import DataConfig
from offline.data.log import InteractionLog
from offline.knowledge.config import KnowledgeConfig, LiberConfig
from offline.knowledge.liber.partitions import Trigger, close_partitions
from offline.knowledge.vectors import ItemVectors, Knowledge, Produced, UserVectors
from offline.training.statistics import statistics_until

GENRES = ("Comedy", "Drama", "Thriller", "War")
OCCUPATIONS = ("farmer", "teacher", "writer")
PARTITION_SIZE = 5
DIM = 6
SLICES = (0, 600, 1200)
"""First log rows of the slices of "item/marc"; the training period ends later."""

SCHEMA = FeatureSchema(
    name="synthetic",
    user_fields=(FieldSpec(name="age", edges=(25, 45)), FieldSpec(name="occupation", vocab=OCCUPATIONS)),
    item_fields=(FieldSpec(name="genres", vocab=GENRES, slots=2), FieldSpec(name="year", edges=(1980, 1990, 2000))),
    history_length=8,
    knowledge=(
        KnowledgeSpec(name="text", side="item", dim=DIM),
        KnowledgeSpec(name="liber", side="user", rows=3, dim=DIM),
        KnowledgeSpec(name="marc", side="user", dim=DIM - 2),
        KnowledgeSpec(name="marc", side="item", dim=DIM - 2),
    ),
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
        knowledge=KnowledgeConfig(liber=LiberConfig(partition_size=PARTITION_SIZE), ttl_days=2),
        training=TrainingConfig(
            **{"compare": False, "epochs": 1, "batch_size": 256, "embedding_dim": 8, "learning_rate": 5e-3, **training}
        ),
        publish=PublishConfig(keep_releases=2),
    )


def knowledge_of(catalogue: Catalogue, log: InteractionLog) -> Knowledge:
    """Knowledge without a language model, in all forms that there are.

    text   items by their own fields: one slice
    liber  users by what they liked in each closed partition: several rows
    marc   users by what they liked in all closed partitions, items by who liked them: one row, codes, slices
    """
    items = np.array([_item_vector(catalogue.items.get(item, {})) for item in log.item_ids], np.float32)
    known = np.array([item in catalogue.items for item in log.item_ids], np.bool_)
    partitions = close_partitions(log, Trigger(PARTITION_SIZE))
    signs = np.where(log.value[partitions.rows] > SCHEMA.liked_above, 1.0, -1.0).astype(np.float32)
    liked = (items[log.item[partitions.rows]] * signs[:, None]).reshape(-1, PARTITION_SIZE, DIM).mean(axis=1)
    so_far = [liked[partitions.start[user] : at + 1].mean(axis=0)[: DIM - 2] for at, user in enumerate(partitions.user)]
    taste = np.array(so_far, np.float32).reshape(len(partitions), DIM - 2)
    slices = [row for row in SLICES if row <= 0.7 * len(log)]
    return Knowledge(
        {
            "text": Produced(items=ItemVectors.of_texts(_space("text", "item"), items, known)),
            "liber": Produced(
                users=UserVectors(_space("liber", "user"), liked, partitions.start, partitions.closed_at),
                texts={log.user_ids[user]: f"taste of {log.user_ids[user]}" for user in partitions.user},
            ),
            "marc": Produced(
                users=UserVectors(_space("marc", "user"), taste, partitions.start, partitions.closed_at, _codes(taste)),
                items=ItemVectors(
                    _space("marc", "item"),
                    np.stack([_liked_items(log, items, row) for row in slices]) * known[:, None],
                    known,
                    np.array(slices, np.int64),
                    _codes(items[:, : DIM - 2]),
                ),
            ),
        }
    )


def _space(name: str, side: str) -> Space:
    (spec,) = (spec for spec in SCHEMA.knowledge if (spec.name, spec.side) == (name, side))
    return Space.model_validate({**spec.model_dump(), "components": {"made": "by hand"}})


def _codes(vectors: FloatArray) -> npt.NDArray[np.uint16]:
    """[n, 2]"""
    return np.stack([vectors.argmax(axis=1), vectors.argmin(axis=1)], axis=1).astype(np.uint16)


def _liked_items(log: InteractionLog, items: FloatArray, until: int) -> FloatArray:
    """Items [items, DIM - 2] as the log rows before ``until`` tell them."""
    return np.concatenate([statistics_until(SCHEMA, log, until), items[:, :1]], axis=1).astype(np.float32)


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
                "genres": [str(genre) for genre in generator.choice(GENRES, generator.integers(1, 3), replace=False)],
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
