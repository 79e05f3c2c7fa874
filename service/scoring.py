"""CTR models: loaded from published files, whole or split, and put on an item table, where they score samples.

Knows ONNX Runtime, through models/, and which files a release names. Does not know where releases come from, nor who
computes the columns that a split model takes.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from models.contract.arrays import FloatArray
from models.contract.artifact import ArtifactError, ArtifactManifest, ReleaseManifest, ShortageError, verify_file
from models.contract.encoding import Sample, model_inputs
from models.contract.items import Columns, ItemTable
from models.onnx_runtime import has_cuda
from models.split_model import SCORE, SplitModel, WholeModel, parts_folder
from service.ranking.degraded import ScoringError

INLINE_CANDIDATES = 256
"""Slates up to here are scored on the event loop, until somebody knows how long that takes."""

INLINE_SECONDS = 0.001
"""A run that is shorter costs less than moving it to a thread; a longer one would hold up other requests."""

INLINE_SECONDS_ALONE = 0.005
"""The same where a thread would only take the event loop's own core: until small requests wait noticeably."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CtrModel:
    """A release's model, without an item table. ``problem``: why one that was published in parts runs as a whole."""

    graphs: WholeModel | SplitModel
    problem: str | None = None

    @property
    def artifact(self) -> ArtifactManifest:
        return self.graphs.artifact

    @property
    def split(self) -> SplitModel | None:
        """The model that computes the columns of an item table; None if it takes none."""
        return self.graphs if isinstance(self.graphs, SplitModel) else None

    def on(self, table: ItemTable, columns: Columns) -> OnnxScorer:
        """A scorer of these items. A split model takes the ``columns`` that it gives for them."""
        return OnnxScorer(self, table, columns)


def load_model(folder: Path, release: ReleaseManifest, threads: int) -> CtrModel:
    """The model of a release, in parts if it was published so. ArtifactError if the file is missing, is not the
    published one, or does not fit.

    ShortageError if this process cannot read it now. Parts that are not the published ones cost speed alone: the whole
    model is served, and says so. On CUDA the whole runs in any case, because every request would carry the items'
    columns to the device. Blocks for as long as reading and optimising the graphs takes.
    """
    whole = folder / release.artifact
    verify_file(whole, release.artifact_sha256, f"release {release.id}: artifact {whole.name}")
    problem = None
    if release.parts and not has_cuda():
        try:
            return _load_parts(parts_folder(whole), release, threads)
        except ShortageError:
            raise
        except Exception as error:  # whatever is wrong with the parts, the whole is right
            log.exception("release %s: the model runs as a whole", release.id)
            problem = f"the model runs as a whole: {error}"
    try:
        model = WholeModel.open(whole, threads, cuda=True)
    except ArtifactError:
        raise
    except Exception as error:
        raise ArtifactError(f"release {release.id}: artifact is not a usable model: {error}") from error
    release.check(model.artifact)
    _check(model)
    return CtrModel(model, problem)


def _load_parts(folder: Path, release: ReleaseManifest, threads: int) -> CtrModel:
    for name, digest in release.parts.items():
        verify_file(folder / name, digest, f"release {release.id}: artifact {name}")
    model = SplitModel.open(folder, threads, release.parts)
    release.check(model.artifact)
    _check(model)
    return CtrModel(model)


def _check(model: WholeModel | SplitModel) -> None:
    """ArtifactError unless a model takes the manifest's inputs, its schema can fill them all, and it gives one score
    per candidate. Parts take no input that nothing reads."""
    artifact, takes = model.artifact, model.inputs
    inputs = set(artifact.inputs)
    if not takes <= inputs or (isinstance(model, WholeModel) and takes != inputs):
        raise ArtifactError(f"model takes {sorted(takes)}, its manifest says {sorted(inputs)}")
    unfilled = takes.difference(model_inputs(artifact.feature_schema))
    if unfilled:
        raise ArtifactError(f"model takes {sorted(unfilled)}, which its schema does not fill")
    session = model.request if isinstance(model, SplitModel) else model.session
    gives = [(cell.name, cell.type, len(cell.shape)) for cell in session.get_outputs()]
    if gives != [(SCORE, "tensor(float)", 1)]:
        raise ArtifactError(f"model gives {gives}, expected one float tensor [C] named {SCORE!r}")


class OnnxScorer:
    """The port ``Scorer``. Safe for concurrent use. ``inline`` candidates are scored on the event loop at most."""

    def __init__(self, model: CtrModel, table: ItemTable, columns: Columns) -> None:
        self._model, self._table, self._columns = model.graphs, table, columns
        self.in_parts, self.problem = model.split is not None, model.problem
        self.inline = INLINE_CANDIDATES

    async def score(self, sample: Sample) -> FloatArray:
        """See the port. Longer slates run in a thread, where onnxruntime releases the interpreter lock."""
        # Nobody has measured slates of which a split model computes candidates anew.
        measured = sample.knowledge and sample.described is None
        most = self.inline if measured else min(self.inline, INLINE_CANDIDATES)
        return self.run(sample) if len(sample.rows) <= most else await asyncio.to_thread(self.run, sample)

    def run(self, sample: Sample) -> FloatArray:
        """float32 [C], in the calling thread. ScoringError as in the port."""
        try:
            scores = self._model.scores(sample, self._table, self._columns)
        except Exception as error:  # onnxruntime has no common exception class
            log.exception("the model failed")
            raise ScoringError(str(error)) from error
        if scores.shape != sample.rows.shape or not np.isfinite(scores).all():
            log.error(
                "the model gave scores of shape %s for %d candidates, or not finite", scores.shape, len(sample.rows)
            )
            raise ScoringError("scores are not one finite number per candidate")
        return np.asarray(scores, np.float32)
