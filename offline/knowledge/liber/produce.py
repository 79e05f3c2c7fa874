"""LIBER: closed partitions -> summaries and shifts -> one vector per partition.

A vector is the projected summary beside the projected shift (zeros for a user's first partition). Which of a user's
partitions count for a candidate is decided online, by ``models.ctr.fusion``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from models.contract.knowledge import FloatArray
from models.contract.schema import fingerprint
from offline.knowledge.interests import Texts, Versions
from offline.knowledge.liber.prompts import PartitionFacts, shift_prompt, shift_text
from offline.knowledge.sources import Sources, frozen_projection, is_founded, space, text_form
from offline.knowledge.vectors import Produced, UserVectors


def produce(sources: Sources) -> Produced:
    """User vectors of the space "user/liber"."""
    spec = sources.spec("liber", "user")
    assert spec is not None
    config, interests = sources.config.liber, sources.interests
    versions = interests.versions
    components = {"llm": sources.llm, "prompt": _form(sources), "encoder": sources.encoder}
    width = spec.dim // 2 if config.shift else spec.dim
    parts = [_part(sources, interests.summaries, versions.texts, {**components, "part": "summary"}, width)]
    if config.shift:
        rest = spec.dim - width
        shifts = interests.shifts_of(versions)
        parts.append(_part(sources, interests.shifts, shifts, {**components, "part": "shift"}, rest))
    digests = {"projection": "+".join(digest for _, digest in parts)}
    vectors = np.concatenate([part for part, _ in parts], axis=1)
    users = UserVectors(space(spec, config.dtype, {**components, **digests}), vectors, versions.start, versions.since)
    return Produced(users=users, texts=_newest(sources, versions))


def _part(
    sources: Sources, asked: Texts, texts: Sequence[str], components: dict[str, str], dim: int
) -> tuple[FloatArray, str]:
    """(projected texts of the versions [V, dim], zeros where there is none; digest of the projection)."""
    if not is_founded(sources.folder, components, dim):
        sources.need(asked.absent & sources.early)
    known = np.array([bool(text) for text in texts], np.bool_)
    wide = sources.encode([text for text in texts if text])
    early = sources.interests.versions.since[known] < sources.trained_rows
    projection = frozen_projection(sources.folder, components, wide[early], dim)
    vectors = np.zeros((len(texts), dim), np.float32)
    vectors[known] = projection.apply(wide)
    return vectors, projection.digest


def _form(sources: Sources) -> str:
    """Changes whenever a prompt, what is encoded, or the trigger would."""
    config, facts = sources.config.liber, PartitionFacts(["A"], [True], [["B"]])
    if not config.shift:
        return text_form(sources)
    asked = shift_prompt(sources.words, "before", "now", config.shift_tokens)
    return fingerprint([text_form(sources), repr(asked), shift_text(facts, facts, "answer")])


def _newest(sources: Sources, versions: Versions) -> dict[str, str]:
    newest = (versions.start[1:][np.diff(versions.start) > 0] - 1).tolist()
    shifts = sources.interests.shifts_of(versions) if sources.config.liber.shift else ("",) * len(versions)
    said = {sources.log.user_ids[versions.user[at]]: (versions.tastes[at], shifts[at]) for at in newest}
    return {user: " ".join(part for part in parts if part) for user, parts in said.items()}
