"""Running features of a user and a candidate: how often, how lately and with which values the user met this item, and
what shares its fields. They are part of the graph, so training and serving compute them with the same nodes.

A history is looked at through keys: the item itself, and each of its fields. An event meets a candidate in a key by
the share of the candidate's values there that the event's item has, too. Weighted sums of these over the history are
computed in three orders, to the same numbers: training has a history per candidate, or whole histories of which every
event is a candidate for those before it, and compares event by event; serving has one history, sums it up by value
once, and looks candidates up.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.contract.encoding import USER_NUMERIC
from models.contract.schema import FeatureSchema

_FORGETTING = (0.8, 0.97, 1.0)
"""By how much the weight of an event shrinks with each later one, in averages over the history."""

_LATELY = 0.8
"""The same for what a user met lately."""

_AVERAGED = 3  # value, liking, and by how much it lies above the item's mean
_PRIOR_EVENTS = 2.0
_LARGEST = 8.0  # deviations: a number of another scale than in training must not blind the network


class RunningFeatures(nn.Module):
    """Features [.., ``width``] of the contract's inputs, of one user and C candidates or of C aligned pairs, or of all
    events of whole histories (``sequence``)."""

    def __init__(self, schema: FeatureSchema) -> None:
        super().__init__()
        assert schema.running is not None
        self.liked_above = (schema.liked_above - schema.value_center) / schema.value_scale
        self.prior_liked = schema.prior_liked
        self.half_lives = [days * 24.0 for days in schema.running.half_lives_days]
        self.fields: list[tuple[int, int, int]] = []  # first slot, one past the last, cardinality
        for field in schema.item_fields:
            first = self.fields[-1][1] if self.fields else 0
            self.fields.append((first, first + field.slots, field.cardinality))
        timed = len(self.half_lives)
        of_key = 3 + timed
        of_user = len(USER_NUMERIC) + (3 + timed if timed else 1) + _AVERAGED * len(_FORGETTING)
        self.width = schema.item_numbers + of_user + of_key * (1 + len(self.fields)) + (3 if timed else 2)
        self.mean: Tensor
        self.scale: Tensor
        self.register_buffer("mean", torch.zeros(self.width))
        self.register_buffer("scale", torch.ones(self.width))

    def standardise(self, features: Tensor) -> None:
        """Take mean and scale from the features [n, width] of training samples."""
        self.mean.copy_(features.mean(dim=0))
        self.scale.copy_(features.std(dim=0).clamp(min=1e-3))

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        """Features [C, width] as a network reads them."""
        return self.scaled(self.plain(inputs))

    def scaled(self, plain: Tensor) -> Tensor:
        """Features around zero, of about one deviation."""
        return ((plain - self.mean) / self.scale).clamp(-_LARGEST, _LARGEST)

    def plain(self, inputs: dict[str, Tensor]) -> Tensor:
        """Features [C, width] as they are."""
        present = inputs["history_mask"]
        ago = (present.sum(dim=1, keepdim=True) - 1.0 - _places(present)).clamp(min=0.0)
        history = _Looks(
            present.unsqueeze(1), ago.unsqueeze(1), inputs["history_hours"].unsqueeze(1) if self.half_lives else None
        )
        weights = self._weights(inputs["history_value"], history)  # [U, 1, T, k]
        rows = inputs["item_row"].unsqueeze(1).unsqueeze(2)
        history_row = torch.where((present > 0) & (inputs["history_row"] > 0), inputs["history_row"], -1)
        own = self._of_item(rows, history_row.unsqueeze(1), history, weights)
        of_fields = self._looked_up if weights.shape[0] == 1 else self._compared
        fields = of_fields(inputs["item_categorical"].unsqueeze(1), inputs["history_categorical"], weights)
        user = [inputs["user_numeric"], inputs["user_running"]]
        averages = self._averages(inputs["history_value"], inputs["history_numeric"], history)
        parts = [inputs["item_numeric"].unsqueeze(1), *(numbers.unsqueeze(1) for numbers in user), averages]
        return self._joined(parts, own, fields, weights.sum(dim=2)).squeeze(1)

    def sequence(self, tensors: dict[str, Tensor]) -> Tensor:
        """Features [B, L, width] as they are, of every event of whole histories (``offline.training.sequences``), given
        those before it."""
        places = _places(tensors["present"])
        ago = (places.unsqueeze(1) - places.unsqueeze(0) - 1.0).unsqueeze(0)  # [1, L, L]
        hours = None
        if self.half_lives:
            time = tensors["time_ms"]  # whole numbers: differences are small against them
            hours = (time.unsqueeze(2) - time.unsqueeze(1)).clamp(min=0).to(tensors["value"].dtype) / 3_600_000.0
        history = _Looks((ago >= 0).to(ago.dtype), ago.clamp(min=0.0), hours)
        weights = self._weights(tensors["value"], history)  # [B, L, L, k]
        row = tensors["item_row"]
        own = self._of_item(row.unsqueeze(2), torch.where(row > 0, row, -1).unsqueeze(1), history, weights)
        fields = self._compared(tensors["item_categorical"], tensors["item_categorical"], weights)
        averages = self._averages(tensors["value"], tensors["history_numeric"], history)
        parts = [tensors["item_numeric"], tensors["user_numeric"], tensors["user_running"], averages]
        return self._joined(parts, own, fields, weights.sum(dim=2))

    def _joined(self, parts: list[Tensor], own: _OfItem, fields: list[Tensor], totals: Tensor) -> Tensor:
        """Features [.., Q, width] of a candidate's and a user's own numbers, of sums [.., Q, k] for each key, and of
        the ``totals`` [.., 1 or Q, k] of all events."""
        most = own.sums.shape[:2]
        liked = totals[..., 2:3] / (totals[..., :1] + _PRIOR_EVENTS)
        keys = []
        for sums in [own.sums, *fields]:
            met = sums[..., :1]
            taste = (sums[..., 2:3] - liked * met) / (met + _PRIOR_EVENTS)
            shares = sums / (totals + 1.0)
            keys += [shares[..., :2], taste, shares[..., 3:]]
        spread = [part.expand(*most, -1) for part in parts]
        return torch.cat([torch.log1p(own.sums[..., :1]), *spread, *own.lately, *keys], dim=-1)

    def _weights(self, value: Tensor, history: _Looks) -> Tensor:
        """Weights [.., Q, T, k] of events: 1, less for earlier ones, liking, and less by the clock."""
        present = history.visible.expand(value.shape[0], -1, -1)
        columns = [
            present,
            torch.pow(_number(_LATELY, history.ago), history.ago) * present,
            self._liked(value).unsqueeze(1) * present,
        ]
        if history.hours is not None:
            columns += [
                torch.exp2(-history.hours / _number(half_life, history.hours)) * present
                for half_life in self.half_lives
            ]
        return torch.stack(columns, dim=3)

    def _of_item(self, row: Tensor, history_row: Tensor, history: _Looks, weights: Tensor) -> _OfItem:
        """Of events of the candidate itself: ``row`` [.., Q, 1] against [.., 1, T], -1 where no event is known."""
        same = (row == history_row).to(weights.dtype)
        if history.visible.shape[1] > 1:  # else absent events are known by their row
            same = same * history.visible
        last = (same * (_places(same[0]) + 1.0)).amax(dim=-1, keepdim=True).long()  # 0 for never
        passed = [history.ago] if history.hours is None else [history.ago, history.hours]
        return _OfItem(_summed(same, weights), [_lately(since, last) for since in passed])

    def _compared(self, item: Tensor, history: Tensor, weights: Tensor) -> list[Tensor]:
        """Sums [B, Q, k] for each field, of candidates' codes [B, Q, S] and events' [B, T, S], event by event."""
        sums = []
        for first, end, _ in self.fields:
            own, other = item[..., first:end], history[..., first:end]
            alike = torch.zeros(1, dtype=weights.dtype, device=weights.device)
            for slot in range(end - first):
                code = own[..., slot].unsqueeze(2).unsqueeze(3)  # [B, Q, 1, 1]
                met = ((code == other.unsqueeze(1)) & (code > 0)).to(weights.dtype).sum(dim=3)
                alike = alike + met
            sums.append(_summed(alike, weights) / _known(own, weights))
        return sums

    def _looked_up(self, item: Tensor, history: Tensor, weights: Tensor) -> list[Tensor]:
        """The same [C, 1, k] of one user's history [1, T, S]: summed up by code, and looked up for [C, 1, S]."""
        sums = []
        for first, end, cardinality in self.fields:
            own, other = item[:, 0, first:end], history[..., first:end]
            events = weights[0, 0].repeat_interleave(end - first, dim=0)  # [T * slots, k]
            table = events.new_zeros(cardinality, events.shape[1]).index_add(0, other.reshape(-1), events)
            total = (table[own] * (own > 0).to(weights.dtype).unsqueeze(2)).sum(dim=1)
            sums.append((total / _known(own, weights)).unsqueeze(1))
        return sums

    def _averages(self, value: Tensor, numeric: Tensor, history: _Looks) -> Tensor:
        """Averages [.., Q, n] over a history that forget at several speeds."""
        surprise = value - numeric[..., 1]
        averaged = torch.stack([value, self._liked(value), surprise], dim=2)
        averages = []
        for rate in _FORGETTING:
            weight = torch.pow(_number(rate, history.ago), history.ago) * history.visible
            averages.append(torch.matmul(weight, averaged) / (weight.sum(dim=2, keepdim=True) + 1.0))
        return torch.cat(averages, dim=2)

    def _liked(self, value: Tensor) -> Tensor:
        return (value > _number(self.liked_above, value)).to(value.dtype) - _number(self.prior_liked, value)


