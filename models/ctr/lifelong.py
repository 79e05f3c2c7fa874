"""A CTR model of whole histories: target attention over all of a user's events, and a process of the user's ratings.

Several readings of one history meet in a small network: what a Gaussian process expects of this user and item, how the
user has been rating lately (averages that forget at several speeds), with attention, which events resemble the
candidate (as DIN's, over hundreds of events), what the user's closed partitions say (LIBER's), and the running features
of a schema that has some. Where values are not given by users, as with drawn negatives, there is no process.

Training reads whole histories at once (``sequence``): all events of a user are predicted in one pass, each from those
before it, which costs less than windows of 30 events per sample did. Serving (``forward``) has one user and many
candidates; training with drawn negatives, which are nobody's events, has a window of history for each. All give the
same numbers (tests/models/test_lifelong.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.contract.schema import FeatureSchema
from models.ctr.features import FieldEmbedding, JoinedExperts, ModelSettings, pair_of_experts
from models.ctr.gaussian_process import RatingProcess
from models.ctr.layers import MLP, Dropout, InterestFusion
from models.ctr.running import RunningFeatures

_FORGETTING = (0.5, 0.8, 0.9, 0.97, 0.99, 1.0)
"""By how much the weight of an event shrinks with each later one, in averages over the history."""

_AVERAGED = 4  # surprise, liking, the items' own means, and the size of the surprise
_DISTANCES = 16  # buckets of how many events ago, by powers of two
_BELIEFS = 2  # mean and deviation of the process


class Lifelong(nn.Module):
    """Logits [C] of the contract's inputs. Without attention a history costs a candidate nothing."""

    def __init__(self, schema: FeatureSchema, item_rows: int, settings: ModelSettings) -> None:
        super().__init__()
        dim, hidden = settings.dim, (200, 80)
        heads, width = (4 if settings.attention else 0), 16
        self.hidden = hidden[-1]
        self.process = RatingProcess(schema, item_rows, settings.factors) if settings.factors else None
        self.liked_above = (schema.liked_above - schema.value_center) / schema.value_scale
        self.prior_liked = schema.prior_liked
        self.heads, self.width, self.knowledge_dropout = heads, width, settings.knowledge_dropout
        self.ids = nn.Embedding(item_rows, dim, padding_idx=0)
        nn.init.normal_(self.ids.weight, std=0.01)
        with torch.no_grad():
            self.ids.weight[0].zero_()
        self.id_dropout = Dropout(0.3)
        self.fields = FieldEmbedding(schema.item_fields, dim)
        self.numeric = nn.Linear(schema.item_numbers, dim)
        shared = None if settings.adaptor == "linear" else pair_of_experts(dim)
        self.knowledge = _adaptor(schema.item_columns, dim, shared)
        self.user_fields = FieldEmbedding(schema.user_fields, dim)
        self.user_knowledge = _adaptor(schema.user_columns, dim, shared)
        averages = 1 + _AVERAGED * len(_FORGETTING)
        self.averages = nn.Linear(averages, dim)

        item = dim * (2 + bool(schema.item_fields) + (self.knowledge is not None))
        attended = heads * width
        if heads:
            self.value = nn.Linear(2, dim)
            self.surprise = nn.Linear(1, dim)
            self.surprising = nn.Linear(dim, dim, bias=False)
            self.query = nn.Linear(item, attended)
            self.key = nn.Linear(dim, attended, bias=False)
            self.read = nn.Linear(dim, attended, bias=False)
            self.null_score = nn.Parameter(torch.zeros(heads))
            self.null_value = nn.Parameter(torch.zeros(heads, width))
            self.distance = nn.Parameter(torch.zeros(heads, _DISTANCES))
            self.taste = nn.Linear(attended, dim)
            self.offer = nn.Linear(item, dim)

        user = dim * (1 + len(schema.user_fields) + (self.user_knowledge is not None)) + averages
        self.running = RunningFeatures(schema) if schema.running else None
        total = item + user + (attended + dim if heads else 0) + (_BELIEFS if self.process else 0)
        total += self.running.width if self.running else 0
        self.interests: InterestFusion | None = None
        if schema.sequence is not None:
            self.partition_rows = schema.sequence.rows
            self.partition = nn.Linear(schema.sequence.dim, dim)
            self.interests = InterestFusion(settings.fusion, item, dim)
            total += dim
        self.norm = nn.LayerNorm(total)
        self.deep = MLP(total, hidden, settings.dropout)
        self.out = nn.Linear(self.hidden, 1)
        if self.process:
            self.belief = nn.Linear(_BELIEFS, 1)
            self.belief_mean: Tensor
            self.belief_scale: Tensor
            self.register_buffer("belief_mean", torch.zeros(_BELIEFS))
            self.register_buffer("belief_scale", torch.ones(_BELIEFS))

    def standardise(self, beliefs: Tensor) -> None:
        """Take the scale of the process's expectations from those [n, 2] of training samples."""
        self.belief_mean.copy_(beliefs.mean(dim=0))
        self.belief_scale.copy_(beliefs.std(dim=0).clamp(min=1e-6))

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        """Logits [C] of one user and C candidates, or of C aligned pairs."""
        mask, C = inputs["history_mask"], inputs["item_index"].shape[0]
        keep = self._mask(C, mask.device)
        item, _ = self._item(inputs, "item", keep)
        ago = mask.sum(dim=1, keepdim=True) - torch.arange(mask.shape[1], device=mask.device)  # 1 for the newest event
        history = _History(
            self._event(
                self._item(inputs, "history", None if keep is None else keep.unsqueeze(1))[1],
                inputs["history_value"],
                inputs["history_numeric"],
            )
            if self.heads
            else None,
            self._averaged(inputs["history_value"], inputs["history_numeric"]),
            ago.unsqueeze(1),
            mask.unsqueeze(1),
        )
        shape = (1, C) if mask.shape[0] == 1 else (C, 1)
        pooled = self._attend(item.view(*shape, -1), history)
        pooled = None if pooled is None else pooled.view(C, -1)
        averages = self._averages(history).squeeze(1)
        user = self._user(inputs, averages, keep)
        beliefs = torch.stack(self.process(inputs), dim=1) if self.process else None
        running = None if self.running is None else self.running(inputs)
        parts = self._parts(item, pooled, user, beliefs, running)
        if self.interests is not None:
            closed = _shown(inputs["partition_mask"], keep)
            parts.append(self.interests(item, self.partition(inputs["partition_vectors"]), closed))
        if self.training:
            hidden = self.deep(self.norm(torch.cat([part.expand(C, -1) for part in parts], dim=1)))
        else:
            hidden = self.deep.of_normed(self.norm, parts)
        return self._logit(hidden, beliefs)

    def sequence(
        self, tensors: dict[str, Tensor], sample: Tensor, beliefs: Tensor, running: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Logits [n] and last hidden layer [n, 80] of the n events at ``sample`` [B, L], of whole histories
        (``offline.training.sequences``); ``beliefs`` [n, 2] are what the process expected of them, ``running`` [n, R]
        their running features as they are, if a schema has some and they are known already."""
        B, L = sample.shape
        keep = self._mask(B, sample.device)
        keep = None if keep is None else keep.unsqueeze(1)
        item, entry = self._item(tensors, "item", keep)
        places = torch.arange(L, device=sample.device)
        ago = (places.unsqueeze(1) - places.unsqueeze(0)).float().unsqueeze(0)
        history = _History(
            self._event(entry, tensors["value"], tensors["history_numeric"]) if self.heads else None,
            self._averaged(tensors["value"], tensors["history_numeric"]),
            ago,
            (ago > 0).float(),
        )
        pooled = self._attend(item, history)
        user = self._user(tensors, self._averages(history), keep)
        scaled = None
        if self.running is not None:
            scaled = self.running.scaled(self.running.sequence(tensors)[sample] if running is None else running)
        parts = self._parts(item[sample], None if pooled is None else pooled[sample], user[sample], beliefs, scaled)
        if self.interests is not None:
            closed = _shown(self._closed(tensors), keep)
            parts.append(self.interests(item, self.partition(tensors["partition_vectors"]), closed)[sample])
        hidden = self.deep(self.norm(torch.cat(parts, dim=1)))
        return self._logit(hidden, beliefs), hidden

    def _mask(self, samples: int, device: torch.device) -> Tensor | None:
        """Zeros [samples, 1] where knowledge is hidden, in training; None where it never is."""
        if not (self.training and self.knowledge_dropout):
            return None
        return (torch.rand(samples, 1, device=device) >= self.knowledge_dropout).float()

    def _item(self, tensors: dict[str, Tensor], side: str, keep: Tensor | None) -> tuple[Tensor, Tensor]:
        """Items as candidates [.., 3 or 4 dim], and as entries of a history [.., dim], which is without statistics."""
        entry = self.id_dropout(self.ids(tensors[f"{side}_index"]))
        parts = [entry]
        if self.fields.slots:
            parts.append(self.fields.summed(tensors[f"{side}_categorical"]))
        if self.knowledge is not None:
            parts.append(self.knowledge(_shown(tensors[f"{side}_vectors"], keep)))
        return torch.cat([*parts, self.numeric(tensors[f"{side}_numeric"])], dim=-1), torch.stack(parts).sum(dim=0)

    def _event(self, entry: Tensor, value: Tensor, numeric: Tensor) -> Tensor:
        """Entries of a history [.., dim] with what the user said of them."""
        value = value.unsqueeze(-1)
        surprise = value - numeric[..., 1:2]
        said = self.value(torch.cat([value, value.square()], dim=-1)) + self.surprise(surprise)
        event: Tensor = entry + said + self.surprising(entry * surprise)
        return event

    def _averaged(self, value: Tensor, numeric: Tensor) -> Tensor:
        """Numbers of each event that are averaged over a history, [.., 4]."""
        expected = numeric[..., 1]
        surprise = value - expected
        liked = (value > self.liked_above).to(value.dtype) - self.prior_liked
        return torch.stack([surprise, liked, expected, surprise.abs() - 0.4], dim=-1)

    def _averages(self, history: _History) -> Tensor:
        """[B, Q, 1 + 4 * forgetting]: how many events, and averages of them that forget at several speeds."""
        rates = torch.tensor(_FORGETTING, device=history.ago.device).log().view(-1, 1, 1, 1)
        weights = torch.exp(rates * (history.ago - 1.0).clamp(min=0.0)) * history.visible  # [forgetting, B or 1, Q, T]
        averages = torch.matmul(weights, history.averaged) / (weights.sum(dim=3, keepdim=True) + 1.0)
        averages = averages.permute(1, 2, 0, 3).flatten(2)
        count = torch.log1p(history.visible.sum(dim=2, keepdim=True)) / 5.0
        return torch.cat([count.expand(averages.shape[0], -1, 1), averages], dim=2)

    def _attend(self, item: Tensor, history: _History) -> Tensor | None:
        """Candidates [B, Q, ..] -> the history as each attends to it [B, Q, H * w]."""
        if history.event is None:
            return None
        query = self._heads(self.query(item)) / self.width**0.5
        key, read = self._heads(self.key(history.event)), self._heads(self.read(history.event))
        distance = torch.log2(history.ago.clamp(min=1.0) + 0.5).long().clamp(max=_DISTANCES - 1)
        near = self.distance[:, distance].transpose(0, 1) + ((history.visible - 1.0) * 1e9).unsqueeze(1)  # [b, H, Q, T]
        scores = torch.matmul(query, key.transpose(2, 3)) + near
        null = self.null_score.view(1, -1, 1, 1).expand(scores.shape[0], -1, scores.shape[2], 1)
        weights = F.softmax(torch.cat([null, scores], dim=3), dim=3)
        pooled = torch.matmul(weights[..., 1:], read) + weights[..., :1] * self.null_value.unsqueeze(1)
        return pooled.transpose(1, 2).flatten(2)

    def _heads(self, x: Tensor) -> Tensor:
        """[B, n, H * w] -> [B, H, n, w]."""
        return x.view(*x.shape[:2], self.heads, self.width).transpose(1, 2)

    def _closed(self, tensors: dict[str, Tensor]) -> Tensor:
        """Which of a user's partitions each event of a whole history sees, [B, L, V]: the last ones that were closed by
        then."""
        counts = tensors["partition_counts"].unsqueeze(2)
        places = torch.arange(tensors["partition_vectors"].shape[1], device=counts.device)
        return ((places < counts) & (places >= counts - self.partition_rows)).float()

    def _user(self, tensors: dict[str, Tensor], averages: Tensor, keep: Tensor | None) -> Tensor:
        fields = self.user_fields(tensors["user_categorical"]).flatten(1)
        if averages.dim() == 3:
            fields = fields.unsqueeze(1).expand(-1, averages.shape[1], -1)
        parts = [fields, self.averages(averages), averages]
        if self.user_knowledge is not None:
            parts.append(self.user_knowledge(_shown(tensors["user_vectors"], keep)))
        return torch.cat(parts, dim=-1)

    def _parts(
        self, item: Tensor, pooled: Tensor | None, user: Tensor, beliefs: Tensor | None, running: Tensor | None
    ) -> list[Tensor]:
        """Inputs of the network, [n, ..] each; the user's part may have one row for all."""
        parts = [item, user]
        if beliefs is not None:
            parts.append(self._scaled(beliefs))
        if pooled is not None:
            parts += [pooled, self.taste(pooled) * self.offer(item)]
        if running is not None:
            parts.append(running)
        return parts

    def _scaled(self, beliefs: Tensor) -> Tensor:
        return (beliefs - self.belief_mean) / self.belief_scale

    def _logit(self, hidden: Tensor, beliefs: Tensor | None) -> Tensor:
        logit: Tensor = self.out(hidden)
        if beliefs is not None:
            logit = logit + self.belief(self._scaled(beliefs))
        return logit.squeeze(1)


@dataclass(frozen=True, slots=True)
class _History:
    """A history as candidates look back on it. event [B, T, dim] and averaged [B, T, 4]; ago, visible [B or 1, Q, T]:
    how many events ago it was for each query, and 1 if the query may see it. Q is 1 where all candidates see the same.
    Without attention there are no events."""

    event: Tensor | None
    averaged: Tensor
    ago: Tensor
    visible: Tensor


def _adaptor(columns: Mapping[str, slice], dim: int, shared: nn.ModuleList | None) -> nn.Module | None:
    """What all single vectors of one side pass, joined; None without any."""
    if not columns:
        return None
    if shared is not None:
        return JoinedExperts(columns, dim, shared)
    return nn.Linear(sum(space.stop - space.start for space in columns.values()), dim)


def _shown(knowledge: Tensor, keep: Tensor | None) -> Tensor:
    return knowledge if keep is None else knowledge * keep
