"""LIBER: closed partitions -> summaries and shifts -> one vector per partition.

A vector is the projected summary beside the projected shift (zeros for a user's first partition). Which of a user's
partitions count for a candidate is decided online, by ``models.ctr.build``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from models.contract.arrays import BoolArray, FloatArray
from models.contract.schema import fingerprint
from offline.knowledge.inputs import (
    ProducerInputs,
    Wide,
    in_both_spaces,
    projection_components,
    projection_path,
    space,
    text_form,
)
from offline.knowledge.knowledge_texts import Texts, Versions
from offline.knowledge.projection import Projection
from offline.knowledge.prompts import PartitionFacts, shift_prompt, shift_text
from offline.knowledge.vectors import Produced, UserVectors


def produce(inputs: ProducerInputs) -> Produced:
    """User vectors of the space "user/liber"."""
    spec = inputs.spec("liber", "user")
    assert spec is not None
    config, asked = inputs.config.liber, inputs.texts
    versions = asked.versions
    components = {"llm": inputs.llm, "prompt": _form(inputs), "encoder": inputs.partition_encoder}
    width = spec.dim // 2 if config.shift else spec.dim
    parts = [_read(inputs, asked.summaries, versions.texts, {**components, "part": "summary"}, width)]
    if config.shift:
        rest = spec.dim - width
        shifts = asked.shifts_of(versions)
        parts.append(_read(inputs, asked.shifts, shifts, {**components, "part": "shift"}, rest))

    def projected(projections: Sequence[Projection]) -> Produced:
        vectors = np.concatenate(
            [part.projected(projection) for part, projection in zip(parts, projections, strict=True)], axis=1
        )
        named = space(spec, config.dtype, components | projection_components(projections))
        return Produced(users=UserVectors(named, vectors, versions.start, versions.since))

    produced = in_both_spaces(inputs.folder, [part.early for part in parts], projected)
    return replace(produced, texts=_newest(inputs, versions))


@dataclass(frozen=True, slots=True)
class _Part:
    """Summaries or shifts: ``wide`` [n, width] of the versions that have one, by ``known`` [V]; those of the training
    period are ``early``."""

    known: BoolArray
    wide: FloatArray
    early: Wide

    def projected(self, projection: Projection) -> FloatArray:
        """[V, dim], zeros where there is no text."""
        vectors = np.zeros((len(self.known), self.early.dim), np.float32)
        vectors[self.known] = projection.apply(self.wide)
        return vectors


def _read(inputs: ProducerInputs, asked: Texts, texts: Sequence[str], components: dict[str, str], dim: int) -> _Part:
    """Encode one part's texts of all versions. NotFittedError if those to fit it on are not all there yet."""
    absent = asked.absent & inputs.early
    if not projection_path(inputs.folder, components, dim).is_file():
        inputs.need(absent)
    known = np.array([bool(text) for text in texts], np.bool_)
    wide = inputs.encode_partitions([text for text in texts if text])
    early = inputs.texts.versions.since[known] < inputs.trained_rows
    name = {"summary": "summaries", "shift": "shifts"}[components["part"]]
    what = f"encoded {name} of the training period"
    return _Part(known, wide, Wide(components, wide[early], dim, what, complete=not absent.any()))


def _form(inputs: ProducerInputs) -> str:
    """Changes whenever a prompt, what is encoded, or the trigger would."""
    config, facts = inputs.config.liber, PartitionFacts(["A"], [True], [["B"]])
    if not config.shift:
        return text_form(inputs)
    asked = shift_prompt(inputs.vocabulary, "before", "now", config.shift_tokens)
    return fingerprint([text_form(inputs), repr(asked), shift_text(inputs.vocabulary, facts, facts, "answer")])


def _newest(inputs: ProducerInputs, versions: Versions) -> dict[str, str]:
    newest = (versions.start[1:][np.diff(versions.start) > 0] - 1).tolist()
    shifts = inputs.texts.shifts_of(versions) if inputs.config.liber.shift else ("",) * len(versions)
    ids, gap = inputs.log.user_ids, inputs.vocabulary.spoken.sentences.gap
    return {ids[versions.user[at]]: gap.join(filter(None, (versions.tastes[at], shifts[at]))) for at in newest}
