"""One run over the producers of knowledge: which there are, what they share, what is left for the next run."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from models.contract.schema import FeatureSchema
from offline.config import JobConfig
from offline.data.catalogue import Catalogue, DataError
from offline.data.log import InteractionLog
from offline.engine.local import LocalEngine
from offline.engine.protocol import Engine
from offline.engine.vectors import EngineEncoder
from offline.knowledge.encoder import TextEncoder, VectorStore
from offline.knowledge.errors import NotFoundedError, TooLittleDataError
from offline.knowledge.interests import Ask as Ask
from offline.knowledge.interests import Interests
from offline.knowledge.liber.partitions import close_partitions
from offline.knowledge.sources import Producer, Sources
from offline.knowledge.vectors import Knowledge, Lineage, Produced

if TYPE_CHECKING:  # it loads polars
    from offline.data.texts_import import ImportedTexts

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
    shared = config.knowledge.model_dump(
        mode="json", exclude={*ORDER, "shipped_responses", "shipped_vectors", "ttl_days"}
    )
    return {
        "shared": shared,
        "own": getattr(config.knowledge, name).model_dump(mode="json"),
        "partitions": config.knowledge.liber.model_dump(mode="json"),
        "samples": config.samples.model_dump(mode="json"),
        "specs": [spec.model_dump() for spec in config.feature_schema.knowledge if spec.name == name],
        "words": config.data.texts.form,
        "liked_above": config.feature_schema.liked_above,
        "llm": None if name == "text" else dict(llm),
        "log": digest(log),
    }


@dataclass(frozen=True, slots=True)
class Attempt:
    """What came of a producer: what it ``made`` and saved, or why it ``waits``.

    ``absent`` counts the texts that it reads and that may still come. ``too_little`` says that it waits for the log to
    grow and not for a text.
    """

    made: Produced | None
    absent: int
    waits: str = ""
    too_little: bool = False

    @property
    def state(self) -> str:
        return "waits" if self.made is None else "partial" if self.made.partial else "made"


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
        imported: ImportedTexts | None = None,
        engine: Engine | None = None,
        *,
        shipped: Path | None = None,
    ) -> None:
        encoder = _encoder(config, engine)
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
            encode=VectorStore(folder / "encoded.npz", encoder, shipped).vectors,
            llm=llm,
            encoder=encoder.id,
            folder=folder,
            checkpoints=checkpoints,
            engine=engine or LocalEngine(),
            precision=config.arithmetic,
            shipped=shipped,
        )

    def sources_of(self, name: str) -> Sources:
        """What a producer reads."""
        return self._sources.of(name)

    def produce(self, name: str, texts: Sequence[str]) -> Attempt:
        """Run a producer that reads these kinds of texts, and save what it makes."""
        sources = self.sources_of(name)
        try:
            made = producer(name)(sources)
        except NotFoundedError as error:
            print(f"  {name} waits: {error}", flush=True)
            asked = [kind for kind in texts if kind in vars(sources.interests)]  # to read another would ask for it
            return Attempt(None, self._absent(asked), str(error), isinstance(error, TooLittleDataError))
        absent = self._absent(texts)
        made = replace(made, lineage=Lineage.of(sources.log), partial=absent > 0)
        made.save(sources.folder)
        return Attempt(made, absent)

    def _absent(self, texts: Iterable[str]) -> int:
        """How many texts of these kinds may still come."""
        absent = {kind: getattr(self._sources.interests, kind).absent for kind in texts}
        of_items = np.sum(absent.pop("items", 0))
        # no shift is asked for where the summary is absent, and there it counts as absent too
        of_partitions = np.logical_or.reduce(list(absent.values()))
        return int(of_items + np.sum(of_partitions))


def _encoder(config: JobConfig, engine: Engine | None) -> TextEncoder:
    name, tokens = config.knowledge.encoder, config.knowledge.encoder_tokens
    if engine is None or isinstance(engine, LocalEngine):
        return TextEncoder(name, tokens, config.arithmetic)
    return EngineEncoder(engine, name, tokens, config.arithmetic)


def load(folder: Path, schema: FeatureSchema) -> Knowledge:
    """What the producers last made, as far as it is there. DataError if one of them is damaged."""
    names = [name for name in wanted(schema) if Produced.is_saved(folder / name)]
    return Knowledge({name: Produced.load(folder / name) for name in names})


def digest(log: InteractionLog) -> str:
    """Changes whenever an interaction does."""
    found = hashlib.sha256()
    for column in (log.user, log.item, log.value, log.time_ms, log.sampled):
        found.update(column.tobytes())
    return found.hexdigest()
