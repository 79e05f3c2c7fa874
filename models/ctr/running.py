"""Running features of a user and a candidate: how often, how lately and with which values the user met this item, and
what shares its fields. They are part of the graph, so training and serving compute them with the same nodes.

A history is looked at through keys: the item itself, and each of its fields. An event meets a candidate in a key by
the share of the candidate's values there that the event's item has, too. Weighted sums of these over the history are
computed in two orders, to the same numbers: training has a history per candidate and compares them event by event;
serving has one history, sums it up by value once, and looks candidates up.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

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
    """Features [C, ``width``] of the contract's inputs, of one user and C candidates or of C aligned pairs."""

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
        """Features as a network reads them: around zero, of about one deviation."""
        return ((self.plain(inputs) - self.mean) / self.scale).clamp(-_LARGEST, _LARGEST)

    def plain(self, inputs: dict[str, Tensor]) -> Tensor:
        """Features as they are."""
        C = inputs["item_row"].shape[0]
        present = inputs["history_mask"]
        weights, totals = self._weights(inputs, present)
        liked = totals[:, 2:3] / (totals[:, :1] + _PRIOR_EVENTS)
        own, lately = self._of_item(inputs, weights)
        parts = [inputs["item_numeric"], self._of_user(inputs, present).expand(C, -1), *lately]
        for sums in [own, *self._of_fields(inputs, weights)]:
            met = sums[:, :1]
            taste = (sums[:, 2:3] - liked * met) / (met + _PRIOR_EVENTS)
            shares = sums / (totals + 1.0)
            parts += [shares[:, :2], taste, shares[:, 3:]]
        return torch.cat([torch.log1p(own[:, :1]), *parts], dim=1)

    def _weights(self, inputs: dict[str, Tensor], present: Tensor) -> tuple[Tensor, Tensor]:
        """Weights [U, T, k] of events: 1, less for earlier ones, liking, and less by the clock; and their sums [U, k]
        over the history."""
        ago = self._ago(present)
        liked = self._liked(inputs["history_value"]) * present
        columns = [present, torch.pow(_LATELY, ago) * present, liked]
        columns += [torch.exp2(-inputs["history_hours"] / half_life) * present for half_life in self.half_lives]
        weights = torch.stack(columns, dim=2)
        return weights, weights.sum(dim=1)

    def _of_item(self, inputs: dict[str, Tensor], weights: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Sums [C, k] of the weights of events of the candidate itself, and how lately [C, 1] the last was, from 1 for
        just now to 0 for never: by later events, and by the clock."""
        row, history = inputs["item_row"].unsqueeze(1), inputs["history_row"]
        same = ((row == history) & (row > 0)).to(weights.dtype) * inputs["history_mask"]  # [C, T]
        passed = [self._ago(inputs["history_mask"])]
        passed += [inputs["history_hours"]] if self.half_lives else []
        lately = [(same / (1.0 + torch.log1p(since))).amax(dim=1, keepdim=True) for since in passed]
        return _summed(same, weights), lately

    def _of_fields(self, inputs: dict[str, Tensor], weights: Tensor) -> list[Tensor]:
        """Sums [C, k] for each field."""
        sums = []
        for first, end, cardinality in self.fields:
            history, item = inputs["history_categorical"][..., first:end], inputs["item_categorical"][:, first:end]
            known = (item > 0).to(weights.dtype)
            if weights.shape[0] == 1:
                events = weights[0].repeat_interleave(end - first, dim=0)  # [T * slots, k]
                table = events.new_zeros(cardinality, events.shape[1])
                table = table.index_add(0, history.reshape(-1), events)
                total = (table[item] * known.unsqueeze(2)).sum(dim=1)
            else:
                alike = (history.unsqueeze(3) == item[:, None, None, :]).to(weights.dtype).sum(dim=2)  # [C, T, slots]
                total = _summed((alike * known.unsqueeze(1)).sum(dim=2), weights)
            sums.append(total / known.sum(dim=1, keepdim=True).clamp(min=1.0))
        return sums

    def _of_user(self, inputs: dict[str, Tensor], present: Tensor) -> Tensor:
        """Features [U, ..] that are the same for every candidate."""
        value = inputs["history_value"]
        surprise = value - inputs["history_numeric"][..., 1]
        averaged = torch.stack([value, self._liked(value), surprise], dim=2) * present.unsqueeze(2)
        ago = self._ago(present)
        averages = []
        for rate in _FORGETTING:
            weight = torch.pow(rate, ago) * present
            total = (averaged * weight.unsqueeze(2)).sum(dim=1)
            averages.append(total / (weight.sum(dim=1, keepdim=True) + 1.0))
        return torch.cat([inputs["user_numeric"], inputs["user_running"], *averages], dim=1)

    def _liked(self, value: Tensor) -> Tensor:
        return (value > self.liked_above).to(value.dtype) - self.prior_liked

    def _ago(self, present: Tensor) -> Tensor:
        """How many later events [U, T] there are: 0 for the newest."""
        places = torch.arange(present.shape[1], device=present.device)
        return (present.sum(dim=1, keepdim=True) - 1.0 - places).clamp(min=0.0)


def _summed(alike: Tensor, weights: Tensor) -> Tensor:
    """[C, T] times [U, T, k] -> [C, k]; U is 1 or C."""
    if weights.shape[0] == 1:
        return alike @ weights[0]
    return torch.bmm(alike.unsqueeze(1), weights).squeeze(1)
