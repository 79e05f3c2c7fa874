"""Models that people deploy today, with random weights, as ONNX files with inputs of requests to them.

din        FuxiCTR's DIN as research/quality/peers trains it: 30 events, the settings of docs/quality.md. Deployed as
           it is written: a row of inputs for every candidate, with the user's history in each.
attention  a small DIN: 50 events, vectors of 64 numbers, attention by an MLP 256-64-16-1 over event, candidate,
           their difference and product; then an MLP 200-80-1.
"""

from __future__ import annotations

import json
import logging
import pickle
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bench.serving.installed import Installed
from bench.serving.world import catalogue_of, job_of, log_of
from models.contract.schema import FeatureSchema
from models.onnx_runtime import onnx_runtime
from research.quality.peers.fuxi_models import DIN
from research.quality.peers.inputs import Inputs
from research.quality.peers.samples import PeerSamples, peer_samples
from research.quality.trainings import PEER_SETTINGS

Arrays = Mapping[str, "np.ndarray[Any, Any]"]

EVENTS, DIM = 50, 64


@dataclass(frozen=True, slots=True)
class Blobs:
    """Form of a model's inputs in Redis: one record per user, one per item. ``tiled``: the user's inputs are repeated
    for every candidate, because the graph wants it so."""

    user: np.dtype[Any]
    item: np.dtype[Any]
    tiled: bool

    @classmethod
    def of(cls, user: Arrays, items: Arrays, tiled: bool) -> Blobs:
        """``user`` [1, ...] and ``items`` [n, ...] are examples."""
        kinds = [
            np.dtype([(name, array.dtype, array.shape[1:]) for name, array in side.items()]) for side in (user, items)
        ]
        return cls(kinds[0], kinds[1], tiled)

    def feed(self, user: bytes, items: Sequence[bytes]) -> dict[str, np.ndarray[Any, Any]]:
        user_row, rows = np.frombuffer(user, self.user), np.frombuffer(b"".join(items), self.item)
        if self.tiled:
            user_row = np.repeat(user_row, len(rows))
        return {name: np.ascontiguousarray(side[name]) for side in (user_row, rows) for name in side.dtype.names or ()}


class _Din(nn.Module):
    """FuxiCTR's DIN with its inputs one by one: ``names`` of the user, of the history's events, of the candidate."""

    def __init__(self, model: nn.Module, features: Sequence[str], of_items: Sequence[str]) -> None:
        super().__init__()
        self.model = model
        self._features = tuple(features)
        self._of_items = tuple(of_items)

    def forward(self, *given: Tensor) -> Tensor:
        features = dict(zip(self._features, given, strict=False))
        rest = given[len(features) :]
        history, candidate = rest[: len(self._of_items)], rest[len(self._of_items) :]
        items = {
            name: torch.cat([past, asked[:, None]], dim=1).flatten(0, 1)
            for name, past, asked in zip(self._of_items, history, candidate, strict=True)
        }
        mask = (history[0] > 0).float()
        logits: Tensor = self.model.forward((features, items, mask))["y_pred"][:, 0]
        return logits


class _Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weigh = nn.Sequential(nn.Linear(4 * DIM, 64), nn.ReLU(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 1))
        self.top = nn.Sequential(nn.Linear(3 * DIM, 200), nn.ReLU(), nn.Linear(200, 80), nn.ReLU(), nn.Linear(80, 1))

    def forward(self, *given: Tensor) -> Tensor:
        user, history, item = given
        C = item.shape[0]
        past = history.expand(C, -1, -1)
        asked = item[:, None].expand(-1, past.shape[1], -1)
        weights = self.weigh(torch.cat([past, asked, past - asked, past * asked], dim=-1))
        pooled = (weights * past).sum(dim=1)
        return torch.sigmoid(self.top(torch.cat([user.expand(C, -1), pooled, item], dim=-1)))[:, 0]


def lay_out(installed: Installed, count: int) -> dict[str, Path]:
    """Write each model with the feeds of the requests ``bodies(NAME, count)`` to a folder, and its blobs to Redis."""
    bodies = [json.loads(line) for line in installed.bodies("deployed", count).read_text().splitlines()]
    requests = [(body["user_id"], [candidate["id"] for candidate in body["candidates"]]) for body in bodies]
    return {"din": _din(installed, requests), "attention": _attention(installed, requests)}


def _din(installed: Installed, requests: Sequence[tuple[str, list[str]]]) -> Path:
    world = installed.world
    config = job_of(world, installed.folder / "din-job")
    known = config.feature_schema.model_dump()
    schema = FeatureSchema.model_validate({**known, "history_length": config.benchmark.peer_history})
    config = config.model_copy(update={"feature_schema": schema})
    samples = peer_samples(config, catalogue_of(world, schema), log_of(world))
    settings = PEER_SETTINGS["DIN"]
    inputs = Inputs("towers", samples, settings, samples.of("train"), pools=False)
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / inputs.feature_map.dataset_id).mkdir()
        torch.manual_seed(0)
        model = DIN(
            inputs.feature_map, dnn_hidden_units=list(settings.hidden_units),
            attention_hidden_units=list(settings.attention_hidden_units), embedding_dim=settings.embedding_dim,
            net_dropout=settings.dropout, batch_norm=settings.batch_norm, model_id="DIN", model_root=scratch, verbose=0,
            metrics=["AUC"], optimizer="adam", loss="binary_crossentropy", learning_rate=settings.learning_rate,
        ).eval()  # fmt: skip
    users, items = _din_arrays(inputs, samples)
    of_items = [name.removeprefix("history_") for name in users if name.startswith("history_")]
    features = [name for name in [*users, *items] if not name.startswith(("history_", "candidate_"))]
    names = [*features, *(f"history_{name}" for name in of_items), *(f"candidate_{name}" for name in of_items)]
    return _write(installed, "din", _Din(model, features, of_items), names, users, items, requests, tiled=True)


