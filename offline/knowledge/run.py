"""One run over the producers of knowledge: which there are, their common inputs, the texts left for the next run; and
the knowledge that they last made, fitted to today's log."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from models.contract.schema import FeatureSchema
from offline.data.catalogue import DataError
from offline.data.files import read_arrays
from offline.data.log import InteractionLog
from offline.engine.engines import Engine
from offline.knowledge.config import KnowledgeConfig
from offline.knowledge.encoder import EngineEncoder, TextEncoder, VectorStore
from offline.knowledge.errors import NotFittedError, TooFewError
from offline.knowledge.inputs import Producer, ProducerInputs
from offline.knowledge.knowledge_texts import Ask, Domain, KnowledgeTexts
from offline.knowledge.marc.states import LanguageModelStates
from offline.knowledge.marc.store import StateStore, shipped_source
from offline.knowledge.shipped import read_shipped, read_shipped_files, write_shipped
from offline.knowledge.vectors import ItemVectors, Knowledge, Lineage, Produced, UserVectors
from offline.llm.arithmetic import Precision
from offline.store import ArrayFile, ArrayFolder, addresses, owner_table, shape_in_words

if TYPE_CHECKING:  # it loads polars
    from offline.data.texts_import import ImportedTexts

ENCODED = "encoded.npz"
"""The file of encoded texts in the folder of knowledge."""
OWNERS = "owners.sqlite3"
"""The file in that folder that says whose texts those are, and those of hidden states."""
OWNED = ("encoded texts", "hidden states")
"""Names of the stores whose rows have owners."""
ORDER = ("text", "liber", "autograph", "marc", "groups", "numbers")
"""All producers there are, in the order in which they run: LIBER's summaries are what the later ones read, and a server
that cannot weigh answers ends the run, so what needs that comes last."""


def producers_of(schema: FeatureSchema) -> tuple[str, ...]:
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
        case "groups":
            from offline.knowledge import groups

            return groups.produce
        case "numbers":
            from offline.knowledge import numbers

            return numbers.produce
    raise DataError(f"there is no producer {name!r}")


class ProducerState(StrEnum):
    """The outcome for a producer. ``CURRENT``: nothing, it is up to date; ``KEPT``: nothing, although it is behind;
    ``WAITS``: it cannot begin yet; ``ABSENT``: it has never made anything."""

    MADE = "made"
    PARTIAL = "partial"
    CURRENT = "current"
    KEPT = "kept"
    WAITS = "waits"
    ABSENT = "absent"


@dataclass(frozen=True, slots=True)
class Attempt:
    """The end of one producer's run: the knowledge it ``produced`` and saved, or the reason why it ``waits``.

    ``absent`` counts the texts that it reads and that may still come. ``too_little`` says that it waits for the log to
    grow and not for a text.
    """

    produced: Produced | None
    absent: int
    waits: str = ""
    too_little: bool = False

    @property
    def state(self) -> ProducerState:
        if self.produced is None:
            return ProducerState.WAITS
        return ProducerState.PARTIAL if self.produced.partial else ProducerState.MADE


class KnowledgeRun:
    """Runs producers over one state of the log. Texts and encoded vectors are shared between them."""

    def __init__(
        self,
        domain: Domain,
        trained_rows: int,
        folder: Path,
        checkpoints: Path,
        ask: Ask,
        llm: str,
        imported: ImportedTexts | None = None,
        engine: Engine | None = None,
        *,
        precision: Precision = "auto",
        shipped: Path | None = None,
    ) -> None:
        """See ``ProducerInputs`` for the names; ``llm`` is the model's id, ``imported`` texts stand for its answers."""
        config = domain.config

        def encoder_of(tokens: int) -> TextEncoder:
            if engine is None:
                return TextEncoder(config.encoder, tokens, precision)
            return EngineEncoder(engine, config.encoder, tokens, precision)

        self._encoder = encoder = encoder_of(config.encoder_tokens)
        self._partition_encoder = encoder_of(config.partition_tokens)
        store = VectorStore(folder / ENCODED, encoder, shipped)
        of_partitions = replace(store, encoder=self._partition_encoder, shipped_as=encoder.id)
        self._inputs = ProducerInputs(
            config=domain.config,
            schema=domain.schema,
            vocabulary=domain.vocabulary,
            catalogue=domain.catalogue,
            log=domain.log,
            trained_rows=trained_rows,
            texts=KnowledgeTexts(domain, ask, imported),
            encode=store.vectors,
            encode_partitions=of_partitions.vectors,
            llm=llm,
            encoder=encoder.id,
            partition_encoder=self._partition_encoder.id,
            folder=folder,
            checkpoints=checkpoints,
            engine=engine,
            precision=precision,
            shipped=shipped,
        )

    def inputs_of(self, name: str) -> ProducerInputs:
        """The inputs of a producer."""
        return self._inputs.of(name)

    def produce(self, name: str, texts: Sequence[str]) -> Attempt:
        """Run a producer that reads these kinds of texts, and save what it makes."""
        inputs = self.inputs_of(name)
        try:
            produced = producer(name)(inputs)
            self.note_owners(states=name == "marc")
        except (NotFittedError, TooFewError) as error:
            waits = f"{name} needs {error.needs}" if isinstance(error, TooFewError) else str(error)
            print(f"  {name} waits: {waits}", flush=True)
            asked = [kind for kind in texts if kind in vars(inputs.texts)]  # to read another would ask for it
            return Attempt(None, self._absent(asked), waits, too_little=isinstance(error, TooFewError))
        absent = self._absent(texts)
        produced = produced.of(Lineage.of(inputs.log), partial=absent > 0)
        produced.save(inputs.folder)
        return Attempt(produced, absent)

    def note_owners(self, *, states: bool, former: bool = False) -> None:
        """Note beside the vectors, and beside the hidden ``states``, whose texts they are of; with ``former``, also of
        those that earlier versions stored. Nothing if no text about a user was asked for."""
        inputs = self._inputs
        if not {"_summaries_and_prompts", "versions"} & set(vars(inputs.texts)):
            return
        makers: list[Any] = [self._encoder, self._partition_encoder]
        if states:
            marc = inputs.config.marc
            makers.append(LanguageModelStates(inputs.checkpoints, marc.model, marc.max_tokens))
        sources = [name for maker in makers for name in (maker.id, *(maker.former_ids if former else ()))]
        owned = inputs.texts.owned_texts()
        texts, marks = [text for text, _ in owned], [mark for _, mark in owned]
        with owner_table(inputs.folder / OWNERS) as owners:
            for source in sources:
                owners.note(zip(addresses(texts, source), marks, strict=True))

    def _absent(self, texts: Iterable[str]) -> int:
        """How many texts of these kinds may still come."""
        absent = {kind: getattr(self._inputs.texts, kind).absent for kind in texts}
        of_items = sum(np.sum(absent.pop(kind, 0)) for kind in ("items", "groups", "numbers"))
        # no shift is asked for where the summary is absent, and there it counts as absent too
        of_partitions = np.logical_or.reduce(list(absent.values())) if absent else 0
        return int(of_items + np.sum(of_partitions))


