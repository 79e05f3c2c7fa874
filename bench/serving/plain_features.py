"""The features of users and items as a team would keep them in an afternoon: one blob per key.

To the plain servers' advantage: a user's blob holds the history with all features of its items, encoded, so that one
MGET brings everything.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from models.contract.encoding import HISTORY_INPUTS, ITEM_INPUTS, Tensors


def user_key(user: str) -> str:
    return f"plain:user:{user}"


def item_key(item: str) -> str:
    return f"plain:item:{item}"


class Layout:
    """Form of the blobs of one model's inputs."""

    def __init__(self, example: Tensors, inputs: Sequence[str]) -> None:
        """``example`` holds one user and any number of items."""
        self._item_inputs = [name for name in inputs if name in ITEM_INPUTS]
        self._user_inputs = [name for name in inputs if name not in ITEM_INPUTS]
        self._shapes = {name: example[name].shape[1:] for name in inputs}
        self._types = {name: example[name].dtype for name in inputs}
        self._item = np.dtype([(name, self._types[name], self._shapes[name]) for name in self._item_inputs])

    def pack_items(self, tensors: Tensors) -> list[bytes]:
        rows = np.zeros(len(tensors["item_index"]), self._item)
        for name in self._item_inputs:
            rows[name] = tensors[name]
        return [row.tobytes() for row in rows]

    def pack_user(self, tensors: Tensors) -> bytes:
        return b"".join(np.ascontiguousarray(tensors[name]).tobytes() for name in self._user_inputs)

    def unpack(self, user: bytes, items: Sequence[bytes]) -> Tensors:
        """Inputs of the model."""
        rows = np.frombuffer(b"".join(items), self._item)
        tensors = {name: np.ascontiguousarray(rows[name]) for name in self._item_inputs}
        fixed = sum(self._bytes(name) for name in self._user_inputs if name not in HISTORY_INPUTS)
        event = sum(self._bytes(name) for name in self._user_inputs if name in HISTORY_INPUTS)
        events, at = (len(user) - fixed) // event if event else 0, 0
        for name in self._user_inputs:
            shape = self._shapes[name]
            if name in HISTORY_INPUTS:
                shape = (events, *shape[1:])
            count = int(np.prod(shape))
            tensors[name] = np.frombuffer(user, self._types[name], count, at).reshape(1, *shape)
            at += count * self._types[name].itemsize
        return tensors

    def _bytes(self, name: str) -> int:
        shape = self._shapes[name][1:] if name in HISTORY_INPUTS else self._shapes[name]
        return int(np.prod(shape)) * self._types[name].itemsize
