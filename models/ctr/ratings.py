"""What one user will say of items: the process of ``models.ctr.gaussian_process`` with factors of real items.

An item's factors are free parameters plus linear functions of its fields and its knowledge; so is what everybody would
say of it, its prior mean, which also reads its statistics. An item without an id embedding (new since the training) has
the linear parts alone. A user's factors are expected to be a linear function of the profile before anything is known.
Values are the contract's normalised ones.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.contract.items import ITEM_NUMERIC
from models.contract.schema import FeatureSchema
from models.ctr.features import FieldEmbedding
from models.ctr.gaussian_process import UserProcess


class RatingProcess(nn.Module):
    """Predictive mean and standard deviation of a user's value of an item, before it is known.

    Fitted by itself, by the likelihood of values one step ahead (``loss``), before the model that reads it.
    """

    def __init__(self, schema: FeatureSchema, item_rows: int, dim: int) -> None:
        super().__init__()
        self.factors = _ItemFunction(schema, item_rows, dim, 0.1)
        self.prior = _ItemFunction(schema, item_rows, 1, 0.0)
        self.statistics = nn.Linear(len(ITEM_NUMERIC), 1)
        self.profile = FieldEmbedding(schema.user_fields, 1 + dim) if schema.user_fields else None
        self.user = UserProcess(schema.history_length)
        nn.init.normal_(self.factors.ids.weight, std=0.05)
        for table in [] if self.profile is None else self.profile.tables:
            nn.init.zeros_(table)

    def sequence(self, tensors: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Mean and deviation [B, L] of every event of whole histories (``offline.training.sequences``)."""
        factors = self._factors(tensors, "item")
        prior = self._prior(tensors, "item") + self._typical(tensors, factors)
        residual = tensors["value"] - prior - self._statistics(tensors["history_numeric"])
        mean, deviation = self.user.one_step_ahead(factors, residual, tensors["present"])
        return mean + prior + self._statistics(tensors["item_numeric"]), deviation

    def loss(self, tensors: dict[str, Tensor], sample: Tensor) -> Tensor:
        """Summed negative log-likelihood of the values at ``sample`` [B, L], each given those before it."""
        mean, deviation = self.sequence(tensors)
        error = (tensors["value"] - mean) / deviation
        return (torch.log(deviation) + 0.5 * error.square())[sample].sum()

    def forward(self, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Mean and deviation [C] of the candidates of the contract's inputs."""
        history, candidates = self._factors(inputs, "history"), self._factors(inputs, "item")
        prior = self._prior(inputs, "history") + self._typical(inputs, history)
        residual = inputs["history_value"] - prior - self._statistics(inputs["history_numeric"])
        mean, deviation = self.user(history, residual, inputs["history_mask"], candidates)
        prior = self._prior(inputs, "item") + self._typical(inputs, candidates)
        return mean + prior + self._statistics(inputs["item_numeric"]), deviation

    def _typical(self, tensors: dict[str, Tensor], factors: Tensor) -> Tensor:
        """What users of this profile would say of items with these factors: [B, L, d] -> [B, L], [C, d] -> [C]."""
        if self.profile is None:
            return torch.zeros_like(factors[..., 0])
        profile = self.profile.summed(tensors["user_categorical"])
        if factors.dim() == 3:
            profile = profile.unsqueeze(1)
        return profile[..., 0] + (factors * profile[..., 1:]).sum(dim=-1)

    def _factors(self, tensors: dict[str, Tensor], side: str) -> Tensor:
        return self.factors(tensors, side)  # type: ignore[no-any-return]

    def _prior(self, tensors: dict[str, Tensor], side: str) -> Tensor:
        return self.prior(tensors, side).squeeze(-1)  # type: ignore[no-any-return]

    def _statistics(self, numeric: Tensor) -> Tensor:
        return self.statistics(numeric).squeeze(-1)  # type: ignore[no-any-return]


class _ItemFunction(nn.Module):
    """Items [..] -> [.., dim], from id, fields and knowledge."""

    def __init__(self, schema: FeatureSchema, item_rows: int, dim: int, spread: float) -> None:
        super().__init__()
        self.ids = nn.Embedding(item_rows, dim, padding_idx=0)
        nn.init.zeros_(self.ids.weight)
        self.fields = FieldEmbedding(schema.item_fields, dim)
        for table in self.fields.tables:
            nn.init.normal_(table, std=spread)
        self.knowledge = nn.Linear(schema.item_width, dim, bias=False) if schema.item_width else None
        if self.knowledge is not None:
            nn.init.normal_(self.knowledge.weight, std=0.02 * spread)

    def forward(self, tensors: dict[str, Tensor], side: str) -> Tensor:
        made: Tensor = self.ids(tensors[f"{side}_index"])
        made = sum(self.fields.columns(tensors[f"{side}_categorical"]), made)
        if self.knowledge is not None:
            made = made + self.knowledge(tensors[f"{side}_vectors"])
        return made
