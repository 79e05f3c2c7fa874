"""The parts of a model as files, as an export writes them."""

from __future__ import annotations

import hashlib
from pathlib import Path

from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # what onnx raises

from models.ctr.cut import UncutError
from models.ctr.split import split
from models.split_model import SplitModel


def write_parts(content: bytes, folder: Path) -> dict[str, str]:
    """Write the parts of an ONNX model to a folder. Their digests by name; none of what cannot be cut."""
    try:
        parts = split(content)
    except (UncutError, DecodeError):
        return {}
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in parts.items():
        (folder / name).write_bytes(part)
    return {name: hashlib.sha256(part).hexdigest() for name, part in parts.items()}


def split_model(content: bytes, folder: Path) -> SplitModel:
    """An ONNX model in parts, whose files are in a folder."""
    write_parts(content, folder)
    return SplitModel.open(folder, 1)
