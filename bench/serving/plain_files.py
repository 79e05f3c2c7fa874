"""Files that plain servers and the bare loop need of a world: the model, blobs in Redis, inputs that are there
already."""

from __future__ import annotations

import json
import pickle
import shutil
import time
from pathlib import Path

import numpy as np

from bench.serving.installed import Installed
from bench.serving.plain_features import Layout, item_key, user_key
from models.contract.encoding import ItemBatch, encode, encode_items
from models.onnx_runtime import onnx_runtime
from service.features.users import RedisUserFeatures
from service.ranking.candidates import Slate
from service.ranking.deadline import Deadline
from service.ranking.ports import Release
from service.ranking.state import ResolvedArm
from service.ranking.types import ArmSettings, RankRequest
from service.redis import RedisLink
from service.releases.loader import Loader
from service.releases.watcher import Releases
from service.telemetry import Telemetry


async def lay_out(installed: Installed, counts: tuple[int, ...]) -> Path:
    """Write the blobs, and to a folder the model, their layout, and feeds of the requests ``bodies(NAME, count)``."""
    store, folder = installed.store, installed.folder / "plain"
    folder.mkdir(exist_ok=True)
    link, telemetry = RedisLink(installed.url, 8), Telemetry()
    loader = Loader(link, store.keys, telemetry, artifacts=store.artifacts, threads=1)
    releases = Releases(loader, poll_seconds=1.0)
    await releases.refresh()
    release = releases.current()
    assert release is not None, releases.refusals
    features = RedisUserFeatures(link, store.keys, telemetry)
    shutil.copy(store.artifacts / release.manifest.artifact, folder / "model.onnx")
    inputs = [node.name for node in onnx_runtime().InferenceSession(str(folder / "model.onnx")).get_inputs()]
    layout: Layout | None = None
    for count in counts:
        feeds = []
        for line in installed.bodies("plain", count).read_text().splitlines():
            body = json.loads(line)
            request = RankRequest("r", body["user_id"], tuple(candidate["id"] for candidate in body["candidates"]))
            user = request.user_id
            state = await features.fetch(user, release.user_spaces, release.schema.history_length, Deadline(10))
            sample = Slate.build(ResolvedArm(ArmSettings(), release), request, state, time.time()).sample
            tensors = encode(release.schema, release.table, sample.user, ItemBatch.gather(release.table, sample.rows))
            layout = layout or Layout(tensors, inputs)
            feeds.append({name: tensors[name] for name in inputs})
            store.redis.set(user_key(user), layout.pack_user(tensors))
        (folder / f"feeds-{count}.pickle").write_bytes(pickle.dumps(feeds))
    assert layout is not None
    (folder / "layout.pickle").write_bytes(pickle.dumps(layout))
    _write_items(release, installed, layout)
    await link.close()
    return folder


def _write_items(release: Release, installed: Installed, layout: Layout) -> None:
    for at in range(1, len(release.table), 10_000):
        rows = np.arange(at, min(at + 10_000, len(release.table)))
        tensors = encode_items(ItemBatch.gather(release.table, rows))
        with installed.store.redis.pipeline(transaction=False) as pipeline:
            for row, blob in zip(rows.tolist(), layout.pack_items(tensors), strict=True):
                pipeline.set(item_key(release.table.ids[row]), blob)
            pipeline.execute()