def remove_owned(folder: Path, marks: Iterable[str]) -> Counter[tuple[str, str]]:
    """Remove encoded texts and hidden states in a folder of knowledge that the users with these marks alone own; their
    numbers by mark and store."""
    removed = Counter[tuple[str, str]]()
    if not (folder / OWNERS).is_file():
        return removed
    stores = _owned_stores(folder)
    with owner_table(folder / OWNERS) as owners:
        for mark in marks:
            at = frozenset(owners.remove(mark))
            for name, store in stores:
                removed[mark, name] += store.remove(at)
    return +removed


def owned_records(folder: Path, mark: str) -> dict[str, list[Any]]:
    """Encoded texts and hidden states in a folder of knowledge that the user with this mark owns, also beside others,
    by their addresses; and the mark itself."""
    stores, keys = _owned_stores(folder), list[str]()
    if (folder / OWNERS).is_file():
        with owner_table(folder / OWNERS) as owners:
            keys = owners.keys(mark)
    records: dict[str, list[Any]] = {name: [] for name in OWNED}
    for name, store in stores if keys else ():
        arrays = store.read()
        records[name] += [{"address": key, "vector": shape_in_words(arrays[key])} for key in keys if key in arrays]
    return records | {"owner marks": [{"mark": mark, "addresses": keys}] if keys else []}


