"""Hidden states on disk, by content: each text is run once per model and depth.

Knows neither the model nor what the texts are about.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from tqdm import tqdm

from models.contract.knowledge import FloatArray
from offline.data.catalogue import DataError
from offline.data.files import read_arrays, write_arrays
from offline.knowledge.shipped import read_shipped

_CHUNK = 256
"""Texts per file: what a killed run can lose, about half a minute of SmolLM2 on one core."""


class StateReader(Protocol):
    """What the store needs of a model. ``id`` names the weights and how tokens become one vector; under ``former_ids``
    earlier versions stored the same states."""

    @property
    def id(self) -> str: ...

    @property
    def former_ids(self) -> tuple[str, ...]: ...

    def read_chunks(
        self, chunks: Sequence[Sequence[str]], depths: Sequence[float]
    ) -> Iterator[tuple[int, dict[float, FloatArray]]]:
        """(position of a chunk, per depth float32 [n, D] of its texts), every chunk once.

        They come when they are done, in any order; a chunk's states must not depend on the other chunks.
        """
        ...


class StateStore:
    """States on disk by content, a folder per model and depth: an unchanged text is never run twice.

    What is stored is also what is returned the first time (rounded to float16), so a text's states stay the same to
    the bit although another batch would round them differently. Chunks are stored as they are finished: they survive a
    killed run, and the next one cuts what is left into the same chunks that an undisturbed run would have made. States
    of the ``shipped`` file (offline/knowledge/shipped.py) are used and not stored again.
    """

    def __init__(self, folder: Path, reader: StateReader, shipped: Path | None = None) -> None:
        self._folder = _folder(folder, reader.id)
        self._former = {former_id: _folder(folder, former_id) for former_id in reader.former_ids}
        self._reader = reader
        self._shipped = shipped

    def states(self, texts: Sequence[str], depths: Sequence[float]) -> dict[float, FloatArray]:
        """Per depth float32 [n, D] of ``texts``; runs the model over what is not held at all the depths yet."""
        held = {depth: self._read(self._folder, depth) for depth in depths}
        keys = _keys(self._reader.id, texts)
        for former_id, folder in self._former.items():
            for depth in depths:
                former = self._read(folder, depth)
                if not former:
                    continue
                for key, former_key in zip(keys, _keys(former_id, texts), strict=True):
                    if former_key in former:
                        held[depth].setdefault(key, former[former_key])
        for depth in depths:
            if any(key not in held[depth] for key in keys):
                held[depth] = read_shipped(self._shipped, shipped_source(self._reader.id, depth)) | held[depth]
        missing = {
            key: text
            for key, text in zip(keys, texts, strict=True)
            if any(key not in vectors for vectors in held.values())
        }
        ordered = sorted(missing, key=lambda key: (len(missing[key]), key))  # similar lengths pad little
        with tqdm(total=len(ordered), desc="  states", unit="text", mininterval=1.0, disable=not ordered) as progress:
            chunks = [ordered[at : at + _CHUNK] for at in range(0, len(ordered), _CHUNK)]
            texts_of = [[missing[key] for key in chunk] for chunk in chunks]
            for position, made in self._reader.read_chunks(texts_of, depths):
                for depth in depths:
                    self._add(depth, held[depth], chunks[position], made[depth])
                progress.update(len(chunks[position]))
        return {depth: _stacked(held[depth], keys) for depth in depths}

    def stored(self, depth: float) -> dict[str, Any]:
        """All states of one depth on the disk, by the address of the text."""
        return self._read(self._folder, depth)

    def _add(self, depth: float, held: dict[str, Any], keys: list[str], made: FloatArray) -> None:
        with np.errstate(over="ignore"):  # refused just below
            vectors = made.astype(np.float16)
        if not np.isfinite(vectors).all():
            raise DataError(f"hidden states at depth {depth} of {self._reader.id} do not fit float16")
        fresh = [at for at, key in enumerate(keys) if key not in held]
        if not fresh:
            return
        new_keys = [keys[at] for at in fresh]
        name = hashlib.sha256("".join(new_keys).encode()).hexdigest()[:16]
        write_arrays(_of_depth(self._folder, depth) / f"{name}.npz", keys=np.array(new_keys), vectors=vectors[fresh])
        held.update(zip(new_keys, vectors[fresh], strict=True))

    def _read(self, folder: Path, depth: float) -> dict[str, Any]:
        held: dict[str, Any] = {}
        for path in sorted(_of_depth(folder, depth).glob("*.npz")):
            arrays = read_arrays(path)
            # only two runs at once can hold a key twice; then all later runs agree on one
            for key, vector in zip(arrays["keys"].tolist(), arrays["vectors"], strict=True):
                held.setdefault(key, vector)
        return held


def _stacked(held: Mapping[str, Any], keys: Sequence[str]) -> FloatArray:
    if not keys:
        return np.zeros((0, 0), np.float32)
    return np.stack([held[key] for key in keys]).astype(np.float32)


def shipped_source(reader_id: str, depth: float) -> str:
    """The name of a reader's states at one depth in a file of shipped vectors."""
    return f"{reader_id}@{depth:.4f}"


def _keys(reader_id: str, texts: Sequence[str]) -> list[str]:
    """Addresses of texts' states."""
    return [hashlib.sha256(f"{reader_id}\0{text}".encode()).hexdigest()[:32] for text in texts]


def _folder(folder: Path, reader_id: str) -> Path:
    return folder / hashlib.sha256(reader_id.encode()).hexdigest()[:16]


def _of_depth(folder: Path, depth: float) -> Path:
    return folder / f"depth-{depth:.4f}"
