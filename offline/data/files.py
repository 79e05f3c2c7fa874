"""Atomic files and folders, and fingerprints of files: a reader sees the old content or the new, never half of it."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from offline.data.catalogue import DataError

if TYPE_CHECKING:  # most of what reads files needs no tables
    import polars as pl


def write_bytes(path: Path, content: bytes) -> None:
    """Replace ``path`` by ``content``, atomically and durably."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, 0o644)  # the service that reads an artifact may be another user than the job
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_folder(path: Path, save: Callable[[Path], object]) -> None:
    """Replace the folder ``path`` by one that ``save`` fills, whole or not at all. One writer of a folder at a time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # left by a killed run
    save(partial)
    shutil.rmtree(path, ignore_errors=True)
    os.replace(partial, path)


def append_line(path: Path, line: str) -> None:
    """Add one line to a file of lines, in one write, so that lines of two processes do not mix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        size = os.fstat(descriptor).st_size
        # a power cut can leave half a line; it must not spoil this one too
        torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
        os.write(descriptor, b"\n" * torn + line.encode() + b"\n")
    finally:
        os.close(descriptor)


def write_json(path: Path, document: Any) -> None:
    write_bytes(path, (json.dumps(document, indent=1, ensure_ascii=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """The document in ``path``; DataError if it is absent or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def write_arrays(path: Path, **arrays: npt.NDArray[Any]) -> None:
    """Named arrays as one uncompressed npz file."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]  # the stub types the keyword as allow_pickle
    write_bytes(path, buffer.getvalue())


def read_arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Inverse of ``write_arrays``; DataError if the file is absent or damaged."""
    try:
        # opened here, because numpy leaves a damaged archive open
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def write_parquet(path: Path, frame: pl.DataFrame, row_group_size: int | None = None) -> None:
    """A table as one compressed Parquet file."""
    buffer = io.BytesIO()
    frame.write_parquet(buffer, compression="zstd", row_group_size=row_group_size)
    write_bytes(path, buffer.getvalue())


def file_digest(path: Path) -> str:
    """SHA-256 of a file, or "absent"."""
    if not path.is_file():
        return "absent"
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
