"""One run over the producers of knowledge: which there are, what they share, what is left for the next run."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.contract.schema import FeatureSchema
from offline.config import JobConfig, KnowledgeConfig
from offline.data.catalogue import Catalogue, DataError
from offline.data.log import InteractionLog
from offline.engine.local import LocalEngine
from offline.engine.protocol import Engine
from offline.engine.vectors import EngineEncoder
from offline.knowledge.encoder import TextEncoder, VectorStore
from offline.knowledge.interests import Ask as Ask
from offline.knowledge.interests import Interests
from offline.knowledge.liber.partitions import close_partitions
from offline.knowledge.sources import NotFoundedError, Producer, Sources
from offline.knowledge.vectors import Knowledge, Produced

if TYPE_CHECKING:  # it loads polars
    from offline.data.texts_import import UserText

ORDER = ("text", "liber", "autograph", "marc")
"""All producers there are, in the order in which they run: LIBER's summaries are what the later ones read."""


def wanted(schema: FeatureSchema) -> tuple[str, ...]:
    """The producers whose knowledge a schema lists, in order. DataError for one that does not exist."""
    names = {spec.name for spec in schema.knowledge}
    if unknown := names - set(ORDER):
        raise DataError(f"no producer makes {', '.join(sorted(unknown))}; there are {', '.join(ORDER)}")
    return tuple(name for name in ORDER if name in names)


def producer(name: str) -> Producer:
    """A producer by name. Those that need torch load it here, not before."""
    match name:
        case "text":
            from offline.knowledge import plain

            return plain.produce
        case "liber":
            from offline.knowledge.liber import produce as liber

            return liber.produce
        case "autograph":
            from offline.knowledge.autograph import produce as autograph

            return autograph.produce
        case "marc":
            from offline.knowledge.marc import produce as marc

            return marc.produce
    raise DataError(f"there is no producer {name!r}")


def inputs(config: JobConfig, name: str, llm: Mapping[str, Any], log: InteractionLog) -> dict[str, Any]:
    """All that a producer's result depends on; unchanged inputs need no run."""
    shared = config.knowledge.model_dump(mode="json", exclude={*ORDER, "shipped_responses", "ttl_days"})
    return {
        "shared": shared,
        "own": getattr(config.knowledge, name).model_dump(mode="json"),
        "partitions": config.knowledge.liber.model_dump(mode="json"),
        "samples": config.samples.model_dump(mode="json"),
        "specs": [spec.model_dump() for spec in config.feature_schema.knowledge if spec.name == name],
        "words": config.data.texts.model_dump(mode="json"),
        "liked_above": config.feature_schema.liked_above,
        "llm": None if name == "text" else dict(llm),
        "log": digest(log),
    }


class KnowledgeRun:
    """Runs producers over one state of the log. Texts and encoded vectors are shared between them."""

    def __init__(
        self,
        config: JobConfig,
        catalogue: Catalogue,
        log: InteractionLog,
        trained_rows: int,
        folder: Path,
        checkpoints: Path,
        ask: Ask,
        llm: str,
        imported: Sequence[UserText] = (),
        engine: Engine | None = None,
    ) -> None:
        encoder = _encoder(config.knowledge, engine)
        partitions = close_partitions(log, config.knowledge.liber.trigger)
        liked_above = config.feature_schema.liked_above
        self._sources = Sources(
            config=config.knowledge,
            schema=config.feature_schema,
            words=config.data.texts,
            catalogue=catalogue,
            log=log,
            trained_rows=trained_rows,
            interests=Interests(
                config.knowledge, config.data.texts, liked_above, catalogue, log, partitions, ask, imported
            ),
            encode=VectorStore(folder / "encoded.npz", encoder).vectors,
            llm=llm,
            encoder=encoder.id,
            folder=folder,
            checkpoints=checkpoints,
            engine=engine or LocalEngine(),
        )

    def sources_of(self, name: str) -> Sources:
        """What a producer reads."""
        return self._sources.of(name)

    def produce(self, name: str) -> tuple[Produced | None, bool]:
        """(what a producer made and saved, or None if it cannot begin yet; whether any text is still to come)."""
        sources = self.sources_of(name)
        try:
            made = producer(name)(sources)
        except NotFoundedError as error:
            print(f"  {name} waits: {error}", flush=True)
            return None, True
        made.save(sources.folder)
        return made, name != "text" and sources.interests.incomplete


def _encoder(config: KnowledgeConfig, engine: Engine | None) -> TextEncoder:
    name, tokens = config.encoder, config.encoder_tokens
    if engine is None or isinstance(engine, LocalEngine):
        return TextEncoder(name, tokens)
    return EngineEncoder(engine, name, tokens)


def load(folder: Path, schema: FeatureSchema) -> Knowledge:
    """What the producers last made, as far as it is there. DataError if one of them is damaged."""
    names = [name for name in wanted(schema) if all(path.is_file() for path in Produced.files(folder / name))]
    return Knowledge({name: Produced.load(folder / name) for name in names})


def digest(log: InteractionLog) -> str:
    """Changes whenever an interaction does."""
    found = hashlib.sha256()
    for column in (log.user, log.item, log.value, log.time_ms, log.sampled):
        found.update(column.tobytes())
    return found.hexdigest()