@dataclass(frozen=True, slots=True)
class _Looks:
    """How candidates look back on events, [B or 1, Q, T] each: 1 for those they may see, how many later events there
    were, and how many hours ago it was where that is known. Q is 1 where all candidates see the same."""

    visible: Tensor
    ago: Tensor
    hours: Tensor | None


@dataclass(frozen=True, slots=True)
class _OfItem:
    """Sums [.., Q, k] of the weights of events of the candidate itself; and how lately [.., Q, 1] the last was, from 1
    for just now to 0 for never: by later events, and by the clock."""

    sums: Tensor
    lately: list[Tensor]


def _lately(since: Tensor, last: Tensor) -> Tensor:
    """How lately [.., Q, 1] the ``last``-th event was, given how long ago [.., 1 or Q, T] each was; 0 for the 0-th."""
    table = F.pad(1.0 / (1.0 + torch.log1p(since)), (1, 0))
    if table.shape[0] == 1 and table.shape[1] == 1:
        return table[0, 0][last]
    return table.expand(*last.shape[:2], -1).gather(2, last)


def _number(value: float, like: Tensor) -> Tensor:
    """A number in the precision of ``like``: the exporter would round one of Python to single precision."""
    return torch.tensor(value, dtype=like.dtype, device=like.device)


def _places(present: Tensor) -> Tensor:
    return torch.arange(present.shape[1], device=present.device).to(present.dtype)


def _known(codes: Tensor, like: Tensor) -> Tensor:
    """How many codes [.., 1] a candidate has in a field, at least 1."""
    return (codes > 0).to(like.dtype).sum(dim=-1, keepdim=True).clamp(min=1.0)


def _summed(alike: Tensor, weights: Tensor) -> Tensor:
    """[C or B, Q, T] times [U or B, 1 or Q, T, k] -> [.., Q, k]."""
    if weights.shape[0] == 1 and weights.shape[1] == 1:
        return torch.matmul(alike, weights[0, 0])
    if weights.shape[1] == 1:
        return torch.matmul(alike, weights[:, 0])
    return torch.einsum("bqt,bqtk->bqk", alike, weights)
