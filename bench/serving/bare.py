"""The model and nothing else: requests per second of ``session.run`` in a loop, on inputs that are there already.

usage: python -m bench.serving.bare FOLDER FEEDS SECONDS -> one line of JSON
"""

from __future__ import annotations

import json
import pickle
import sys
import time
from itertools import cycle
from pathlib import Path

from models.onnx_runtime import onnx_runtime

if __name__ == "__main__":
    folder, count, seconds = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
    onnxruntime = onnx_runtime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), options)
    feeds = cycle(pickle.loads((folder / f"feeds-{count}.pickle").read_bytes()))
    for _ in range(20):
        session.run(["score"], next(feeds))
    runs, start = 0, time.perf_counter()
    while time.perf_counter() < start + seconds:
        session.run(["score"], next(feeds))
        runs += 1
    print(json.dumps({"requests_per_second": runs / (time.perf_counter() - start)}))