def _owned_stores(folder: Path) -> list[tuple[str, ArrayFile | ArrayFolder]]:
    """The stores in a folder of knowledge whose rows have owners, by the names of ``OWNED``."""
    encoded, states = OWNED
    folders = [path for path in sorted((folder / "marc" / "states").glob("*/*")) if path.is_dir()]
    return [(encoded, ArrayFile(folder / ENCODED)), *((states, ArrayFolder(path)) for path in folders)]


def export_vectors(config: KnowledgeConfig, folder: Path, checkpoints: Path, path: Path) -> int:
    """Write to ``path``, which a configuration can ship (``shipped_vectors``), the encoded texts, hidden states and
    groups in a job's knowledge ``folder``, and those that it was shipped itself.

    Returns their number. DataError if nothing was computed yet. ``checkpoints`` has converted language models.
    """
    encoder = TextEncoder(config.encoder, config.encoder_tokens, "auto")
    reader = LanguageModelStates(checkpoints, config.marc.model, config.marc.max_tokens)
    source = shipped_source(reader.id, config.marc.depth)
    computed = {
        encoder.id: VectorStore(folder / ENCODED, encoder).read(),
        source: StateStore(folder / "marc" / "states", reader).read(config.marc.depth),
    }
    vectors = {name: read_shipped(config.shipped_vectors, name) | of_source for name, of_source in computed.items()}
    vectors = {name: of_source for name, of_source in vectors.items() if of_source}
    if not vectors:
        raise DataError(f"there are no vectors in {folder}: run `refresh` or `knowledge` first")
    files = {each.name: read_arrays(each) for each in sorted((folder / "groups").glob("groups-*.npz"))}
    return write_shipped(path, vectors, read_shipped_files(config.shipped_vectors) | files)


def load_knowledge(folder: Path, schema: FeatureSchema, log: InteractionLog) -> Knowledge:
    """Every producer's last knowledge, grown to the users and items of the log. Nothing of another log's, of another
    shape than the schema reads, damaged, or saved in another form: that is made again.

    A producer may lag behind: it waits for texts, or only others were asked to run. What it made before still holds,
    because users and items keep their numbers and the log only grows; whoever came later has no knowledge of it yet. A
    log that was built anew may number them differently, so the ids are checked.
    """
    by_name = {}
    for name in producers_of(schema):
        try:
            produced = Produced.load(folder / name)
        except DataError:
            continue
        shape = {(space.key, space.rows, space.dim) for space in produced.spaces}
        if shape != {(spec.key, spec.rows, spec.dim) for spec in schema.knowledge if spec.name == name}:
            continue
        former = produced.former
        if former is not None and not (former.lineage is not None and former.lineage.fits(log)):
            produced = replace(produced, former=None)
        if produced.lineage is not None and produced.lineage.fits(log):
            by_name[name] = grown(produced, len(log.user_ids), len(log.item_ids))
    return Knowledge(by_name)


def grown(produced: Produced, users: int, items: int) -> Produced:
    """The same knowledge for more users and items."""
    return replace(
        produced,
        users=None if produced.users is None else _with_users(produced.users, users),
        items=None if produced.items is None else _with_items(produced.items, items),
        lineage=None,  # it named those before
        former=None if produced.former is None else grown(produced.former, users, items),
    )


def _with_users(vectors: UserVectors, users: int) -> UserVectors:
    return replace(vectors, start=np.pad(vectors.start, (0, users + 1 - len(vectors.start)), mode="edge"))


def _with_items(vectors: ItemVectors, items: int) -> ItemVectors:
    more = (0, items - len(vectors.known))
    codes = None if vectors.codes is None else np.pad(vectors.codes, (more, (0, 0)))
    known = np.pad(vectors.known, more)
    return replace(vectors, vectors=np.pad(vectors.vectors, ((0, 0), more, (0, 0))), known=known, codes=codes)


def log_digest(log: InteractionLog) -> str:
    """Changes whenever an interaction does."""
    whole = hashlib.sha256()
    for column in (log.user, log.item, log.value, log.time_ms, log.sampled):
        whole.update(column.tobytes())
    return whole.hexdigest()
