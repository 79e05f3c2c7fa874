"""Settings of the engine, and the place where one is built from them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Literal

from pydantic import BaseModel, Field

from models.contract.schema import FrozenConfig
from offline.engine.local import LocalEngine
from offline.engine.protocol import Engine

EngineName = Literal["local", "ray"]


class RayConfig(BaseModel):
    """The cluster that ``--engine ray`` uses. None of it changes a result."""

    model_config = FrozenConfig

    workers: Annotated[int, Field(ge=1, le=10_000)] = 2
    cpus_per_worker: Annotated[float, Field(ge=0)] = 1.0
    gpus_per_worker: Annotated[float, Field(ge=0)] = 0.0
    address: str | None = None  # none: the cluster that RAY_ADDRESS names, else one of our own on this machine


@contextmanager
def open_engine(name: EngineName, ray: RayConfig) -> Iterator[Engine]:
    """The engine of that name until the block ends; EngineError if it cannot start."""
    if name == "local":
        yield LocalEngine()
        return
    from offline.engine.ray import ray_engine  # an extra of its own, not installed everywhere

    with ray_engine(ray.workers, ray.cpus_per_worker, ray.gpus_per_worker, ray.address) as engine:
        yield engine
