"""Inputs of every producer of knowledge, and the spaces it makes. A producer turns inputs into ``Produced``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from models.contract.arrays import BoolArray, FloatArray
from models.contract.knowledge import Space
from models.contract.schema import KnowledgeSpec, fingerprint
from offline.engine.engines import Engine
from offline.knowledge.config import LiberConfig
from offline.knowledge.errors import NotFittedError, TooFewError
from offline.knowledge.knowledge_texts import Domain, KnowledgeTexts
from offline.knowledge.projection import Projection
from offline.knowledge.prompts import (
    PartitionFacts,
    SummaryContext,
    item_prompt,
    item_text,
    summary_prompt,
    summary_text,
)
from offline.knowledge.vectors import FORMER, Produced
from offline.llm.arithmetic import Precision

Encode = Callable[[Sequence[str]], FloatArray]
"""Texts -> unit vectors float32 [n, width]; each text is encoded once and stored."""


@dataclass(frozen=True, slots=True)
class ProducerInputs(Domain):
    """One run's inputs. ``encode_partitions`` is LIBER's encoder, which may cut later. ``folder`` keeps the producer's
    frozen parts, ``checkpoints`` converted weights of language models; ``engine``, if there is one, runs what is heavy,
    in the arithmetic of ``precision``; ``trained_rows`` is the first log row after the training period: frozen parts
    may be fitted on earlier rows only. ``shipped`` is a file of vectors that need not be computed."""

    trained_rows: int
    texts: KnowledgeTexts
    encode: Encode
    encode_partitions: Encode
    llm: str
    encoder: str
    partition_encoder: str
    folder: Path
    checkpoints: Path
    engine: Engine | None = None
    precision: Precision = "auto"
    shipped: Path | None = None

    def of(self, producer: str) -> ProducerInputs:
        """The same, with the folder of one producer."""
        return replace(self, folder=self.folder / producer)

    def spec(self, producer: str, side: str) -> KnowledgeSpec | None:
        """The knowledge of a producer on one side that the schema lists; None if it lists none."""
        return next((spec for spec in self.schema.knowledge if (spec.name, spec.side) == (producer, side)), None)

    @property
    def early(self) -> BoolArray:
        """[P] whether a partition closed within the training period."""
        return np.asarray(self.texts.partitions.closed_at < self.trained_rows, np.bool_)

    def need(self, absent: BoolArray) -> None:
        """NotFittedError if any text is still to come."""
        if absent.any():
            raise NotFittedError(f"{int(absent.sum())} texts of the training period are still missing")

    def need_training_texts(self) -> None:
        """NotFittedError unless all texts of items, and of partitions of the training period, are there or bad."""
        self.need(np.concatenate([self.texts.items.absent, self.texts.summaries.absent & self.early]))


Producer = Callable[[ProducerInputs], Produced]
"""Makes knowledge of users, of items, or of both. NotFittedError or TooFewError if it cannot begin yet."""


def space(spec: KnowledgeSpec, dtype: str, components: Mapping[str, str]) -> Space:
    """The space that fills ``spec``."""
    shape = {"name": spec.name, "side": spec.side, "rows": spec.rows, "dim": spec.dim, "dtype": dtype}
    return Space.model_validate({**shape, "components": dict(components)})


def text_form(inputs: ProducerInputs) -> str:
    """Changes whenever what is asked or encoded of items and partitions would: prompts, words, trigger."""
    config, vocabulary = inputs.config, inputs.vocabulary
    facts = PartitionFacts(["A", "B"], [True, False], [["C"], ["D"]])
    sample: dict[str, object] = {}
    forms = [
        vocabulary.form,
        repr(item_prompt(vocabulary, sample, config.item_tokens)),
        item_text(vocabulary, sample, "answer"),
        str(config.liber.titles),
        repr(summary_prompt(vocabulary, facts, config.liber.summary_tokens, config.liber.titles)),
        summary_text(vocabulary, facts, "answer"),
        repr(config.liber.trigger),
        *(["faithful"] if config.faithful else []),
        *([repr(summary_prompt(vocabulary, facts, 8, 2, context))] if (context := _context(config.liber)) else []),
    ]
    return fingerprint(forms)


def _context(config: LiberConfig) -> SummaryContext | None:
    """An example of what questions about partitions tell beside them; None if they tell nothing."""
    if not (config.previous or config.profile):
        return None
    return SummaryContext(", ".join(config.profile), "before" if config.previous else "")


@dataclass(frozen=True, slots=True)
class Wide:
    """Encoded ``texts`` [n, width] of one part of a space, to be projected to ``dim``; for people they are ``what``.
    Not ``complete``: some are still to come."""

    components: Mapping[str, str]
    texts: FloatArray
    dim: int
    what: str = "encoded texts"
    complete: bool = True


def frozen_projections(folder: Path, parts: Sequence[Wide]) -> list[Projection]:
    """The projections fitted under these components; new ones are fitted on the texts. One that was fitted on few texts
    is fitted anew where complete texts have outgrown it, and the former one stays for the release that is live. A part
    with too few texts is zeros until then; TooFewError if all parts have, and nothing is kept then."""
    paths = [projection_path(folder, part.components, part.dim) for part in parts]
    projections = [_projection(path, part) for path, part in zip(paths, parts, strict=True)]
    if not any(projection.rank for projection in projections):
        Projection.fit(parts[0].texts, parts[0].dim, parts[0].what)  # says what it takes
    for path, part, projection in zip(paths, parts, projections, strict=True):
        if path.is_file() and Projection.load(path).digest == projection.digest:
            continue
        _keep_former(path)
        projection.save(path)
        if projection.rank < part.dim:
            print(f"  {len(part.texts)} {part.what} fill {projection.rank} of {part.dim} dimensions", flush=True)
    return projections


def former_projections(
    folder: Path, parts: Sequence[Wide], projections: Sequence[Projection]
) -> list[Projection] | None:
    """The projections of the space that was made before these ``projections`` of ``parts``; None if there is none, or
    a release of these is live (``forget_former``)."""
    paths = [_former_path(projection_path(folder, part.components, part.dim)) for part in parts]
    if not any(path.is_file() for path in paths):
        return None
    return [
        Projection.load(path) if path.is_file() else projection
        for path, projection in zip(paths, projections, strict=True)
    ]


def _keep_former(path: Path) -> None:
    """Keep a projection that is about to be replaced, unless an earlier one is kept: that is what is live."""
    former = _former_path(path)
    if path.is_file() and not former.is_file():
        Projection.load(path).save(former)


def _former_path(path: Path) -> Path:
    return path.parent / FORMER / path.name


def _projection(path: Path, part: Wide) -> Projection:
    """The projection in ``path``, unless there is none or it is outgrown; zeros for too few texts."""
    if path.is_file():
        stored = Projection.load(path)
        if not (part.complete and stored.is_outgrown(part.texts)):
            return stored
    try:
        return Projection.fit(part.texts, part.dim, part.what)
    except TooFewError:
        return Projection.nothing(part.texts.shape[1], part.dim)


def in_both_spaces(
    folder: Path, parts: Sequence[Wide], projected: Callable[[Sequence[Projection]], Produced]
) -> Produced:
    """Knowledge that is ``projected`` from ``parts``, and beside it the same in the former space, if there is one.
    TooFewError as ``frozen_projections``."""
    projections = frozen_projections(folder, parts)
    former = former_projections(folder, parts, projections)
    return replace(projected(projections), former=None if former is None else projected(former))


def projection_components(projections: Sequence[Projection]) -> dict[str, str]:
    """The components by which a space names its projections: digests, and ranks where some dimensions are zeros."""
    components = {"projection": "+".join(projection.digest for projection in projections)}
    if any(projection.rank < len(projection.components) for projection in projections):
        components["rank"] = "+".join(str(projection.rank) for projection in projections)
    return components


def projection_path(folder: Path, components: Mapping[str, str], dim: int) -> Path:
    """The file of the projection that is fitted under these components; there is none before it is."""
    return folder / f"projection-{fingerprint({**components, 'dim': dim})}.npz"
