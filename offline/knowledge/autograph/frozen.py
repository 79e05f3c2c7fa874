"""What was fitted, as named arrays: one digest, one file, the same bytes whenever the numbers are the same."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import TypeVar

import numpy as np
import torch
from torch import nn

from models.contract.arrays import Array
from offline.data.catalogue import DataError

Arrays = Mapping[str, Array]
Module = TypeVar("Module", bound=nn.Module)


def digest(arrays: Arrays) -> str:
    """16 hex digits of names, shapes, types and contents."""
    whole = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        whole.update(f"{name}\0{array.dtype.str}\0{array.shape}\0".encode())
        whole.update(array.tobytes())
    return whole.hexdigest()[:16]


def module_arrays(module: nn.Module) -> dict[str, Array]:
    """A module's parameters and buffers, copied."""
    return {name: tensor.detach().cpu().numpy().copy() for name, tensor in module.state_dict().items()}


def rebuilt(new: Callable[[], Module], arrays: Arrays) -> Module:
    """The module that ``module_arrays`` took apart, ready for use; ``new`` makes one with any weights.

    DataError if a tensor is missing, unknown, or of another shape. The caller's random numbers stay as they were.
    """
    with torch.random.fork_rng(devices=[]):
        module = new()
    try:
        module.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in arrays.items()})
    except RuntimeError as error:
        raise DataError(f"these frozen parts are of another version: {error}") from error
    return module.eval()
