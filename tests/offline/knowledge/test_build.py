"""From interactions to knowledge: what is asked, what is encoded, and what shapes the frozen projection."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from models.contract.events import Interaction
from models.contract.schema import FeatureSchema
from offline.config import KnowledgeConfig
from offline.data.catalogue import Catalogue
from offline.data.log import InteractionLog
from offline.knowledge.build import Knowledge, build_knowledge
from offline.knowledge.encoder import VectorStore
from offline.knowledge.liber.partitions import close_partitions
from offline.knowledge.liber.prompts import PartitionFacts, partition_text, summary_prompt
from offline.knowledge.texts import describe, item_text
from tests.offline.knowledge.fakes import EchoModel, HashEncoder
from tests.synthetic import PARTITION_SIZE, SCHEMA, Synthetic, synthetic

CONFIG = KnowledgeConfig(partition_size=PARTITION_SIZE)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Synthetic:
    return synthetic(tmp_path_factory.mktemp("synthetic"), users=12, items=20, events=17)


def build(
    folder: Path,
    data: Synthetic,
    *,
    config: KnowledgeConfig = CONFIG,
    schema: FeatureSchema = SCHEMA,
    log: InteractionLog | None = None,
    catalogue: Catalogue | None = None,
    trained_rows: int = 120,
    model: EchoModel | None = None,
    model_id: str = "echo",
) -> Knowledge:
    encoder = HashEncoder()
    return build_knowledge(
        config,
        schema,
        catalogue or data.catalogue,
        log or data.log,
        trained_rows,
        model or EchoModel(),
        model_id,
        VectorStore(folder / "encoded.npz", encoder),
        encoder.id,
        folder,
    )


def test_every_item_and_every_closed_partition_gets_a_vector(data: Synthetic, tmp_path: Path) -> None:
    model = EchoModel()
    made = build(tmp_path, data, model=model)
    partitions = close_partitions(data.log, PARTITION_SIZE)
    assert made.items.shape == (20, SCHEMA.knowledge_dim)
    assert made.known_items.all()
    assert made.partitions.shape == (len(partitions), SCHEMA.knowledge_dim) == (36, SCHEMA.knowledge_dim)
    assert (len(model.asked["items"]), len(model.asked["partitions"])) == (20, 36)
    np.testing.assert_array_equal(made.of_user(4), made.partitions[12:15])
    assert (made.spaces["user"].rows, made.spaces["item"].rows) == (SCHEMA.partitions, 1)


def test_items_without_description_are_not_asked_about(data: Synthetic, tmp_path: Path) -> None:
    items = {**data.catalogue.items, "i3": {"year": 1999}}
    del items["i5"]
    model = EchoModel()
    made = build(tmp_path, data, catalogue=replace(data.catalogue, items=items), model=model)
    assert np.flatnonzero(~made.known_items).tolist() == [3, 5]
    assert not made.items[[3, 5]].any()
    assert (made.item_texts[3], made.item_texts[5]) == ("", "")
    assert len(model.asked["items"]) == 18
    asked = " ".join(prompt.messages[-1][1] for prompt in model.asked["partitions"])
    assert "Film 4" in asked
    assert "Film 5;" not in asked


def test_knowledge_reads_back(data: Synthetic, tmp_path: Path) -> None:
    made = build(tmp_path, data)
    made.save(tmp_path)
    read = Knowledge.load(tmp_path)
    assert read.spaces == made.spaces
    assert (read.item_texts, read.partition_texts) == (made.item_texts, made.partition_texts)
    for name in ("items", "known_items", "partitions", "partition_start"):
        np.testing.assert_array_equal(getattr(read, name), getattr(made, name))


def test_the_projection_is_kept_when_the_log_grows(data: Synthetic, tmp_path: Path) -> None:
    first = build(tmp_path, data)
    entries = [Interaction(user_id="u1", item_id=f"i{at}", value=5, time_ms=at) for at in range(10)]
    grown, _ = data.log.extended(entries, "1")
    second = build(tmp_path, data, log=grown, trained_rows=len(grown))
    assert second.spaces == first.spaces
    assert len(list(tmp_path.glob("projection-*.npz"))) == 1
    assert len(second.partitions) == len(first.partitions) + 2
    np.testing.assert_array_equal(second.items, first.items)
    np.testing.assert_array_equal(second.of_user(1)[: len(first.of_user(1))], first.of_user(1))


def test_only_texts_of_the_training_period_shape_the_projection(data: Synthetic, tmp_path: Path) -> None:
    partitions = close_partitions(data.log, PARTITION_SIZE)
    trained = int(np.sort(partitions.closed_at)[18])
    changed = replace(data.log, value=np.where(np.arange(len(data.log)) < trained, data.log.value, 1.0))
    one = build(tmp_path / "a", data, trained_rows=trained)
    two = build(tmp_path / "b", data, log=changed, trained_rows=trained)
    assert one.spaces == two.spaces
    old = partitions.closed_at < trained
    np.testing.assert_array_equal(one.partitions[old], two.partitions[old])
    assert (one.partitions[~old] != two.partitions[~old]).any()
    # With all texts allowed to shape it, the two projections differ: what is asserted above is not vacuous.
    three = build(tmp_path / "c", data, trained_rows=len(data.log))
    four = build(tmp_path / "d", data, log=changed, trained_rows=len(data.log))
    assert three.spaces["item"].fingerprint != four.spaces["item"].fingerprint


@pytest.mark.parametrize(
    ("config", "schema", "model_id"),
    [
        ({"item_tokens": 65}, {}, "echo"),
        ({"partition_tokens": 65}, {}, "echo"),
        ({"dtype": "int8"}, {}, "echo"),
        ({}, {"knowledge_dim": 5}, "echo"),
        ({}, {}, "another model"),
    ],
)
def test_whatever_shapes_vectors_makes_another_space(
    data: Synthetic, tmp_path: Path, config: dict[str, object], schema: dict[str, object], model_id: str
) -> None:
    before = build(tmp_path, data)
    after = build(
        tmp_path,
        data,
        config=KnowledgeConfig.model_validate({**CONFIG.model_dump(), **config}),
        schema=FeatureSchema.model_validate({**SCHEMA.model_dump(), **schema}),
        model_id=model_id,
    )
    assert after.spaces["user"].fingerprint != before.spaces["user"].fingerprint
    assert (after.spaces["item"].fingerprint != before.spaces["item"].fingerprint) or "partition_tokens" in config


def test_another_partition_size_is_another_user_space_only(data: Synthetic, tmp_path: Path) -> None:
    before = build(tmp_path, data)
    after = build(tmp_path, data, config=KnowledgeConfig(partition_size=PARTITION_SIZE + 1))
    assert after.spaces["user"].fingerprint != before.spaces["user"].fingerprint


def test_how_an_item_is_described() -> None:
    assert describe({"title": "T", "year": 1990, "genres": ["Drama", "War"]}) == '"T" (1990; Drama, War)'
    assert describe({"title": "T", "year": None, "genres": []}) == '"T"'
    assert describe({"year": 1990}) == "an untitled film (1990)"
    assert item_text({"title": "T"}, " ") == '"T".'


def test_what_is_asked_and_encoded_of_a_partition() -> None:
    facts = PartitionFacts(
        items=[{"title": "A", "genres": ["War", "Drama"]}, {"title": "B", "genres": ["War"]}, {"title": "C"}],
        liked=[True, True, False],
    )
    question = summary_prompt(facts, 32).messages[-1][1]
    assert "liked these films: A; B." in question
    assert "did not like: C." in question
    assert "among the liked ones: War, Drama." in question
    assert partition_text(facts, " An answer. ") == "Likes War, Drama. An answer. Liked: A; B. Disliked: C."


@pytest.mark.parametrize("liked", [True, False])
def test_one_sided_and_empty_partitions(liked: bool) -> None:
    text = partition_text(PartitionFacts([{"title": "A"}], [liked]), "x")
    assert ("Liked: A." in text, "Disliked: A." in text) == (liked, not liked)
    empty = PartitionFacts([], [])
    assert partition_text(empty, "x") == "Likes nothing in particular. x"
    assert "liked these films: none." in summary_prompt(empty, 32).messages[-1][1]
