"""The artifact of a trained model: exported, with its manifest, and compared with torch before anybody may serve it;
written whole and in parts, which are compared with the whole."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from models.contract.artifact import ArtifactManifest, ModelName
from models.contract.encoding import HISTORY_INPUTS, ITEM_INPUTS, Tensors
from models.ctr.build import reads
from models.ctr.export import export_onnx, parity
from models.ctr.split import rehearse, split
from models.split_model import parts_folder
from offline.data.files import write_bytes
from offline.knowledge.vectors import Knowledge
from offline.training.candidates import ModelSpec
from offline.training.report import TrainingError
from offline.training.samples import SampleEncoder, SplitRows

PARITY_ROWS = 1000
MAX_PARITY_DIFFERENCE = 1e-5


def export_artifact(
    name: str,
    spec: ModelSpec,
    model: torch.nn.Module,
    encoder: SampleEncoder,
    knowledge: Knowledge,
    splits: SplitRows,
    metrics: dict[str, float],
) -> tuple[bytes, float]:
    """The ONNX file of a fitted model, and its largest difference from torch. TrainingError if that is too large.

    Compared on validation samples: 50 users with 20 candidates each.
    """
    read = {spec.key for spec in encoder.schema.knowledge}
    manifest = ArtifactManifest(
        model=ModelName(name=f"{name}-{spec.architecture}", version=weights_version(model)),
        architecture=spec.architecture,
        feature_schema=encoder.schema,
        spaces=tuple(space for space in knowledge.spaces if space.key in read),
        inputs=reads(spec.architecture, encoder.schema),
        item_rows=int(encoder.table.index.max()) + 1,
        trained_until_ms=int(encoder.log.time_ms[splits.trained_rows - 1]),
        metrics=metrics,
    )
    pool = splits.rows["validation"]
    chosen = np.random.default_rng(0).choice(pool, 50, replace=len(pool) < 50)
    requests = [
        as_request(
            encoder.tensors(np.array([row])), encoder.tensors(pool.take(np.arange(at * 20, at * 20 + 20), mode="wrap"))
        )
        for at, row in enumerate(chosen)
    ]
    artifact = export_onnx(model, manifest, _with_two_events(requests[0], encoder.schema.history_length))
    worst = parity(model, artifact, manifest, requests)
    checked = sum(len(request["item_index"]) for request in requests)
    if checked < PARITY_ROWS or worst >= MAX_PARITY_DIFFERENCE:
        raise TrainingError(f"the exported model differs from torch by {worst:.2e} over {checked} rows")
    return artifact, worst


@dataclass(frozen=True, slots=True)
class Artifact:
    """The files of an exported model: its name in their folder and its digest, and the digests of its parts by their
    names. A model that cannot be split has none: it is served whole, at twice the time; ``unsplit`` says why."""

    name: str
    sha256: str
    parts: dict[str, str]
    unsplit: str = ""


def write_artifact(name: str, content: bytes, folder: Path) -> Artifact:
    """Write an ONNX model and, beside it, its parts, once they have given the scores of the whole."""
    digest = hashlib.sha256(content).hexdigest()
    path = folder / f"{name}-{digest[:12]}.onnx"
    write_bytes(path, content)
    folder = parts_folder(path)
    try:
        parts = split(content)
        for part, of_part in parts.items():
            write_bytes(folder / part, of_part)
        rehearse(content, folder)
    except Exception as error:  # noqa: BLE001 - whatever is wrong with the parts, the whole is right
        shutil.rmtree(folder, ignore_errors=True)
        return Artifact(path.name, digest, {}, str(error))
    return Artifact(path.name, digest, {part: hashlib.sha256(of_part).hexdigest() for part, of_part in parts.items()})


def as_request(user: Tensors, items: Tensors) -> Tensors:
    """User side of one sample with the item sides of others: the shape of a served request."""
    return {name: (items if name in ITEM_INPUTS else user)[name] for name in user}


def _with_two_events(request: Tensors, most: int) -> Tensors:
    """The request with a history of at least two entries, the further ones padding: of a single one, the exporter would
    take the length for a constant."""
    short = min(2, most) - request["history_mask"].shape[1]
    if short <= 0:
        return request
    padded = {}
    for name in HISTORY_INPUTS:
        nothing = np.zeros((1, short, *request[name].shape[2:]), request[name].dtype)
        padded[name] = np.concatenate([request[name], nothing], axis=1)
    return {**request, **padded}


def weights_version(model: torch.nn.Module) -> str:
    """12 hex digits that change with the weights."""
    digest = hashlib.sha256()
    for name, weight in sorted(model.state_dict().items()):
        digest.update(name.encode() + weight.numpy().tobytes())
    return digest.hexdigest()[:12]
