"""A fitted compressor as it is kept: hidden states in, few numbers out, the same bits for a text in any company.

Every method of the comparison (MARC, PCA, MLP, Matryoshka, uncompressed) freezes to this form. Knows no training.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from models.contract.arrays import FloatArray
from offline.data.catalogue import DataError
from offline.data.files import read_arrays, write_arrays

Side = Literal["user", "item"]

_ROWS = 256
"""Rows that are multiplied together, always: matrix products round differently for other shapes."""


@dataclass(frozen=True, slots=True)
class FrozenMap:
    """x -> W_n relu(... relu(W_1 (x - centre) * scale + b_1)) + b_n, without layers just (x - centre) * scale.

    ``centre`` and ``scale`` [D]; ``weights`` [out, in] and ``biases`` [out] per layer; all float32.
    """

    centre: FloatArray
    scale: FloatArray
    weights: tuple[FloatArray, ...] = ()
    biases: tuple[FloatArray, ...] = ()

    @property
    def dim(self) -> int:
        return len(self.biases[-1]) if self.biases else len(self.centre)

    def compress(self, states: FloatArray) -> FloatArray:
        """float32 [n, D] -> float32 [n, d]; DataError for another width, unless there is nothing to compress.

        In double precision and in blocks of a fixed shape, so that a row's bits do not depend on the rows beside it:
        a record whose text did not change must not be written again for its last bit.
        """
        if states.ndim != 2 or (len(states) and states.shape[1] != len(self.centre)):
            raise DataError(f"states of shape {states.shape} do not fit a compression of width {len(self.centre)}")
        compressed = np.empty((len(states), self.dim), np.float32)
        block = np.zeros((_ROWS, len(self.centre)), np.float64)
        for at in range(0, len(states), _ROWS):
            part = states[at : at + _ROWS]
            block[: len(part)] = part
            layer = (block - self.centre) * self.scale
            for depth, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
                layer = (np.maximum(layer, 0.0) if depth else layer) @ weight.T.astype(np.float64) + bias
            compressed[at : at + _ROWS] = layer[: len(part)]
        return compressed

    def standardised(self, states: FloatArray) -> FrozenMap:
        """The same map, moved and scaled as a whole so that ``states`` come out with mean 0 and mean square 1.

        A reader's layers and the single scale of an int8 record then see one size of number, whatever was trained.
        """
        compressed = self.compress(states).astype(np.float64)
        mean = compressed.mean(0)
        size = max(float(np.sqrt(np.square(compressed - mean).mean())), 1e-12)
        if not self.weights:
            centre, scale = self.centre + mean / self.scale, self.scale / size
            return FrozenMap(centre.astype(np.float32), scale.astype(np.float32))
        weights = (*self.weights[:-1], (self.weights[-1] / size).astype(np.float32))
        biases = (*self.biases[:-1], ((self.biases[-1] - mean) / size).astype(np.float32))
        return FrozenMap(self.centre, self.scale, weights, biases)

    def arrays(self) -> Iterator[tuple[str, FloatArray]]:
        """Names and arrays, in the order of the digest."""
        yield "centre", self.centre
        yield "scale", self.scale
        for at, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            yield f"weight{at}", weight
            yield f"bias{at}", bias


@dataclass(frozen=True, slots=True)
class Compressor:
    """The frozen maps of both sides (equal where weights are shared). ``method`` is the name in the tables."""

    method: str
    user: FrozenMap
    item: FrozenMap

    @property
    def dim(self) -> int:
        return self.item.dim

    @property
    def digest(self) -> str:
        """16 hex digits of everything that shapes a vector; part of the knowledge space."""
        whole = hashlib.sha256()
        for side in (self.user, self.item):
            for name, array in side.arrays():
                whole.update(f"{name}{array.shape}".encode() + np.ascontiguousarray(array).tobytes())
        return whole.hexdigest()[:16]

    def compress(self, states: FloatArray, side: Side) -> FloatArray:
        """float32 [n, D] -> float32 [n, d] of one side; see ``FrozenMap.compress``."""
        return (self.user if side == "user" else self.item).compress(states)

    def save(self, path: Path) -> None:
        sides = {"user": self.user, "item": self.item}
        arrays = {f"{side}_{name}": array for side, frozen in sides.items() for name, array in frozen.arrays()}
        write_arrays(path, method=np.array(self.method), **arrays)

    @classmethod
    def load(cls, path: Path) -> Compressor:
        """Inverse of ``save``; DataError if the file is absent or is none."""
        arrays = read_arrays(path)
        try:
            return cls(str(arrays["method"]), _map(arrays, "user"), _map(arrays, "item"))
        except KeyError as error:
            raise DataError(f"{path} lacks {error}: not a compressor") from error


def _map(arrays: dict[str, FloatArray], side: str) -> FrozenMap:
    layers = sum(name.startswith(f"{side}_weight") for name in arrays)
    return FrozenMap(
        arrays[f"{side}_centre"],
        arrays[f"{side}_scale"],
        tuple(arrays[f"{side}_weight{at}"] for at in range(layers)),
        tuple(arrays[f"{side}_bias{at}"] for at in range(layers)),
    )
