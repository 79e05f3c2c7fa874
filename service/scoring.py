"""CTR models: loaded from published files, whole or split, and put on an item table, where they score samples.

Knows ONNX Runtime, through models/, and which files a release names. Does not know where releases come from, nor who
computes the columns that a split model takes.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from models.contract.artifact import ArtifactError, ArtifactManifest, ReleaseManifest
from models.contract.encoding import Sample, model_inputs
from models.contract.items import Columns, ItemTable
from models.contract.knowledge import FloatArray
from models.onnx_runtime import InferenceSession, has_cuda, open_session
from models.split_model import SCORE, SplitModel, parts_folder
from service.errors import ScoringError

INLINE_CANDIDATES = 256
"""Slates up to here are scored on the event loop, until somebody knows how long that takes."""

INLINE_SECONDS = 0.001
"""A run that is shorter costs less than moving it to a thread; a longer one would hold up other requests."""

INLINE_SECONDS_ALONE = 0.005
"""The same where a thread would only take the event loop's own core: until small requests wait noticeably."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CtrModel:
    """A release's model, without an item table: a split one, or one that runs as a whole. ``problem`` says why a model
    that was published in parts runs as a whole."""

    artifact: ArtifactManifest
    graphs: InferenceSession | SplitModel
    problem: str | None = None

    @property
    def split(self) -> SplitModel | None:
        """What computes the columns of an item table; None of a model that takes none."""
        return self.graphs if isinstance(self.graphs, SplitModel) else None

    def on(self, table: ItemTable, columns: Columns) -> OnnxScorer:
        """A scorer of these items. A split model takes the ``columns`` that it gives for them."""
        if isinstance(self.graphs, SplitModel):
            return SplitScorer(self.graphs, table, columns)
        return WholeScorer(self.graphs, self.artifact, table, self.problem)


def load_model(folder: Path, release: ReleaseManifest, threads: int) -> CtrModel:
    """The model of a release, in parts if it was published so. ArtifactError if the file is missing, is not the
    published one, or does not fit.

    Parts that are not the published ones cost speed alone: the whole model is served, and says so. On CUDA the whole
    runs in any case, because every request would carry the items' columns to the device. Blocks for as long as reading
    and optimising the graphs takes.
    """
    whole = folder / release.artifact
    _verify(release, whole, release.artifact_sha256)
    problem = None
    if release.parts and not has_cuda():
        try:
            return _load_parts(parts_folder(whole), release, threads)
        except Exception as error:  # whatever is wrong with the parts, the whole is right
            log.exception("release %s: the model runs as a whole", release.id)
            problem = f"the model runs as a whole: {error}"
    return _load_whole(whole, release, threads, problem)


def _load_parts(folder: Path, release: ReleaseManifest, threads: int) -> CtrModel:
    for name, digest in release.parts.items():
        _verify(release, folder / name, digest)
    split = SplitModel.open(folder, threads)
    artifact = split.artifact
    release.check(artifact)
    unfilled = split.inputs.difference(set(artifact.inputs).intersection(model_inputs(artifact.feature_schema)))
    if unfilled:
        raise ArtifactError(f"parts of the model take {sorted(unfilled)}, which its manifest or its schema lacks")
    return CtrModel(artifact, split)


def _load_whole(path: Path, release: ReleaseManifest, threads: int, problem: str | None) -> CtrModel:
    try:
        session = open_session(path, threads, cuda=True)
    except Exception as error:
        raise ArtifactError(f"release {release.id}: artifact is not a usable model: {error}") from error
    artifact = ArtifactManifest.from_metadata(session.get_modelmeta().custom_metadata_map)
    release.check(artifact)
    _check(session, artifact)
    return CtrModel(artifact, session, problem)


def _verify(release: ReleaseManifest, path: Path, digest: str) -> None:
    """ArtifactError unless a file is the published one."""
    try:
        with path.open("rb") as file:
            actual = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ArtifactError(f"release {release.id}: artifact {path.name} cannot be read: {error}") from error
    if actual != digest:
        raise ArtifactError(f"release {release.id}: artifact {path.name} has sha256 {actual}, not {digest}")


def _check(session: InferenceSession, artifact: ArtifactManifest) -> None:
    """ArtifactError unless the graph takes the manifest's inputs, its schema can fill them all, and it gives one score
    per candidate."""
    takes = {cell.name for cell in session.get_inputs()}
    if takes != set(artifact.inputs):
        raise ArtifactError(f"model takes {sorted(takes)}, its manifest says {sorted(artifact.inputs)}")
    unfilled = takes.difference(model_inputs(artifact.feature_schema))
    if unfilled:
        raise ArtifactError(f"model takes {sorted(unfilled)}, which its schema does not fill")
    gives = [(cell.name, cell.type, len(cell.shape)) for cell in session.get_outputs()]
    if gives != [(SCORE, "tensor(float)", 1)]:
        raise ArtifactError(f"model gives {gives}, expected one float tensor [C] named {SCORE!r}")


class OnnxScorer(ABC):
    """The port ``Scorer``. Safe for concurrent use. ``inline`` candidates are scored on the event loop at most."""

    inline = INLINE_CANDIDATES
    problem: str | None = None

    async def score(self, sample: Sample) -> FloatArray:
        """See the port. Longer slates run in a thread, where onnxruntime releases the interpreter lock."""
        # Nobody has measured slates of which a split model computes candidates anew.
        measured = sample.knowledge and sample.described is None
        most = self.inline if measured else min(self.inline, INLINE_CANDIDATES)
        return self.run(sample) if len(sample.rows) <= most else await asyncio.to_thread(self.run, sample)

    def run(self, sample: Sample) -> FloatArray:
        """float32 [C], in the calling thread. ScoringError as in the port."""
        try:
            scores = self._scores(sample)
        except Exception as error:  # onnxruntime has no common exception class
            log.exception("the model failed")
            raise ScoringError(str(error)) from error
        if scores.shape != sample.rows.shape or not np.isfinite(scores).all():
            log.error(
                "the model gave scores of shape %s for %d candidates, or not finite", scores.shape, len(sample.rows)
            )
            raise ScoringError("scores are not one finite number per candidate")
        return np.asarray(scores, np.float32)

    @abstractmethod
    def _scores(self, sample: Sample) -> FloatArray:
        """The model's scores [C]. Any error if it fails."""


class WholeScorer(OnnxScorer):
    """Scores by one graph."""

    def __init__(
        self, session: InferenceSession, artifact: ArtifactManifest, table: ItemTable, problem: str | None = None
    ) -> None:
        self._session, self._artifact, self._table, self.problem = session, artifact, table, problem

    def _scores(self, sample: Sample) -> FloatArray:
        tensors = sample.encode(self._artifact.feature_schema, self._table)
        scores: FloatArray = self._session.run([SCORE], {name: tensors[name] for name in self._artifact.inputs})[0]
        return scores


class SplitScorer(OnnxScorer):
    """Scores by a split model and its ``columns`` of the table."""

    def __init__(self, model: SplitModel, table: ItemTable, columns: Columns) -> None:
        self._model, self._table, self._columns = model, table, columns

    def _scores(self, sample: Sample) -> FloatArray:
        return self._model.scores(sample, self._table, self._columns)
