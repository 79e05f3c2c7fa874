"""CTR models as ONNX files: checked on loading, run on CPU or, where onnxruntime-gpu is installed, on CUDA.

Knows onnxruntime and the artifact manifest inside the file. Does not know where releases come from.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime

from models.contract.artifact import ArtifactError, ArtifactManifest, ReleaseManifest
from models.contract.encoding import UserBatch, model_inputs
from models.contract.events import EVENT_DTYPE
from models.contract.items import ItemTable
from models.contract.knowledge import FloatArray
from models.contract.schema import FeatureSchema
from service.ranking.types import Sample
from service.scoring.partial import UncutError, cut
from service.scoring.scorers import OUTPUT, PartialScorer, PartSessions, WholeScorer

TOLERANCE = 1e-3
"""By how much scores of a model in parts may differ from those of the whole, as a share of their standard deviation
over candidates; beside it counts what single precision cannot tell."""
_PRECISION, _LEAST_SPREAD = 2e-7, 1e-6

_PROVIDERS = ("CUDAExecutionProvider", "CPUExecutionProvider")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class OnnxModel:
    """A release's model as a whole or in parts, to be put on an item table."""

    artifact: ArtifactManifest
    sessions: onnxruntime.InferenceSession | PartSessions

    def on(self, table: ItemTable) -> WholeScorer | PartialScorer:
        """A scorer of these items. In parts it blocks for as long as the items' columns take to compute."""
        if isinstance(self.sessions, PartSessions):
            return PartialScorer(self.sessions, self.artifact, table)
        return WholeScorer(self.sessions, self.artifact, table)


def load_model(folder: Path, release: ReleaseManifest, threads: int) -> OnnxModel:
    """The model of a release. ArtifactError if the file is missing, is not the published one, or does not fit.

    Blocks for as long as reading and optimising the graph takes; call it in a thread.
    """
    try:
        content = (folder / release.artifact).read_bytes()
    except OSError as error:
        raise ArtifactError(f"release {release.id}: artifact {release.artifact} cannot be read: {error}") from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != release.artifact_sha256:
        raise ArtifactError(f"release {release.id}: artifact has sha256 {digest}, not {release.artifact_sha256}")
    try:
        session = _session(content, threads)
    except Exception as error:
        raise ArtifactError(f"release {release.id}: artifact is not a usable model: {error}") from error
    artifact = ArtifactManifest.from_metadata(session.get_modelmeta().custom_metadata_map)
    release.check(artifact)
    _check(session, artifact)
    return OnnxModel(artifact, _in_parts(content, session, artifact, threads) or session)


def _check(session: onnxruntime.InferenceSession, artifact: ArtifactManifest) -> None:
    """ArtifactError unless the graph takes the manifest's inputs, its schema can fill them all, and it gives one score
    per candidate."""
    takes = {one.name for one in session.get_inputs()}
    if takes != set(artifact.inputs):
        raise ArtifactError(f"model takes {sorted(takes)}, its manifest says {sorted(artifact.inputs)}")
    unfilled = takes.difference(model_inputs(artifact.feature_schema))
    if unfilled:
        raise ArtifactError(f"model takes {sorted(unfilled)}, which its schema does not fill")
    gives = [(one.name, one.type, len(one.shape)) for one in session.get_outputs()]
    if gives != [(OUTPUT, "tensor(float)", 1)]:
        raise ArtifactError(f"model gives {gives}, expected one float tensor [C] named {OUTPUT!r}")


def _session(content: bytes, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.enable_mem_pattern = False  # candidate counts vary; patterns per shape would only grow (onnxruntime #9313)
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    available = onnxruntime.get_available_providers()
    return onnxruntime.InferenceSession(content, options, providers=[name for name in _PROVIDERS if name in available])


def _in_parts(
    content: bytes, whole: onnxruntime.InferenceSession, artifact: ArtifactManifest, threads: int
) -> PartSessions | None:
    """The model cut where the user comes in; None if it cannot be, or if it did not give the same scores.

    Not on CUDA, where every request would carry the items' columns to the device.
    """
    if "CUDAExecutionProvider" in whole.get_providers():
        return None
    try:
        parts = PartSessions.of(cut(content), lambda graph: _session(graph, threads))
        table, samples = _rehearsal(artifact)
        one, other = WholeScorer(whole, artifact, table), PartialScorer(parts, artifact, table)
        _compare([(one.run(sample), other.run(sample)) for sample in samples])
    except Exception as error:  # noqa: BLE001 - whatever is wrong with the parts, the whole is right
        log.warning("model %s runs as a whole: %s", artifact.model.name, error)
        return None
    return parts


def _compare(scores: Sequence[tuple[FloatArray, FloatArray]]) -> None:
    """UncutError unless scores of parts, the second ones, are those of the whole, and these differ among candidates."""
    spread = float(np.median([whole.std() for whole, _ in scores if len(whole) > 1]))
    apart = max(float(np.abs(whole - parts).max()) for whole, parts in scores)
    if spread <= _LEAST_SPREAD:
        raise UncutError("its scores do not tell made-up candidates apart")
    if apart > TOLERANCE * spread + _PRECISION:
        raise UncutError(f"scores of its parts differ by {apart:.1e}, among candidates by {spread:.1e}")


def _rehearsal(artifact: ArtifactManifest) -> tuple[ItemTable, list[Sample]]:
    """Made-up items and samples of them: users with and without a history, with knowledge and without, one candidate
    and several, known ones and described ones."""
    random, schema, n = np.random.default_rng(0), artifact.feature_schema, 64
    limits = [spec.cardinality for spec in schema.item_fields for _ in range(spec.slots)]
    table = ItemTable.build(
        schema,
        ids=[f"item {at}" for at in range(n)],
        index=random.integers(artifact.item_rows, size=n),
        categorical=random.integers(limits, size=(n, len(limits))),
        numeric=random.normal(size=(n, 3)),
        vectors=random.normal(size=(n, schema.item_width)).astype(np.float32),
        expires_at=np.ones((n, len(schema.item_knowledge))),
    )
    samples = []
    for events in (0, 1, min(7, schema.history_length), min(150, schema.history_length)):
        user = _made_up_user(schema, table, events, random)
        rows = random.integers(n + 1, size=20)
        described = np.asarray([3, 5]), random.integers(limits, size=(2, len(limits)))
        samples += [Sample(user, rows), Sample(user, rows, knowledge=False), Sample(user, rows[:1])]
        samples += [Sample(user, rows, described), Sample(user, rows, described, knowledge=False)]
    return table, samples


def _made_up_user(schema: FeatureSchema, table: ItemTable, events: int, random: np.random.Generator) -> UserBatch:
    knowledge = {name: random.normal(size=(1, one.stop - one.start)) for name, one in schema.user_columns.items()}
    if schema.sequence is not None:
        knowledge[schema.sequence.name] = random.normal(size=(schema.sequence.rows, schema.sequence.dim))
    vectors = {name: one.astype(np.float32) for name, one in knowledge.items()}
    user = UserBatch.single(schema, table, {}, np.zeros(events, EVENT_DTYPE), vectors)
    user.history_rows[0, :events] = random.integers(1, len(table), size=events)
    user.history_values[0, :events] = random.uniform(schema.value_min, schema.value_max, size=events)
    return user
