"""Hidden states on disk, by content: each text is run once per model and depth.

Knows neither the model nor what the texts are about.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from models.contract.arrays import FloatArray
from offline.data.catalogue import DataError
from offline.knowledge.marc.states import StateReader
from offline.knowledge.shipped import read_shipped
from offline.progress import Progress
from offline.store import ArrayFolder, StoredArrays, addresses, adopt

_CHUNK = 256
"""Texts per file: what a killed run can lose, about half a minute of SmolLM2 on one core."""


@dataclass(frozen=True, slots=True)
class StateStore:
    """States on disk by content, a folder per model and depth: an unchanged text is never run twice.

    What is stored is also what is returned the first time (rounded to float16), so a text's states stay the same to
    the bit although another batch would round them differently. Chunks are stored as they are finished: they survive a
    killed run, and the next one cuts what is left into the same chunks that an undisturbed run would have made. States
    of the ``shipped`` file (offline/knowledge/shipped.py) are used and not stored again.
    """

    folder: Path
    reader: StateReader
    shipped: Path | None = None

    def states(self, texts: Sequence[str], depths: Sequence[float]) -> dict[float, FloatArray]:
        """Per depth float32 [n, D] of ``texts``; runs the model over the texts that some depth lacks."""
        keys = addresses(texts, self.reader.id)
        stored = {depth: self._known(texts, keys, depth) for depth in depths}
        missing = {
            key: text
            for key, text in zip(keys, texts, strict=True)
            if any(key not in vectors for vectors in stored.values())
        }
        self._run(missing, stored)
        if not keys:
            return {depth: np.zeros((0, 0), np.float32) for depth in depths}
        return {depth: np.stack([stored[depth][key] for key in keys]).astype(np.float32) for depth in depths}

    def read(self, depth: float) -> StoredArrays:
        """All states of one depth on the disk, by the address of the text."""
        return self._files(self.reader.id, depth).read()

    def _known(self, texts: Sequence[str], keys: Sequence[str], depth: float) -> StoredArrays:
        """The stored states of one depth, with those of an earlier name, and shipped ones where some are lacking."""
        stored = self.read(depth)
        for former_id in self.reader.former_ids:
            if former := self._files(former_id, depth).read():
                adopt(stored, keys, former, addresses(texts, former_id))
        if all(key in stored for key in keys):
            return stored
        return read_shipped(self.shipped, shipped_source(self.reader.id, depth)) | stored

    def _run(self, missing: Mapping[str, str], stored: Mapping[float, StoredArrays]) -> None:
        """Run the model over the texts that are ``missing``, by address, and store their states as they come."""
        ordered = sorted(missing, key=lambda key: (len(missing[key]), key))  # similar lengths pad little
        chunks = [ordered[at : at + _CHUNK] for at in range(0, len(ordered), _CHUNK)]
        texts = [[missing[key] for key in chunk] for chunk in chunks]
        with Progress("states", len(ordered), "texts", shown=bool(ordered)) as progress:
            for position, states in self.reader.read_chunks(texts, list(stored)):
                for depth, arrays in stored.items():
                    self._add(depth, arrays, chunks[position], states[depth])
                progress.advance(len(chunks[position]))

    def _add(self, depth: float, stored: StoredArrays, keys: Sequence[str], states: FloatArray) -> None:
        with np.errstate(over="ignore"):  # refused just below
            vectors = states.astype(np.float16)
        if not np.isfinite(vectors).all():
            raise DataError(f"hidden states at depth {depth} of {self.reader.id} do not fit float16")
        fresh = {key: vector for key, vector in zip(keys, vectors, strict=True) if key not in stored}
        if fresh:
            self._files(self.reader.id, depth).add(fresh)
            stored.update(fresh)

    def _files(self, reader_id: str, depth: float) -> ArrayFolder:
        return ArrayFolder(self.folder / hashlib.sha256(reader_id.encode()).hexdigest()[:16] / f"depth-{depth:.4f}")


def shipped_source(reader_id: str, depth: float) -> str:
    """The name of a reader's states at one depth in a file of shipped vectors."""
    return f"{reader_id}@{depth:.4f}"
