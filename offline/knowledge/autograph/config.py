"""Settings of AutoGraph (arXiv 2412.18241, our reading). Defaults are the authors' where they say one and where no
measurement spoke against it; docs/autograph.md has the measurements."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field, model_validator

from models.contract.schema import FrozenConfig

Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, lt=1)]
Rate = Annotated[float, Field(gt=0)]
Decay = Annotated[float, Field(ge=0)]


class QuantiserConfig(BaseModel):
    """An autoencoder width -> hidden -> dim with a residual quantiser of ``levels`` codebooks in its middle.

    ``size`` codes per codebook; fewer where there are too few vectors. ``steps`` of ``batch`` vectors each.
    """

    model_config = FrozenConfig

    size: Annotated[int, Field(ge=2, le=65535)] = 256
    levels: Annotated[int, Field(ge=1, le=8)] = 3
    hidden: Count = 128
    dim: Count = 32
    steps: Count = 500
    batch: Count = 512
    learning_rate: Rate = 1e-3
    weight_decay: Decay = 1e-3
    commitment: Decay = 0.25
    kmeans_iterations: Count = 50


class NetworkConfig(BaseModel):
    """The attention network and the caps of its neighbourhoods.

    ``neighbours``: newest likers of an item; ``members`` of a factor; ``history``: a user's newest likes. ``item_ids``:
    items that were liked in the training period also have an embedding of their own. ``slices``: how often within the
    training period the graph is taken anew.
    """

    model_config = FrozenConfig

    hidden: Count = 32
    heads: Count = 2
    dim: Count = 32
    dropout: Share = 0.1
    item_ids: bool = True
    neighbours: Count = 15
    members: Count = 15
    history: Count = 15
    slices: Count = 8

    @model_validator(mode="after")
    def _heads_share_the_hidden_numbers(self) -> NetworkConfig:
        if self.hidden % self.heads:
            raise ValueError("hidden must be a multiple of heads")
        return self


class FittingConfig(BaseModel):
    """Softmax cross-entropy of one positive against ``negatives`` uniform items each (0: against all items).

    ``validation``: the last share of the training rows, which chooses the epoch. ``refit``: then train once more, on
    all training rows, for as many epochs. ``fresh``: share of samples whose user knows its likes up to the sample, as a
    matching request would; the others know them up to the user version's closing, as a published vector does.
    """

    model_config = FrozenConfig

    epochs: Count = 25
    patience: Count = 2
    batch: Count = 2048
    learning_rate: Rate = 6e-3
    weight_decay: Decay = 1e-2
    negatives: Annotated[int, Field(ge=0)] = 0
    validation: Annotated[float, Field(gt=0, lt=1)] = 0.1
    refit: bool = True
    fresh: Annotated[float, Field(ge=0, le=1)] = 0.5


class AutoGraphConfig(BaseModel):
    """All of AutoGraph: the two quantisers, the network, and how it is fitted."""

    model_config = FrozenConfig

    user_factors: QuantiserConfig = QuantiserConfig(size=300)
    item_factors: QuantiserConfig = QuantiserConfig()
    network: NetworkConfig = NetworkConfig()
    fitting: FittingConfig = FittingConfig()
    seed: int = 1
