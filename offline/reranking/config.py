"""Settings of the reranker. Apart from the code that tunes it, so that reading a configuration does not load torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, Field

from models.contract.prompts import RerankPrompt
from models.contract.schema import FrozenConfig

Count = Annotated[int, Field(ge=1)]


class TuningConfig(BaseModel):
    """Low-rank updates (LoRA, arXiv 2106.09685). Rank, scale, dropout and the two projections are ReLLa's.

    ``samples`` of the training split are told in both ways, with recent and with relevant events, so twice as many are
    learned from in an epoch. A step takes ``batch_size`` prompts, at most ``padded_tokens`` of them at once.
    ``checkpointing`` computes activations twice to hold fewer, which a large model on one GPU needs.
    """

    model_config = FrozenConfig

    samples: Count = 4000
    epochs: Count = 1
    batch_size: Count = 32
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    warm_up: Annotated[float, Field(ge=0, lt=1)] = 0.05
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    clip: Annotated[float, Field(gt=0)] = 1.0
    rank: Count = 8
    scale: Annotated[float, Field(gt=0)] = 16.0
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.05
    modules: Annotated[tuple[str, ...], Field(min_length=1)] = ("q_proj", "v_proj")
    checkpointing: bool = False
    save_every: Count = 25


class RerankingConfig(BaseModel):
    """Which model is tuned, how it is asked, and on how many rows it is calibrated and judged.

    ``model`` None: the packaged SmolLM2. ``frame`` "chat" writes out the model's own chat format with ``instruction``
    as its system message; "plain" keeps the prompt's ``opening`` and ``closing``. ``vector_dim`` numbers of an item's
    encoded text, by a principal component analysis, say what is similar. Each of the ``canaries`` is picked
    from so many ``candidates``.
    """

    model_config = FrozenConfig

    model: Path | None = None
    frame: Literal["chat", "plain"] = "chat"
    instruction: str = "You judge whether a viewer will like a film."
    prompt: RerankPrompt = RerankPrompt()
    vector_dim: Count = 64
    padded_tokens: Count = 8192
    tuning: TuningConfig = TuningConfig()
    validation_rows: Count = 2000
    test_rows: Count = 5000
    calibration: Literal["platt", "isotonic"] = "platt"
    canaries: Annotated[int, Field(ge=1, le=32)] = 4
    candidates: Annotated[int, Field(ge=2)] = 12
    tolerance: Annotated[float, Field(gt=0, lt=1)] = 0.1
    seed: int = 1
