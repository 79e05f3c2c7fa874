"""Input tensors -> embeddings: the part that all CTR models share. Names of the inputs are the contract's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.contract.encoding import KNOWLEDGE_INPUTS, USER_NUMERIC, model_inputs
from models.contract.schema import FeatureSchema, FieldSpec
from models.ctr.layers import Dropout, Fusion
from models.ctr.running import RunningFeatures

Adaptor = Literal["linear", "experts"]


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """Widths, dropouts and choices of a model. ``dim`` is the width of embeddings; ``fusion`` is read by "din" and
    "lifelong", ``factors`` (of the process of ratings; 0: there is none) and ``attention`` (over the history) by
    "lifelong" alone. ``adaptor``: what single knowledge vectors pass, a linear layer or experts."""

    dim: int
    dropout: float
    knowledge_dropout: float
    fusion: Fusion = "target"
    factors: int = 16
    attention: bool = True
    adaptor: Adaptor = "linear"


@dataclass(frozen=True, slots=True)
class Embedded:
    """user [U, Fu, E], item [C, Fi, E], history [U, T, E] with history_mask [U, T]; partitions [U, J, E] with
    partition_mask [U, J], or None in a model without a sequence of knowledge vectors; running features [C, R], none of
    a schema without."""

    user: Tensor
    item: Tensor
    history: Tensor
    history_mask: Tensor
    partitions: Tensor | None
    partition_mask: Tensor | None
    running: Tensor


class FieldEmbedding(nn.Module):
    """Categorical fields [.., slots] -> [.., fields, E]; the slots of one field are averaged, padding excluded.

    Vocabularies are small, so a field is a multi-hot row times its table: the gradient is then a matrix product too,
    where scattering it into a handful of rows would serialise.
    """

    def __init__(self, fields: tuple[FieldSpec, ...], dim: int) -> None:
        super().__init__()
        self.dim, self.specs = dim, fields
        self.slots = [field.slots for field in fields]
        self.tables = nn.ParameterList(nn.Parameter(torch.randn(field.cardinality, dim) * 0.05) for field in fields)

    def forward(self, indices: Tensor) -> Tensor:
        if not self.slots:  # a schema may do without profile fields
            return torch.zeros((*indices.shape[:-1], 0, self.dim), device=indices.device)
        return (
            torch.stack(self.columns(indices), dim=-2) if self.training or self._several else self._looked_up(indices)
        )

    @torch.no_grad()
    def start_from(self, indices: Tensor) -> None:
        """Before training: values that are not among ``indices`` [n, slots] of what is trained on say nothing, where
        their random start would stay."""
        at = 0
        for slots, table in zip(self.slots, self.tables, strict=True):
            absent = torch.ones(len(table), dtype=torch.bool)
            absent[indices[:, at : at + slots].reshape(-1)] = False
            table[absent] = 0.0
            at += slots

    @property
    def _several(self) -> bool:
        return any(slots > 1 for slots in self.slots)

    def _looked_up(self, indices: Tensor) -> Tensor:
        """Fields of one slot each, all at once: without gradients, a table is read where it is."""
        starts = torch.tensor([0, *(len(table) for table in self.tables)][:-1], device=indices.device).cumsum(0)
        return F.embedding(indices + starts, torch.cat(list(self.tables)))

    def columns(self, indices: Tensor) -> list[Tensor]:
        """The embedding [.., E] of each field."""
        columns = []
        at = 0
        for slots, table in zip(self.slots, self.tables, strict=True):
            part = indices[..., at : at + slots]
            at += slots
            counts = torch.zeros((*part.shape[:-1], table.shape[0]), dtype=table.dtype, device=table.device)
            counts = counts.scatter_add(-1, part, torch.ones_like(part, dtype=table.dtype))
            if slots == 1:
                columns.append(counts @ table)
            else:  # index 0 is padding here
                counts = counts[..., 1:]
                columns.append(counts @ table[1:] / counts.sum(-1, keepdim=True).clamp(min=1.0))
        return columns

    def summed(self, indices: Tensor) -> Tensor:
        """The sum [.., E] of all fields' embeddings. ValueError without fields."""
        if not self.training and self.slots and not self._several:
            return self._looked_up(indices).sum(dim=-2)
        first, *others = self.columns(indices)
        return sum(others, first)


