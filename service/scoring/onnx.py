"""CTR models as ONNX files: checked on loading, run on CPU or, where onnxruntime-gpu is installed, on CUDA.

Knows onnxruntime and the artifact manifest inside the file. Does not know where releases come from.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from pathlib import Path

import numpy as np
import onnxruntime

from models.contract.artifact import ArtifactError, ArtifactManifest, ReleaseManifest
from models.contract.encoding import Tensors, model_inputs
from models.contract.knowledge import FloatArray
from service.errors import ScoringError

OUTPUT = "score"

INLINE_CANDIDATES = 256
"""Up to here a run is shorter than what moving it to a thread costs; beyond, it would hold up other requests."""

_PROVIDERS = ("CUDAExecutionProvider", "CPUExecutionProvider")

log = logging.getLogger(__name__)


def load_scorer(folder: Path, release: ReleaseManifest, threads: int) -> tuple[OnnxScorer, ArtifactManifest]:
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
        session = onnxruntime.InferenceSession(content, _options(threads), providers=_providers())
    except Exception as error:
        raise ArtifactError(f"release {release.id}: artifact is not a usable model: {error}") from error
    artifact = ArtifactManifest.from_metadata(session.get_modelmeta().custom_metadata_map)
    release.check(artifact)
    return OnnxScorer(session, artifact), artifact


def _options(threads: int) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.enable_mem_pattern = False  # candidate counts vary; patterns per shape would only grow (onnxruntime #9313)
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _providers() -> list[str]:
    available = onnxruntime.get_available_providers()
    return [name for name in _PROVIDERS if name in available]


class OnnxScorer:
    """The port ``Scorer`` on one inference session. Safe for concurrent use."""

    def __init__(self, session: onnxruntime.InferenceSession, artifact: ArtifactManifest) -> None:
        """ArtifactError unless the graph takes the manifest's inputs, its schema can fill them all, and it gives one
        score per candidate."""
        takes = {one.name for one in session.get_inputs()}
        if takes != set(artifact.inputs):
            raise ArtifactError(f"model takes {sorted(takes)}, its manifest says {sorted(artifact.inputs)}")
        unfilled = takes.difference(model_inputs(artifact.feature_schema))
        if unfilled:
            raise ArtifactError(f"model takes {sorted(unfilled)}, which its schema does not fill")
        gives = [(one.name, one.type, len(one.shape)) for one in session.get_outputs()]
        if gives != [(OUTPUT, "tensor(float)", 1)]:
            raise ArtifactError(f"model gives {gives}, expected one float tensor [C] named {OUTPUT!r}")
        self._session = session
        self._inputs = artifact.inputs

    async def score(self, tensors: Tensors) -> FloatArray:
        """See the port. Long slates run in a thread, where onnxruntime releases the interpreter lock."""
        if len(tensors["item_index"]) <= INLINE_CANDIDATES:
            return self.run(tensors)
        return await asyncio.to_thread(self.run, tensors)

    def run(self, tensors: Tensors) -> FloatArray:
        """float32 [C] for inputs by name, in the calling thread. ScoringError as in the port."""
        try:
            (scores,) = self._session.run([OUTPUT], {name: tensors[name] for name in self._inputs})
        except Exception as error:  # onnxruntime has no common exception class
            log.exception("the model failed")
            raise ScoringError(str(error)) from error
        count = len(tensors["item_index"])
        if scores.shape != (count,) or not np.isfinite(scores).all():
            log.error("the model gave scores of shape %s for %d candidates, or not finite", scores.shape, count)
            raise ScoringError("scores are not one finite number per candidate")
        return np.asarray(scores, np.float32)
