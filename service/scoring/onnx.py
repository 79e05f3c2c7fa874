"""CTR models as ONNX files: checked on loading, run on CPU or, where onnxruntime-gpu is installed, on CUDA.

Knows onnxruntime and the artifact manifest inside the file. Does not know where releases come from.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass, field
from pathlib import Path

from models.contract.artifact import ArtifactError, ArtifactManifest, ReleaseManifest
from models.contract.encoding import model_inputs
from models.contract.items import Columns, ItemTable, in_memory
from models.onnx_runtime import InferenceSession
from service.scoring.kept import keep_parts, kept_parts
from service.scoring.partial import Parts, UncutError, cut
from service.scoring.rehearsal import compare, rehearsal
from service.scoring.scorers import OUTPUT, OnnxScorer, PartialScorer, PartSessions, WholeScorer
from service.scoring.session import session

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class OnnxModel:
    """A release's model as a whole or in parts, to be put on an item table. ``parts`` are the graphs of the sessions
    unless they were opened from files."""

    artifact: ArtifactManifest
    sessions: InferenceSession | PartSessions
    parts: Parts | None = field(default=None, repr=False)

    def on(self, table: ItemTable, columns: Columns) -> OnnxScorer:
        """A scorer of these items. A model in parts takes the ``columns`` that its parts give for them."""
        if isinstance(self.sessions, PartSessions):
            return PartialScorer(self.sessions, self.artifact, table, columns)
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
        whole = session(content, threads)
    except Exception as error:
        raise ArtifactError(f"release {release.id}: artifact is not a usable model: {error}") from error
    artifact = ArtifactManifest.from_metadata(whole.get_modelmeta().custom_metadata_map)
    release.check(artifact)
    _check(whole, artifact)
    parts = in_parts(content, whole, artifact, threads)
    return OnnxModel(artifact, whole) if parts is None else OnnxModel(artifact, parts[1], parts[0])


def keep_model(model: OnnxModel, folder: Path) -> None:
    """Write a model in parts to a folder. UncutError for one that runs as a whole."""
    if model.parts is None:
        raise UncutError("a model that runs as a whole is not kept")
    keep_parts(folder, model.artifact, model.parts)


def kept_model(folder: Path, release: ReleaseManifest, threads: int) -> OnnxModel:
    """The model of a release that ``keep_model`` wrote. ArtifactError if it does not fit, any other error if it cannot
    be used."""
    artifact, sessions = kept_parts(folder, threads)
    release.check(artifact)
    return OnnxModel(artifact, sessions)


def _check(whole: InferenceSession, artifact: ArtifactManifest) -> None:
    """ArtifactError unless the graph takes the manifest's inputs, its schema can fill them all, and it gives one score
    per candidate."""
    takes = {one.name for one in whole.get_inputs()}
    if takes != set(artifact.inputs):
        raise ArtifactError(f"model takes {sorted(takes)}, its manifest says {sorted(artifact.inputs)}")
    unfilled = takes.difference(model_inputs(artifact.feature_schema))
    if unfilled:
        raise ArtifactError(f"model takes {sorted(unfilled)}, which its schema does not fill")
    gives = [(one.name, one.type, len(one.shape)) for one in whole.get_outputs()]
    if gives != [(OUTPUT, "tensor(float)", 1)]:
        raise ArtifactError(f"model gives {gives}, expected one float tensor [C] named {OUTPUT!r}")


def opened(parts: Parts, threads: int) -> PartSessions:
    """Sessions of a model's parts."""
    history = None if parts.history is None else session(parts.history, threads)
    return PartSessions.of(session(parts.items, threads), history, session(parts.rest, threads))


def in_parts(
    content: bytes, whole: InferenceSession, artifact: ArtifactManifest, threads: int
) -> tuple[Parts, PartSessions] | None:
    """The model cut where the user comes in; None if it cannot be, or if it did not give the same scores.

    Not on CUDA, where every request would carry the items' columns to the device.
    """
    if "CUDAExecutionProvider" in whole.get_providers():
        return None
    try:
        parts = cut(content)
        sessions = opened(parts, threads)
        table, samples = rehearsal(artifact)
        columns = sessions.columns(table, in_memory)
        compare(WholeScorer(whole, artifact, table), PartialScorer(sessions, artifact, table, columns), samples)
    except Exception as error:  # noqa: BLE001 - whatever is wrong with the parts, the whole is right
        log.warning("model %s runs as a whole: %s", artifact.model.name, error)
        return None
    return parts, sessions
