"""A published world as the servers of the benchmark need it: ours from Redis, the plain ones from blobs beside it."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import onnxruntime

from bench.serving.plain_features import Layout, item_key, user_key
from bench.serving.world import World
from models.contract.encoding import ItemBatch, encode, encode_items
from offline.publish.connection import Store
from service.arrays import SharedArrays
from service.features.connection import RedisLink
from service.features.users import RedisUserFeatures
from service.loading import Loader
from service.ranking.deadline import Deadline
from service.ranking.plan import ArmSettings
from service.ranking.scored import prepared
from service.ranking.types import RankRequest, Release
from service.release import Releases
from service.telemetry import Telemetry

COUNTS = (100, 500)
BODIES = 200


async def lay_out(world: World, store: Store, url: str, folder: Path) -> None:
    """Write the plain servers' blobs, their model, the bare loop's feeds, and bodies of requests to ``folder``."""
    link, telemetry = RedisLink(url, 8), Telemetry()
    arrays = SharedArrays(folder.parent / "tables")
    loader = Loader(link, store.keys, telemetry, artifacts=store.artifacts, arrays=arrays, threads=1)
    releases = Releases(link, store.keys, telemetry, loader, poll_seconds=1.0)
    await releases.refresh()
    release = releases.current()
    assert release is not None, releases.refusals
    features = RedisUserFeatures(link, store.keys, telemetry)
    random = np.random.default_rng(1)
    user_ids, item_ids = world.user_ids, world.item_ids
    users = [user_ids[at] for at in random.choice(world.users, min(BODIES, world.users), replace=False)]
    shutil.copy(store.artifacts / release.manifest.artifact, folder / "model.onnx")
    inputs = [one.name for one in onnxruntime.InferenceSession(str(folder / "model.onnx")).get_inputs()]
    layout: Layout | None = None
    for count in COUNTS:
        feeds, lines = [], []
        for user in users:
            request = RankRequest("r", user, tuple(item_ids[at] for at in random.choice(world.items, count, False)))
            state = await features.fetch(user, release.user_spaces, release.schema.history_length, Deadline(10))
            slate, sample = prepared(ArmSettings(), release, request, state)
            tensors = encode(release.schema, release.table, sample.user, ItemBatch.gather(release.table, slate.rows))
            layout = layout or Layout(tensors, inputs)
            feeds.append({name: tensors[name] for name in inputs})
            store.redis.set(user_key(user), layout.pack_user(tensors))
            lines.append({"user_id": user, "candidates": [{"id": item} for item in request.candidates]})
        (folder / f"feeds-{count}.pickle").write_bytes(pickle.dumps(feeds))
        for name, more in (("top50", {"top_k": 50}), ("all", {})):
            text = "\n".join(json.dumps(line | more) for line in lines)
            (folder / f"bodies-{count}-{name}.jsonl").write_text(text)
    assert layout is not None
    (folder / "layout.pickle").write_bytes(pickle.dumps(layout))
    _write_items(release, store, layout)
    await link.close()


def _write_items(release: Release, store: Store, layout: Layout) -> None:
    for at in range(1, len(release.table), 10_000):
        rows = np.arange(at, min(at + 10_000, len(release.table)))
        items = ItemBatch.gather(release.table, rows)
        tensors = encode_items(items)
        with store.redis.pipeline(transaction=False) as pipeline:
            for row, blob in zip(rows.tolist(), layout.pack_items(tensors), strict=True):
                pipeline.set(item_key(release.table.ids[row]), blob)
            pipeline.execute()
