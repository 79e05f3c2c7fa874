"""What producers publish of users and items, in chunks of arrays."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from models.contract.arrays import Codes, FloatArray
from offline.data.catalogue import DataError
from offline.knowledge.vectors import ItemVectors, UserVectors
from offline.publish.records import chunks

Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Entries:
    """What is published of k owners in one space.

    numbers  int64 [k]   their positions in the log
    names    k ids
    rows     int64 [k]   how many vectors each has
    vectors  float32 [sum of rows, dim], those of an owner together
    codes    uint16 [k, n]
    """

    numbers: Numbers
    names: Sequence[str]
    rows: Numbers
    vectors: FloatArray
    codes: Codes


def owners(vectors: UserVectors | ItemVectors, ids: Sequence[str], only: Iterable[int] | None = None) -> list[int]:
    """Positions of those whom ``vectors`` may know, or of those of them in ``only``.

    Knowledge may be older than the log, and then knows nobody who came later. DataError if it is of another log.
    """
    held = len(vectors.start) - 1 if isinstance(vectors, UserVectors) else len(vectors.known)
    if held > len(ids):
        raise DataError(f"the knowledge {vectors.space.key} knows {held} {vectors.space.side}s, the log {len(ids)}")
    return list(range(held)) if only is None else sorted({one for one in only if one < held})


def entries(vectors: UserVectors | ItemVectors, ids: Sequence[str], numbers: Iterable[int]) -> Iterator[Entries]:
    """What is published of these owners, in chunks; nothing of one that nothing is known of."""
    for chunk in chunks(numbers):
        asked = np.array(chunk, np.int64)
        if isinstance(vectors, UserVectors):
            yield _of_users(vectors, ids, asked)
        else:
            known = asked[vectors.known[asked]]
            names = [ids[one] for one in known.tolist()]
            yield Entries(known, names, np.ones_like(known), vectors.published[known], _codes(vectors.codes, known))


def _of_users(vectors: UserVectors, ids: Sequence[str], users: Numbers) -> Entries:
    """Entries of users: their newest versions, as in ``UserVectors.of_user``, with the codes of the last one."""
    users = users[vectors.start[users + 1] > vectors.start[users]]
    end = vectors.start[users + 1]
    rows = np.minimum(end - vectors.start[users], vectors.space.rows)
    last = np.cumsum(rows)
    version = np.repeat(end - last, rows) + np.arange(int(rows.sum()))
    names = [ids[one] for one in users.tolist()]
    return Entries(users, names, rows, vectors.vectors[version], _codes(vectors.codes, end - 1))


def _codes(codes: Codes | None, at: Numbers) -> Codes:
    return np.zeros((len(at), 0), np.uint16) if codes is None else codes[at]
