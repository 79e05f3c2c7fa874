"""FuxiCTR's inputs from ``PeerSamples``: a feature map made in code, and batches made in memory.

Its loaders read files and collate row by row in Python; its models take whatever yields batches. There are three kinds.

towers  what FuxiCTR's sequence models (``model_zoo.LongCTR``) read: features of the user and the context, features of
        items, and a mask. The items of a sample are its history and, last, the candidate; all have the same features.
        The rating is one of them: 1 .. for a rated item, and 0 for the candidate, whose embedding is the zero vector,
        because its rating is what is asked. So attention sees the rating of every item that it weighs.
recent  towers whose padding stands before the history, as FuxiCTR's own loader has it: what models read that find the
        last events by their places.
flat    what all its other models read: one feature after the other, sequences as means of their embeddings. The
        history is a sequence per item feature, and one of ratings.

An item field of several slots is the mean of its values' embeddings. In towers, of both kinds, it is a row of shares
times the table of embeddings, the same numbers at a fraction of the time: there are thirty-one items to a sample and
more. FuxiCTR calls it a given vector with a projection (type "embedding").
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from fuxictr.features import FeatureMap
from torch import Tensor
from tqdm import tqdm

from models.contract.arrays import FloatArray, IntArray
from research.quality.peers import PeerSettings
from research.quality.peers.events import BLOCK
from research.quality.peers.samples import PeerSamples

Kind = Literal["towers", "recent", "flat"]
Spec = dict[str, Any]

LABEL = "label"
_AVERAGED = "layers.MaskedAveragePooling()"  # FuxiCTR evaluates it


class Inputs:
    """Inputs of models of one kind. Scales and rating levels are those of the training samples ``train``."""

    def __init__(self, kind: Kind, samples: PeerSamples, settings: PeerSettings, train: IntArray, pools: bool) -> None:
        self._kind = kind
        self._pools = pools
        self._statistics = samples.statistic_names if settings.use_statistics else ()
        self._mean = samples.statistics[train].mean(axis=0)
        self._scale = samples.statistics[train].std(axis=0) + 1e-6
        self._levels = _levels(samples, train)
        self.length = samples.history.shape[1]
        self.feature_map = FeatureMap("peers", "")
        self.feature_map.features.update(self._specs(samples))
        self.feature_map.labels = [LABEL]
        self.feature_map.default_emb_dim = settings.embedding_dim
        self.feature_map.num_fields = self.feature_map.get_num_fields()

    def encoder(self, samples: PeerSamples) -> Encoder:
        """Of these samples, or of others of the same data set."""
        rated = np.zeros(samples.history.shape, np.int16)
        for at in range(0, len(samples), BLOCK):
            block = slice(at, at + BLOCK)
            levels = np.maximum(np.searchsorted(self._levels, samples.history_values[block], side="right"), 1)
            rated[block] = np.where(samples.history[block] > 0, levels, 0)
        scaled = ((samples.statistics - self._mean) / self._scale).astype(np.float32)
        return Encoder(self._kind, self._pools, self._statistics, samples, rated, scaled)

    def _specs(self, samples: PeerSamples) -> dict[str, Spec]:
        """Index 0 is unknown or padding everywhere. Items and users that no training sample has keep the embedding that
        they started with, which is next to zero."""
        length = samples.history.shape[1]
        items = max((len(values) for values in samples.item_fields.values()), default=int(samples.item.max()) + 1)
        specs = {"user": _categorical("user", int(samples.user.max()) + 2)}
        for name, values in samples.user_fields.items():
            specs[f"user_{name}"] = _field("user", values)
        specs["item"] = _categorical("item", items + 1)
        for name, values in samples.item_fields.items():
            specs[f"item_{name}"] = _field("item", values) if self._kind == "flat" else _shares(values)
        rating = _categorical("item", len(self._levels) + 1)
        if self._kind != "flat":
            specs["rating"] = rating
        else:
            specs["history"] = _averaged(specs["item"], length, "item")
            for name, values in samples.item_fields.items():
                shared = f"item_{name}"
                specs[f"history_{name}"] = _averaged(specs[shared], length * values.shape[1], shared)
            specs["history_rating"] = _averaged(rating, length)
        if self._pools:
            specs["liked"] = _averaged(specs["item"], length, "item")
            specs["others"] = _averaged(specs["item"], length, "item")
        return specs | {f"statistic_{name}": {"type": "numeric", "source": "context"} for name in self._statistics}


def is_history(feature: str) -> bool:
    """Whether a flat feature is a sequence over the history."""
    return feature in ("liked", "others") or feature.startswith("history")


class Encoder:
    """Turns places of samples into batches of tensors."""

    def __init__(
        self,
        kind: Kind,
        pools: bool,
        statistics: tuple[str, ...],
        samples: PeerSamples,
        rated: npt.NDArray[np.int16],
        scaled: FloatArray,
    ) -> None:
        self._kind = kind
        self._pools = pools
        self._statistics = statistics
        self._label = torch.from_numpy(samples.label)
        self._user = torch.from_numpy(samples.user + 1)
        self._user_fields = {f"user_{name}": _tensor(values) for name, values in samples.user_fields.items()}
        self._item = torch.from_numpy(samples.item + 1)
        self._item_fields = {
            name: _tensor(_share_table(values) if kind != "flat" and values.shape[1] > 1 else _with_unknown(values))
            for name, values in samples.item_fields.items()
        }
        self._history = torch.from_numpy(samples.history)
        self._rated = torch.from_numpy(rated)
        self._liked = torch.from_numpy(samples.history_values > samples.liked_above)
        self._scaled = torch.from_numpy(scaled)

    def batch(self, places: IntArray) -> Any:
        """Inputs as FuxiCTR's models take them: (features, features of items, mask), or features if flat."""
        at = torch.from_numpy(places)
        history, rated, item = self._history[at].long(), self._rated[at], self._item[at]
        features = {LABEL: self._label[at], "user": self._user[at]}
        features |= {name: values[at] for name, values in self._user_fields.items()}
        if self._pools:
            liked = self._liked[at]
            features |= {"liked": history * liked, "others": history * ~liked}
        numbers = self._scaled[at].unbind(1)
        features |= {f"statistic_{name}": numbers[column] for column, name in enumerate(self._statistics)}
        if self._kind == "recent":
            length = (history > 0).sum(dim=1)
            history, rated = _padding_first(history, length), _padding_first(rated, length)
        if self._kind != "flat":
            items = torch.cat([history, item[:, None]], dim=1).flatten()
            asked = torch.zeros((len(at), 1), dtype=self._rated.dtype)
            of_items = {"item": items, "rating": torch.cat([rated, asked], dim=1).flatten()}
            of_items |= {f"item_{name}": table[items] for name, table in self._item_fields.items()}
            return features, of_items, (history > 0).float()
        features |= {"item": item, "history": history, "history_rating": rated}
        features |= {f"item_{name}": table[item] for name, table in self._item_fields.items()}
        features |= {f"history_{name}": table[history].flatten(1) for name, table in self._item_fields.items()}
        return features


