"""From interactions to knowledge vectors: prompts -> language model -> texts -> encoder -> frozen projection."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from models.contract.knowledge import FloatArray, KnowledgeRecord, Space
from models.contract.schema import FeatureSchema, fingerprint
from offline.config import KnowledgeConfig
from offline.data.catalogue import Catalogue
from offline.data.files import read_arrays, read_json, write_arrays, write_json
from offline.data.log import InteractionLog
from offline.knowledge.encoder import VectorStore
from offline.knowledge.liber.partitions import Partitions, close_partitions
from offline.knowledge.liber.prompts import PartitionFacts, partition_text, summary_prompt
from offline.knowledge.projection import Projection
from offline.knowledge.texts import item_prompt, item_text
from offline.llm.protocol import Prompt


class Answers(Protocol):
    """What this module needs of the language model: answers in the order of the prompts."""

    def __call__(self, prompts: list[Prompt], label: str) -> list[str]: ...


@dataclass(frozen=True, slots=True)
class Knowledge:
    """``items`` [number of item ids, D] and ``known_items`` [same]; ``partitions`` [P, D] as grouped by user in
    ``partition_start`` [users + 1]. Texts are aligned with the vectors ("" where there is none)."""

    spaces: dict[str, Space]
    items: FloatArray
    known_items: npt.NDArray[np.bool_]
    partitions: FloatArray
    partition_start: npt.NDArray[np.int64]
    item_texts: tuple[str, ...]
    partition_texts: tuple[str, ...]

    def of_user(self, user: int) -> FloatArray:
        """Vectors [rows, D] of a user's closed partitions, oldest first."""
        return self.partitions[self.partition_start[user] : self.partition_start[user + 1]]

    @staticmethod
    def files(folder: Path) -> tuple[Path, Path]:
        """Where ``save`` puts vectors and texts."""
        return folder / "vectors.npz", folder / "texts.json"

    def save(self, folder: Path) -> None:
        vectors, texts_file = self.files(folder)
        write_arrays(
            vectors,
            items=self.items,
            known_items=self.known_items,
            partitions=self.partitions,
            partition_start=self.partition_start,
        )
        texts = {"items": self.item_texts, "partitions": self.partition_texts}
        spaces = {side: space.model_dump(mode="json") for side, space in self.spaces.items()}
        write_json(texts_file, {"spaces": spaces, **texts})

    @classmethod
    def load(cls, folder: Path) -> Knowledge:
        vectors, texts = cls.files(folder)
        arrays, document = read_arrays(vectors), read_json(texts)
        return cls(
            spaces={side: Space.model_validate(space) for side, space in document["spaces"].items()},
            item_texts=tuple(document["items"]),
            partition_texts=tuple(document["partitions"]),
            **arrays,
        )


def as_published(vectors: FloatArray, space: Space) -> FloatArray:
    """Vectors [n, D] as a reader gets them back when each row is a record: rounded to the space's number format.

    An int8 record of several rows shares one scale, so there a user's older rows may come back slightly different.
    """
    if space.dtype == "float16":
        return vectors.astype(np.float16).astype(np.float32)
    rows = [KnowledgeRecord("", space.fingerprint, row[None], 0, 0).pack(space.dtype) for row in vectors]
    read = [KnowledgeRecord.unpack(row, "", space.fingerprint).vectors for row in rows]
    return np.concatenate(read) if read else vectors


def partition_facts(
    catalogue: Catalogue, log: InteractionLog, partitions: Partitions, liked_above: float
) -> list[PartitionFacts]:
    """Raw features of every closed partition; items that the catalogue does not describe are left out."""
    facts = []
    for rows in partitions.rows:
        known = [row for row in rows if "title" in catalogue.items.get(log.item_ids[log.item[row]], {})]
        facts.append(
            PartitionFacts(
                items=[catalogue.items[log.item_ids[log.item[row]]] for row in known],
                liked=[bool(log.value[row] > liked_above) for row in known],
            )
        )
    return facts


