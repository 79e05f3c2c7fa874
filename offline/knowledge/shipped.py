"""Encoded texts, hidden states and groups that come with a configuration: what a first run need not compute.

Addresses are hashes of the texts, as in the stores that a run keeps itself, so the file holds no text, and a changed
text is computed. A column of vectors is stored in 8 bits between its least and its greatest value, which moves a vector
less than another arithmetic may (``offline.llm.arithmetic.SAME_SPACE_COSINE``).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from models.contract.arrays import Array
from offline.data.catalogue import DataError
from offline.data.files import read_arrays, write_arrays
from offline.store import StoredArrays

_LEVELS = 255
_OF_FILE = "|"
"""Between the name of a file and that of an array in it."""


def read_shipped(path: Path | None, source: str) -> StoredArrays:
    """float16 vectors of ``source`` (an encoder's id, or a reader's with a depth) by the address of their text; none
    without a file, or if the file has none of that source. DataError if it is damaged."""
    if path is None:
        return {}
    arrays = read_arrays(path)
    try:
        if source not in arrays["sources"].tolist():
            return {}
        at = arrays["sources"].tolist().index(source)
        keys, codes, least, step = (arrays[f"{name}{at}"] for name in ("keys", "codes", "least", "step"))
        vectors = (codes.astype(np.float32) * step + least).astype(np.float16)
        return dict(zip((key.tobytes().hex() for key in keys), vectors, strict=True))
    except (KeyError, ValueError, TypeError) as error:
        raise DataError(f"{path} holds no vectors: {error}") from error


def read_shipped_file(path: Path | None, name: str) -> dict[str, Array]:
    """The arrays of the file of groups that was called ``name``; none without a file, or if that has none of it.
    DataError if it is damaged."""
    return read_shipped_files(path).get(name, {})


def read_shipped_files(path: Path | None) -> dict[str, dict[str, Array]]:
    """Arrays of all files of groups, by the name of the file."""
    files: dict[str, dict[str, Array]] = {}
    for key, array in (read_arrays(path) if path is not None else {}).items():
        name, separator, part = key.rpartition(_OF_FILE)
        if separator:
            files.setdefault(name, {})[part] = array
    return files


def write_shipped(
    path: Path, vectors: Mapping[str, Mapping[str, Array]], files: Mapping[str, Mapping[str, Array]] | None = None
) -> int:
    """Write vectors by source and address, and the arrays of ``files`` of groups; returns the number of vectors. Equal
    contents give equal bytes."""
    arrays: dict[str, npt.NDArray[np.generic]] = {"sources": np.array(sorted(vectors))}
    for name, of_file in sorted((files or {}).items()):
        arrays |= {f"{name}{_OF_FILE}{part}": array for part, array in sorted(of_file.items())}
    for at, source in enumerate(sorted(vectors)):
        keys = sorted(vectors[source])
        table = np.stack([vectors[source][key] for key in keys]).astype(np.float32)
        least = table.min(axis=0)
        step = np.maximum((table.max(axis=0) - least) / _LEVELS, np.finfo(np.float32).tiny)
        arrays[f"keys{at}"] = np.array([np.frombuffer(bytes.fromhex(key), np.uint8) for key in keys])
        arrays[f"codes{at}"] = np.rint((table - least) / step).clip(0, _LEVELS).astype(np.uint8)
        arrays[f"least{at}"], arrays[f"step{at}"] = least, step
    write_arrays(path, **arrays)
    return sum(len(of_source) for of_source in vectors.values())