class InputEmbedding(nn.Module):
    """All inputs of the contract as embeddings of one width.

    A history entry is the same embedding of its item as a candidate's, plus one of the user's rating of it. Each
    knowledge space of the schema is projected by itself: item spaces join the item fields and the history entries,
    single-vector user spaces the user fields, and the partition vectors become a second sequence. In training,
    ``knowledge_dropout`` hides all knowledge of a sample at random: the model then also knows how to rank users and
    items that have none.
    """

    def __init__(self, schema: FeatureSchema, item_rows: int, settings: ModelSettings) -> None:
        super().__init__()
        self.dim = dim = settings.dim
        self.user_fields = FieldEmbedding(schema.user_fields, dim)
        self.user_numeric = nn.Linear(len(USER_NUMERIC), dim)
        self.item_id = nn.Embedding(item_rows, dim, padding_idx=0)
        nn.init.normal_(self.item_id.weight, std=0.01)
        with torch.no_grad():
            self.item_id.weight[0].zero_()
        self.item_fields = FieldEmbedding(schema.item_fields, dim)
        self.item_numeric = nn.Linear(schema.item_numbers, dim)
        self.value = nn.Linear(2, dim)
        self.dropout = Dropout(settings.dropout)
        self.knowledge_inputs = tuple(name for name in model_inputs(schema) if name in KNOWLEDGE_INPUTS)
        self.knowledge_dropout = settings.knowledge_dropout
        shared = None if settings.adaptor == "linear" else pair_of_experts(dim)
        self.item_vectors = _Spaces(schema.item_columns, dim, shared)
        self.user_vectors = _Spaces(schema.user_columns, dim, shared)
        self.partition = nn.Linear(schema.sequence.dim, dim) if schema.sequence else None
        self.user_width = len(schema.user_fields) + 1 + len(schema.user_columns)
        self.item_width = len(schema.item_fields) + 2 + len(schema.item_columns)
        self.running = RunningFeatures(schema) if schema.running else None
        self.running_width = self.running.width if self.running else 0

    def forward(self, inputs: dict[str, Tensor]) -> Embedded:
        inputs = self._hide_knowledge(inputs) if self.knowledge_inputs and self.training else inputs
        user = [self.user_fields(inputs["user_categorical"]), self.user_numeric(inputs["user_numeric"]).unsqueeze(1)]
        ids = self.item_id(inputs["item_index"])
        item = [
            self.dropout(ids).unsqueeze(1),
            self.item_fields(inputs["item_categorical"]),
            self.item_numeric(inputs["item_numeric"]).unsqueeze(1),
        ]
        value = inputs["history_value"].unsqueeze(2)
        history = self.dropout(self.item_id(inputs["history_index"]))
        history = history + self.value(torch.cat([value, value.square()], dim=2))
        history = sum(self.item_fields.columns(inputs["history_categorical"]), history)
        if self.item_vectors.columns:
            item.append(self.item_vectors(inputs["item_vectors"]))
            history = sum(self.item_vectors.parts(inputs["history_vectors"]), history)
        if self.user_vectors.columns:
            user.append(self.user_vectors(inputs["user_vectors"]))
        partitions = partition_mask = None
        if self.partition is not None:
            partitions, partition_mask = self.partition(inputs["partition_vectors"]), inputs["partition_mask"]
        return Embedded(
            torch.cat(user, dim=1), torch.cat(item, dim=1), history, inputs["history_mask"], partitions, partition_mask,
            ids[:, :0] if self.running is None else self.running(inputs),
        )  # fmt: skip

    def _hide_knowledge(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        samples = inputs["history_mask"]
        keep = (torch.rand(samples.shape[0], device=samples.device) >= self.knowledge_dropout).to(samples.dtype)
        hidden = {name: inputs[name] * keep.view(-1, *[1] * (inputs[name].dim() - 1)) for name in self.knowledge_inputs}
        return {**inputs, **hidden}


class _Spaces(nn.Module):
    """Joined knowledge vectors [.., W] -> an embedding per space [.., spaces, E], by a linear layer each, or by experts
    with those that are ``shared``."""

    def __init__(self, columns: Mapping[str, slice], dim: int, shared: nn.ModuleList | None) -> None:
        super().__init__()
        self.columns = tuple(columns.values())
        widths = [space.stop - space.start for space in self.columns]
        self.projections = nn.ModuleList(
            nn.Linear(width, dim) if shared is None else Experts(width, dim, shared) for width in widths
        )

    def forward(self, joined: Tensor) -> Tensor:
        return torch.stack(self.parts(joined), dim=-2)

    def parts(self, joined: Tensor) -> list[Tensor]:
        """The embedding [.., E] of each space."""
        return [layer(joined[..., space]) for space, layer in zip(self.columns, self.projections, strict=True)]


class Experts(nn.Module):
    """KAR's hybrid-expert adaptor (arXiv 2306.10933) of one space of knowledge: [.., width] -> [.., dim].

    Two experts that all spaces of users and items share and two of its own, small networks with one hidden layer, are
    weighed by a softmax that reads the vector. Published for a space per side, as wide as each other; here a linear
    layer brings each space to the width that the experts take.
    """

    def __init__(self, width: int, dim: int, shared: nn.ModuleList) -> None:
        super().__init__()
        self.entrance = nn.Linear(width, 2 * dim)
        self.shared = shared
        self.own = pair_of_experts(dim)
        self.gate = nn.Linear(width, len(self.shared) + len(self.own))

    def forward(self, vector: Tensor) -> Tensor:
        entered = self.entrance(vector)
        answers = torch.stack([expert(entered) for expert in (*self.shared, *self.own)], dim=-1)
        weighed: Tensor = (answers * F.softmax(self.gate(vector), dim=-1).unsqueeze(-2)).sum(dim=-1)
        return weighed


def pair_of_experts(dim: int) -> nn.ModuleList:
    """Two experts, for one space or to be shared by all."""
    return nn.ModuleList(
        nn.Sequential(nn.Linear(2 * dim, 2 * dim), nn.ReLU(), nn.Linear(2 * dim, dim)) for _ in range(2)
    )


class JoinedExperts(nn.Module):
    """Joined knowledge vectors [.., W] -> one embedding [.., E] of all spaces, weighed by a softmax that reads them."""

    def __init__(self, columns: Mapping[str, slice], dim: int, shared: nn.ModuleList) -> None:
        super().__init__()
        self.spaces = _Spaces(columns, dim, shared)
        width = sum(space.stop - space.start for space in columns.values())
        self.gate = nn.Linear(width, len(columns)) if len(columns) > 1 else None

    def forward(self, joined: Tensor) -> Tensor:
        if self.gate is None:
            return self.spaces.parts(joined)[0]
        weights = F.softmax(self.gate(joined), dim=-1).unsqueeze(-1)
        weighed: Tensor = (self.spaces(joined) * weights).sum(dim=-2)
        return weighed


def spread(user: Tensor, candidates: int) -> Tensor:
    """A user-side tensor [U, ..] as [C, ..]; U is 1 or already C."""
    return user.expand(candidates, *user.shape[1:])
