"""Time that one core takes to find 200 of a million items, and recall, by kind of index.

usage: .venv/bin/python -m bench.retrieval [--items 1000000] [--kinds ivf,hnsw] [--vectors FILE.npz]

The vectors are made up (a mixture of 2,000 clusters in 32 dimensions, queries from the same mixture), or drawn around
those of a producer's vectors.npz with a noise of a tenth of their spread. Searches run one after the other in one
thread on core 0, by the service's own class on the file that it maps: without a filter ("p50_ms"), and leaving out 200
items that a user has seen ("unseen_p50_ms"). Milliseconds are of the clock.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any, cast

import numpy as np

from models.contract.arrays import FloatArray
from models.contract.artifact import ItemIndex
from offline.retrieval.build import Kind, build
from service.retrieval.index import FaissIndex

DIM, TOP, QUERIES, LEAST, SEEN = 32, 200, 500, 0.99, 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--kinds", default="ivf,hnsw,flat")
    parser.add_argument("--vectors", type=Path)
    arguments = parser.parse_args()
    vectors, queries = world(arguments.items, arguments.vectors)
    for kind in arguments.kinds.split(","):
        print(json.dumps(measure_index(cast("Kind", kind), vectors, queries)), flush=True)


def world(items: int, file: Path | None) -> tuple[FloatArray, FloatArray]:
    """Vectors [items, D] and queries [QUERIES, D]."""
    random = np.random.default_rng(0)
    if file is None:
        centres = random.normal(size=(2000, DIM))
        where = random.integers(len(centres), size=items + QUERIES)
        every = (centres[where] + 0.5 * random.normal(size=(items + QUERIES, DIM))).astype(np.float32)
        return every[:items], every[items:]
    with np.load(file) as arrays:
        known, users = arrays["item_vectors"][-1][arrays["known"]], arrays["user_vectors"]
    spread = known.std(axis=0)
    drawn = known[random.integers(len(known), size=items)] + 0.1 * spread * random.normal(size=(items, len(spread)))
    return drawn.astype(np.float32), users[random.integers(len(users), size=QUERIES)].astype(np.float32)


def measure_index(kind: Kind, vectors: FloatArray, queries: FloatArray) -> dict[str, Any]:
    import faiss

    start = time.perf_counter()
    ids = np.arange(len(vectors), dtype=np.int64)
    built = build(vectors, ids, [queries], kind, TOP, 1.0 if kind == "flat" else LEAST)
    seconds = time.perf_counter() - start
    os.sched_setaffinity(0, {0})
    faiss.omp_set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "index.faiss"
        path.write_bytes(built.content)
        size = len(built.content)
        start = time.perf_counter()
        named = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
        opened = time.perf_counter() - start
        described = ItemIndex(
            space="item/made-up", file=path.name, sha256=hashlib.sha256(built.content).hexdigest(), kind=kind,
            effort=built.effort, items=len(vectors), top=TOP, recall=built.recall,
        )  # fmt: skip
        index = FaissIndex(faiss.downcast_index(named.index), described, ids + 1, len(vectors) + 1)
        bits, random = index.bits(None), np.random.default_rng(1)
        milliseconds: dict[str, float] = {}
        for name in ("", "unseen_"):
            times: list[float] = []
            for round_ in range(3):
                for query in queries:
                    seen = random.choice(len(vectors), SEEN) + 1
                    start = time.perf_counter()
                    index.nearest(query, TOP, index.without(bits, seen) if name else None)
                    if round_:  # the first round reads the file in
                        times.append(1000 * (time.perf_counter() - start))
            for at in (50, 99):
                milliseconds[f"{name}p{at}_ms"] = round(float(np.percentile(times, at)), 3)
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
    return {
        "kind": kind, "items": len(vectors), "effort": built.effort, "recall": round(built.recall, 4),
        **milliseconds, "build_s": round(seconds, 1),
        "open_ms": round(1000 * opened, 1), "size_mb": round(size / 1e6, 1),
    }  # fmt: skip


if __name__ == "__main__":
    main()