def prompts_of(
    config: KnowledgeConfig, catalogue: Catalogue, facts: list[PartitionFacts], item_ids: tuple[str, ...]
) -> tuple[list[Prompt], list[Prompt]]:
    """(item prompts, partition prompts), aligned with the described items and with the partitions."""
    described = [item for item in item_ids if "title" in catalogue.items.get(item, {})]
    items = [item_prompt(catalogue.items[item], config.item_tokens) for item in described]
    return items, [summary_prompt(one, config.partition_tokens) for one in facts]


def build_knowledge(
    config: KnowledgeConfig,
    schema: FeatureSchema,
    catalogue: Catalogue,
    log: InteractionLog,
    trained_rows: int,
    answers: Answers,
    model_id: str,
    store: VectorStore,
    encoder_id: str,
    folder: Path,
) -> Knowledge:
    """Knowledge of all items and users. Only texts older than log row ``trained_rows`` shape the projection."""
    partitions = close_partitions(log, config.partition_size)
    facts = partition_facts(catalogue, log, partitions, schema.liked_above)
    item_prompts, partition_prompts = prompts_of(config, catalogue, facts, log.item_ids)

    described = [at for at, item in enumerate(log.item_ids) if "title" in catalogue.items.get(item, {})]
    item_answers = answers(item_prompts, "items")
    item_texts = [""] * len(log.item_ids)
    for at, answer in zip(described, item_answers, strict=True):
        item_texts[at] = item_text(catalogue.items[log.item_ids[at]], answer)
    partition_answers = answers(partition_prompts, "partitions")
    partition_texts = [partition_text(fact, answer) for fact, answer in zip(facts, partition_answers, strict=True)]

    wide = store.vectors([item_texts[at] for at in described] + partition_texts)
    wide_items, wide_partitions = wide[: len(described)], wide[len(described) :]
    components = {
        "llm": model_id,
        "prompt": fingerprint(_prompt_forms(config)),
        "encoder": encoder_id,
    }
    old_enough = partitions.closed_at < trained_rows
    projection = _frozen_projection(
        folder,
        {**components, "dim": str(schema.knowledge_dim)},
        np.concatenate([wide_items, wide_partitions[old_enough]]),
        schema.knowledge_dim,
    )
    components["projection"] = projection.digest
    items = np.zeros((len(log.item_ids), schema.knowledge_dim), np.float32)
    items[described] = projection.apply(wide_items)
    known = np.zeros(len(log.item_ids), np.bool_)
    known[described] = True
    shape = {"dim": schema.knowledge_dim, "dtype": config.dtype}
    return Knowledge(
        spaces={
            "item": Space(name="item-text", side="item", rows=1, components=components, **shape),
            "user": Space(
                name="liber",
                side="user",
                rows=schema.partitions,
                components={**components, "partition_size": str(config.partition_size)},
                **shape,
            ),
        },
        items=items,
        known_items=known,
        partitions=projection.apply(wide_partitions),
        partition_start=partitions.start,
        item_texts=tuple(item_texts),
        partition_texts=tuple(partition_texts),
    )


def _prompt_forms(config: KnowledgeConfig) -> list[str]:
    """Rendered examples: they change whenever a prompt's wording or parameters, or the encoded text's form, do."""
    item = {"title": "a", "year": 1, "genres": ["g"]}
    facts = PartitionFacts([item, {"title": "b"}], [True, False])
    prompts = item_prompt(item, config.item_tokens), summary_prompt(facts, config.partition_tokens)
    return [repr(prompts), item_text(item, "answer"), partition_text(facts, "answer")]


def _frozen_projection(folder: Path, components: dict[str, str], texts: FloatArray, dim: int) -> Projection:
    path = folder / f"projection-{fingerprint(components)}.npz"
    if path.is_file():
        return Projection.load(path)
    projection = Projection.fit(texts, dim)
    projection.save(path)
    return projection
