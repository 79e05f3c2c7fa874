"""Engines: pure work on independent batches, on workers elsewhere. Knows no language model, no texts, no Ray.

An engine decides where a batch is worked on, never what is in it, so that results do not depend on it. Whatever is
stored is stored by the caller. No engine (None): the caller works in its own process.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Annotated, Literal, Protocol, TypeVar

from pydantic import BaseModel, Field

from models.contract.schema import FrozenConfig

BatchT = TypeVar("BatchT")
ResultT = TypeVar("ResultT")


class EngineError(RuntimeError):
    """The engine could not start, or a worker's error ended the run; what was yielded before is whole."""


class Engine(Protocol):
    """Runs work over batches."""

    @property
    def workers(self) -> int:
        """How many batches are worked on at the same time."""

    def map_batches(
        self, make: Callable[[], Callable[[BatchT], ResultT]], batches: Sequence[BatchT]
    ) -> Iterator[tuple[int, ResultT]]:
        """Yield (position of the batch, result), each once, as they are finished, in any order.

        `make` loads a worker's state (a model, connections) and is called once per worker; what it returns takes one
        batch at a time. It, batches and results travel by pickle; `make` finds its modules where the worker runs.
        Raises EngineError for whatever a worker raises.
        """


class RayConfig(BaseModel):
    """The cluster that ``--engine ray`` uses. None of it changes a result."""

    model_config = FrozenConfig

    workers: Annotated[int, Field(ge=1, le=10_000)] = 2
    cpus_per_worker: Annotated[float, Field(ge=0)] = 1.0
    gpus_per_worker: Annotated[float, Field(ge=0)] = 0.0
    address: str | None = None  # none: the cluster that RAY_ADDRESS names, else one of our own on this machine


def open_engine(name: Literal["local", "ray"], ray: RayConfig) -> AbstractContextManager[Engine | None]:
    """The engine of that name until the block ends, None for "local"; EngineError if it cannot start."""
    if name == "local":
        return nullcontext()
    from offline.engine.ray import ray_engine  # an extra of its own, not installed everywhere

    return ray_engine(ray)
