"""Settings of a compression. Apart from the training code, so that reading a configuration does not load torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from models.contract.schema import FrozenConfig


class CompressionConfig(BaseModel):
    """How a compression is trained. ``alpha`` and ``beta`` weigh the constraint; both 0 turn it off.

    ``hidden`` is raised to twice ``dim`` where it is less. ``biases`` gives every user version and every item a score
    of its own beside the matching network. ``constraint_rows`` of each batch enter the constraint, whose cost grows
    with their square. ``held_out`` is the last share of the training pairs, which only says when to stop. The defaults
    were measured: docs/marc.md.
    """

    model_config = FrozenConfig

    dim: Annotated[int, Field(ge=1, le=4096)] = 32
    hidden: Annotated[int, Field(ge=1)] = 128
    shared: bool = False
    matching: Literal["attention", "feed-forward"] = "attention"
    matching_width: Annotated[int, Field(ge=1)] = 32
    biases: bool = True
    alpha: Annotated[float, Field(ge=0)] = 10.0
    beta: Annotated[float, Field(ge=0)] = 0.1
    constraint_rows: Annotated[int, Field(ge=2)] = 256
    batch_size: Annotated[int, Field(ge=2)] = 512
    epochs: Annotated[int, Field(ge=1)] = 4
    patience: Annotated[int, Field(ge=1)] = 2
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 1e-2
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2
    held_out: Annotated[float, Field(gt=0, lt=1)] = 0.1
    seed: int = 0
