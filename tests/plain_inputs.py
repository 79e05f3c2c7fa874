"""The contract's inputs of a schema without running features."""

from __future__ import annotations

from models.contract import encoding
from models.contract.encoding import RUNNING_INPUTS


def _plain(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name for name in names if name not in RUNNING_INPUTS)


INPUTS, USER_INPUTS, ITEM_INPUTS = map(_plain, (encoding.INPUTS, encoding.USER_INPUTS, encoding.ITEM_INPUTS))