def _din_arrays(inputs: Inputs, samples: PeerSamples) -> tuple[Arrays, Arrays]:
    """Inputs of every user, as of their last sample, and of every item. Numbers of a sample go with the item."""
    last = {int(user): place for place, user in enumerate(samples.user)}
    places = np.array([last[user] for user in range(len(last))])
    events = samples.history.shape[1]
    features, of_items, _ = inputs.encoder(samples).batch(places)
    towers = {
        name: array.numpy().reshape(len(places), events + 1, *array.shape[1:]) for name, array in of_items.items()
    }
    users = {name: array.numpy() for name, array in features.items() if name.startswith("user")}
    users |= {f"history_{name}": np.ascontiguousarray(array[:, :-1]) for name, array in towers.items()}
    shown = {int(item): place for place, item in enumerate(samples.item)}
    count = len(next(iter(samples.item_fields.values())))
    places = np.array([shown.get(item, 0) for item in range(count)])
    features, of_items, _ = inputs.encoder(samples).batch(places)
    towers = {
        name: array.numpy().reshape(len(places), events + 1, *array.shape[1:]) for name, array in of_items.items()
    }
    items = {name: array.numpy() for name, array in features.items() if name.startswith("statistic")}
    items |= {f"candidate_{name}": np.ascontiguousarray(array[:, -1]) for name, array in towers.items()}
    items["candidate_item"] = np.arange(1, count + 1)
    return users, items


def _attention(installed: Installed, requests: Sequence[tuple[str, list[str]]]) -> Path:
    random, world = np.random.default_rng(0), installed.world
    torch.manual_seed(0)
    users = {
        "user": random.standard_normal((world.users, DIM), np.float32),
        "history": random.standard_normal((world.users, EVENTS, DIM), np.float32),
    }
    items = {"item": random.standard_normal((world.items, DIM), np.float32)}
    return _write(installed, "attention", _Attention().eval(), [*users, *items], users, items, requests, tiled=False)


def _write(
    installed: Installed,
    name: str,
    model: nn.Module,
    inputs: Sequence[str],
    users: Arrays,
    items: Arrays,
    requests: Sequence[tuple[str, list[str]]],
    tiled: bool,
) -> Path:
    folder = installed.folder / name
    folder.mkdir()
    blobs = Blobs.of(users, items, tiled)
    records = {"user": _records(users, blobs.user), "item": _records(items, blobs.item)}
    with installed.store.redis.pipeline(transaction=False) as pipeline:
        for side, ids in (("user", installed.world.user_ids), ("item", installed.world.item_ids)):
            for owner, record in zip(ids, records[side], strict=True):
                pipeline.set(f"{name}:{side}:{owner}", record)
        pipeline.execute()
    feeds = [
        blobs.feed(records["user"][int(user[1:])], [records["item"][int(item[1:])] for item in candidates])
        for user, candidates in requests[:20]
    ]
    tiled_too = [*users, *items] if tiled else [*items]
    _export(model, feeds[0], inputs, tiled_too, folder / "model.onnx")
    (folder / "feeds-deployed.pickle").write_bytes(pickle.dumps(feeds))
    (folder / "blobs.pickle").write_bytes(pickle.dumps((name, blobs)))
    return folder


def _records(arrays: Arrays, kind: np.dtype[Any]) -> list[bytes]:
    rows = np.zeros(len(next(iter(arrays.values()))), kind)
    for name, array in arrays.items():
        rows[name] = array
    return [row.tobytes() for row in rows]


def _export(model: nn.Module, feed: Arrays, inputs: Sequence[str], per_candidate: Sequence[str], path: Path) -> None:
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it misses libraries that nobody needs
    rows = torch.export.Dim("rows", min=1, max=1_000_000)
    shapes = tuple({0: rows} if name in per_candidate else {} for name in inputs)
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # the exporter warns about its own internals
        program = torch.onnx.export(
            model,
            tuple(torch.from_numpy(feed[name]) for name in inputs),
            dynamo=True,
            input_names=list(inputs),
            output_names=["score"],
            dynamic_shapes=(shapes,),
            verbose=False,
        )
    assert program is not None
    path.write_bytes(program.model_proto.SerializeToString())
    session = onnx_runtime().InferenceSession(str(path))
    with torch.inference_mode():
        expected = model(*(torch.from_numpy(feed[name]) for name in inputs)).numpy()
    (scores,) = session.run(["score"], {name: feed[name] for name in inputs})
    worst = float(np.abs(scores - expected).max())
    if not worst < 1e-4:
        raise RuntimeError(f"{path} differs from torch by {worst:.1e}")