class Batches:
    """FuxiCTR's "data generator": batches of samples at ``places``, shuffled anew in every epoch if a ``generator`` is
    given, in their order otherwise."""

    def __init__(
        self,
        encoder: Encoder,
        places: IntArray,
        batch_size: int,
        generator: np.random.Generator | None = None,
        bar: tqdm[Any] | None = None,
    ) -> None:
        self._encoder = encoder
        self._places = places
        self._size = batch_size
        self._generator = generator
        self._bar = bar
        self._end = len(places)
        if generator is not None and self._end % batch_size == 1:  # batch normalisation cannot train on one sample
            self._end -= 1

    def __len__(self) -> int:
        return -(-self._end // self._size)

    def __iter__(self) -> Iterator[Any]:
        order = self._places if self._generator is None else self._generator.permutation(self._places)
        for at in range(0, self._end, self._size):
            yield self._encoder.batch(order[at : min(at + self._size, self._end)])
            if self._bar is not None:
                self._bar.update()


def _levels(samples: PeerSamples, places: IntArray) -> FloatArray:
    """Values that occur in the histories of these samples, rising."""
    blocks = [places[at : at + BLOCK] for at in range(0, len(places), BLOCK)]
    return np.unique(
        np.concatenate([np.unique(samples.history_values[block][samples.history[block] > 0]) for block in blocks])
    )


def _padding_first(values: Tensor, length: Tensor) -> Tensor:
    """Rows [n, T] whose first ``length`` [n] cells are values and all others 0, with the values at the end."""
    steps = values.shape[1]
    places = torch.arange(steps)[None] - (steps - length)[:, None]
    return values.gather(1, places.clamp(min=0)) * (places >= 0)


def _categorical(source: str, size: int) -> Spec:
    return {"type": "categorical", "source": source, "vocab_size": size, "padding_idx": 0}


def _field(source: str, values: IntArray) -> Spec:
    spec = _categorical(source, int(values.max()) + 1)
    return spec if values.shape[1] == 1 else _averaged(spec, values.shape[1])


def _averaged(single: Spec, length: int, shared: str | None = None) -> Spec:
    """A sequence of ``single`` features, with the embeddings of the feature ``shared``."""
    spec = {**single, "type": "sequence", "source": "context", "max_len": length, "feature_encoder": _AVERAGED}
    return spec if shared is None else {**spec, "share_embedding": shared}


def _shares(values: IntArray) -> Spec:
    if values.shape[1] == 1:
        return _field("item", values)
    return {"type": "embedding", "source": "item", "pretrain_dim": int(values.max())}


def _share_table(values: IntArray) -> FloatArray:
    """[items + 1, values]: 1 / k at each of an item's k values."""
    values_of = _with_unknown(values)
    counts = np.zeros((len(values_of), int(values_of.max()) + 1), np.float32)
    np.add.at(counts, (np.arange(len(values_of))[:, None], values_of), 1.0)
    known = counts[:, 1:]  # index 0 is padding
    return np.asarray(known / np.maximum(known.sum(axis=1, keepdims=True), 1.0))


def _with_unknown(values: IntArray) -> IntArray:
    """[items + 1, slots]: row 0 is padding."""
    return np.concatenate([np.zeros((1, values.shape[1]), np.int64), values])


def _tensor(values: npt.NDArray[Any]) -> Tensor:
    """[n] for a field of one slot, [n, slots] otherwise."""
    return torch.from_numpy(np.ascontiguousarray(values[:, 0] if values.shape[1] == 1 else values))
