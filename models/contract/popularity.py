"""Recent likes of a release's items, in a file of the artifact store: what is popular now and not what ever was."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from models.contract.arrays import FloatArray
from models.contract.artifact import ArtifactError, ItemPopularity, unreadable, verify_file
from models.contract.events import item_hash

LIKES_DTYPE = np.dtype([("item", "<u8"), ("likes", "<f4")])
"""One item with its number of recent likes. ``item`` is ``item_hash``; items without any are left out."""


def pack_likes(ids: Sequence[str], likes: FloatArray) -> bytes:
    """The file of the recent ``likes`` [n] of items. Equal likes make equal bytes."""
    liked = np.flatnonzero(likes > 0)
    rows = np.zeros(len(liked), LIKES_DTYPE)
    rows["item"] = [item_hash(ids[at]) for at in liked.tolist()]
    rows["likes"] = likes[liked]
    file = io.BytesIO()
    np.save(file, np.sort(rows, order="item"))
    return file.getvalue()


def read_likes(folder: Path, described: ItemPopularity) -> npt.NDArray[np.void]:
    """The rows of the file. ArtifactError if it is not the published one; ShortageError."""
    path = folder / described.file
    verify_file(path, described.sha256, f"file {described.file}")
    try:
        rows = np.load(path)
    except (OSError, ValueError) as error:
        raise unreadable(f"file {described.file}", error) from error
    if rows.dtype != LIKES_DTYPE or rows.ndim != 1:
        raise ArtifactError(f"file {described.file} holds no likes of items")
    return np.asarray(rows)
