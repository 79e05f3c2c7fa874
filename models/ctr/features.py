"""Input tensors -> embeddings: the part that all CTR models share. Names of the inputs are the contract's."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.contract.encoding import USER_NUMERIC
from models.contract.items import ITEM_NUMERIC
from models.contract.schema import FeatureSchema, FieldSpec

KNOWLEDGE_INPUTS = ("history_vectors", "partition_vectors", "partition_mask", "item_vectors")


@dataclass(frozen=True, slots=True)
class Embedded:
    """user [U, Fu, E], item [C, Fi, E], history [U, T, E] with history_mask [U, T]; partitions [U, J, E] with
    partition_mask [U, J], or None in a model without knowledge."""

    user: Tensor
    item: Tensor
    history: Tensor
    history_mask: Tensor
    partitions: Tensor | None
    partition_mask: Tensor | None


class FieldEmbedding(nn.Module):
    """Categorical fields [.., slots] -> [.., fields, E]; the slots of one field are averaged, padding excluded.

    Vocabularies are small, so a field is a multi-hot row times its table: the gradient is then a matrix product too,
    where scattering it into a handful of rows would serialise.
    """

    def __init__(self, fields: tuple[FieldSpec, ...], dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.slots = [field.slots for field in fields]
        self.tables = nn.ParameterList(nn.Parameter(torch.randn(field.cardinality, dim) * 0.05) for field in fields)

    def forward(self, indices: Tensor) -> Tensor:
        if not self.slots:  # a schema may do without profile fields
            return torch.zeros((*indices.shape[:-1], 0, self.dim), device=indices.device)
        columns = []
        at = 0
        for slots, table in zip(self.slots, self.tables, strict=True):
            part = indices[..., at : at + slots]
            at += slots
            values = torch.arange(table.shape[0], device=indices.device)
            hot = (part.unsqueeze(-1) == values).to(table.dtype)
            if slots == 1:
                columns.append(hot.squeeze(-2) @ table)
            else:  # index 0 is padding here
                counts = hot.sum(-2)[..., 1:]
                columns.append(counts @ table[1:] / counts.sum(-1, keepdim=True).clamp(min=1.0))
        return torch.stack(columns, dim=-2)


class InputEmbedding(nn.Module):
    """All inputs of the contract as embeddings of one width.

    A history entry is the same embedding of its item as a candidate's, plus one of the user's rating of it. With
    ``knowledge``, projected item vectors join the item fields and the history entries, and partition vectors become a
    second sequence. In training, ``knowledge_dropout`` hides all knowledge of a sample at random: the model then also
    knows how to rank users and items that have none.
    """

    def __init__(
        self, schema: FeatureSchema, item_rows: int, dim: int, dropout: float, knowledge: bool, knowledge_dropout: float
    ) -> None:
        super().__init__()
        self.user_fields = FieldEmbedding(schema.user_fields, dim)
        self.user_numeric = nn.Linear(len(USER_NUMERIC), dim)
        self.item_id = nn.Embedding(item_rows, dim, padding_idx=0)
        nn.init.normal_(self.item_id.weight, std=0.01)
        with torch.no_grad():
            self.item_id.weight[0].zero_()
        self.item_fields = FieldEmbedding(schema.item_fields, dim)
        self.item_numeric = nn.Linear(len(ITEM_NUMERIC), dim)
        self.value = nn.Linear(2, dim)
        self.dropout = nn.Dropout(dropout)
        self.knowledge = knowledge
        self.knowledge_dropout = knowledge_dropout
        if knowledge:
            self.vector = nn.Linear(schema.knowledge_dim, dim)
            self.partition = nn.Linear(schema.knowledge_dim, dim)
        self.user_width = len(schema.user_fields) + 1
        self.item_width = len(schema.item_fields) + 2 + int(knowledge)
        self.dim = dim

    def forward(self, inputs: dict[str, Tensor]) -> Embedded:
        inputs = self._hide_knowledge(inputs) if self.knowledge and self.training else inputs
        user = [self.user_fields(inputs["user_categorical"]), self.user_numeric(inputs["user_numeric"]).unsqueeze(1)]
        ids = self.item_id(inputs["item_index"])
        item = [
            self.dropout(ids).unsqueeze(1),
            self.item_fields(inputs["item_categorical"]),
            self.item_numeric(inputs["item_numeric"]).unsqueeze(1),
        ]
        value = inputs["history_value"].unsqueeze(2)
        history = (
            self.dropout(self.item_id(inputs["history_index"]))
            + self.item_fields(inputs["history_categorical"]).sum(2)
            + self.value(torch.cat([value, value.square()], dim=2))
        )
        partitions = partition_mask = None
        if self.knowledge:
            item.append(self.vector(inputs["item_vectors"]).unsqueeze(1))
            history = history + self.vector(inputs["history_vectors"])
            partitions, partition_mask = self.partition(inputs["partition_vectors"]), inputs["partition_mask"]
        return Embedded(
            torch.cat(user, dim=1), torch.cat(item, dim=1), history, inputs["history_mask"], partitions, partition_mask
        )

    def _hide_knowledge(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        first = inputs["item_vectors"]
        keep = (torch.rand(first.shape[0], device=first.device) >= self.knowledge_dropout).to(first.dtype)
        hidden = {name: inputs[name] * keep.view(-1, *[1] * (inputs[name].dim() - 1)) for name in KNOWLEDGE_INPUTS}
        return {**inputs, **hidden}


def spread(user: Tensor, candidates: int) -> Tensor:
    """A user-side tensor [U, ..] as [C, ..]; U is 1 or already C."""
    return user.expand(candidates, *user.shape[1:])
