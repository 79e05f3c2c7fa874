"""A made-up installation of any size, published by the jobs themselves. Its weights are random: speed is the same."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from models.contract.knowledge import Space
from models.contract.schema import FeatureSchema, KnowledgeSpec
from offline.config import JobConfig, RetrievalConfig, load_config
from offline.data.catalogue import Catalogue
from offline.data.log import InteractionLog
from offline.knowledge.vectors import ItemVectors, Knowledge, Produced, UserVectors
from offline.publish.connection import Store
from offline.publish.publish import Published, publish
from offline.publish.staging import Contents
from offline.training.artifact import export_artifact, write_artifact
from offline.training.candidates import ModelSpec, architecture_of
from offline.training.fit import new_model
from offline.training.report import TrainingReport
from offline.training.samples import SampleEncoder, split_samples

DIM = 32


@dataclass(frozen=True, slots=True)
class World:
    """``users`` with ``events`` each, of ``items``. ``spaces`` of knowledge about items, the first about users too."""

    items: int = 10_000
    users: int = 1_000
    events: int = 200
    spaces: tuple[str, ...] = ("autograph",)
    architecture: Literal["lifelong", "din"] = "lifelong"
    seed: int = 0

    @property
    def user_ids(self) -> tuple[str, ...]:
        return tuple(f"u{at}" for at in range(self.users))

    @property
    def item_ids(self) -> tuple[str, ...]:
        return tuple(f"i{at}" for at in range(self.items))


def publish_world(world: World, store: Store, folder: Path, weights: int = 0) -> Published:
    """Make it and publish it, as a release of its own for each seed of its ``weights``."""
    config = job_of(world, folder)
    catalogue, log = catalogue_of(world, config.feature_schema), log_of(world)
    knowledge = _knowledge(world, config.feature_schema)
    report = _model(config, catalogue, log, knowledge, folder, weights)
    return publish(config, store, Contents(catalogue, log, knowledge, report, folder))


def job_of(world: World, folder: Path) -> JobConfig:
    """configs/ml-1m.toml with the world's spaces and architecture."""
    config = load_config(Path("configs/ml-1m.toml"))
    return config.model_copy(
        update={
            "name": "bench",
            "workdir": folder,
            "feature_schema": _schema(world, config.feature_schema),
            "retrieval": RetrievalConfig(enabled=False),  # bench/retrieval.py measures indexes
            "training": config.training.model_copy(update={"served": world.architecture}),
        }
    )


def _schema(world: World, schema: FeatureSchema) -> FeatureSchema:
    specs = [KnowledgeSpec(name=world.spaces[0], side="user", dim=DIM)]
    specs += [KnowledgeSpec(name=name, side="item", dim=DIM) for name in world.spaces]
    return FeatureSchema.model_validate({**schema.model_dump(), "knowledge": specs})  # a copy keeps what was cached


def catalogue_of(world: World, schema: FeatureSchema) -> Catalogue:
    random = np.random.default_rng([world.seed, 1])
    genres = next(field.vocab for field in schema.item_fields if field.name == "genres")
    drawn, years = random.integers(len(genres), size=(world.items, 2)), random.integers(1930, 2001, world.items)
    items = {
        item: {"genres": sorted({genres[first], genres[second]}), "year": year}
        for item, (first, second), year in zip(world.item_ids, drawn.tolist(), years.tolist(), strict=True)
    }
    ages = random.integers(15, 70, world.users).tolist()
    users = {user: {"age": age, "gender": "F"} for user, age in zip(world.user_ids, ages, strict=True)}
    return Catalogue(users=users, items=items)


def log_of(world: World) -> InteractionLog:
    random = np.random.default_rng([world.seed, 2])
    count = world.users * world.events
    return InteractionLog(
        user_ids=world.user_ids,
        item_ids=world.item_ids,
        user=random.permutation(np.repeat(np.arange(world.users, dtype=np.int32), world.events)),
        item=random.integers(world.items, size=count, dtype=np.int32),
        value=random.integers(1, 6, count).astype(np.float32),
        time_ms=1_600_000_000_000 + 1000 * np.arange(count, dtype=np.int64),
        sampled=np.zeros(count, np.bool_),
    )


def _knowledge(world: World, schema: FeatureSchema) -> Knowledge:
    random = np.random.default_rng([world.seed, 3])
    spaces = {
        (spec.name, spec.side): Space.model_validate({**spec.model_dump(), "components": {"made": "up"}})
        for spec in schema.knowledge
    }
    produced = {}
    for name in world.spaces:
        users = None
        if (name, "user") in spaces:
            vectors = random.standard_normal((world.users, DIM), np.float32)
            users = UserVectors(
                spaces[name, "user"], vectors, np.arange(world.users + 1), np.zeros(world.users, np.int64)
            )
        vectors = random.standard_normal((world.items, DIM), np.float32)
        known = np.ones(world.items, np.bool_)
        produced[name] = Produced(users=users, items=ItemVectors.of_texts(spaces[name, "item"], vectors, known))
    return Knowledge(produced)


def _model(
    config: JobConfig, catalogue: Catalogue, log: InteractionLog, knowledge: Knowledge, folder: Path, weights: int
) -> TrainingReport:
    """An exported model with random weights, and the report that publishing takes it from."""
    torch.manual_seed(weights)
    splits = split_samples(config.samples, log)
    encoder = SampleEncoder(config.feature_schema, catalogue, log, knowledge, splits.trained_rows)
    spec = ModelSpec("bench", architecture_of(config.training))
    model = new_model(spec, config.training, encoder).eval()
    content, worst = export_artifact(config.name, spec, model, encoder, knowledge, splits, {})
    artifact = write_artifact(config.name, content, folder)
    return TrainingReport(
        log_rows=len(log), trained_rows=splits.trained_rows, trained_until_ms=int(log.time_ms[-1]), samples={},
        artifact=artifact.name, sha256=artifact.sha256, model_version="random", parity=worst, metrics={}, table=[],
        parts=artifact.parts,
    )  # fmt: skip
