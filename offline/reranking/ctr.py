"""The CTR model that the reranker is mixed with: the one that was trained last, which is the one that is served.

Weight and band are worth something beside that model alone. So its training comes first, its own split says which
samples it was validated on, and everything that does not fit it any more (samples, schema, spaces, weights) is refused
with the command that repairs it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from models.contract.arrays import FloatArray, IntArray
from models.contract.artifact import ArtifactError, ArtifactManifest
from models.contract.reranker import FittedTo
from offline.config import JobConfig
from offline.data.catalogue import Catalogue, DataError
from offline.data.files import file_digest
from offline.data.log import InteractionLog
from offline.jobs.steps import Job
from offline.knowledge.vectors import Knowledge
from offline.publish.connection import store_if_there
from offline.publish.release import live_release, read_manifest, read_model
from offline.training.candidates import as_trained
from offline.training.report import TrainingReport
from offline.training.samples import SampleEncoder

if TYPE_CHECKING:
    from models.ctr.calibration import Calibrated


@dataclass(frozen=True, slots=True, eq=False)
class CtrScores:
    """Probabilities that the served CTR model gives to samples. ``fitted_to`` names that model."""

    fitted_to: FittedTo
    _network: Calibrated
    _encoder: SampleEncoder

    def of(self, rows: IntArray) -> FloatArray:
        """Probabilities of yes, float32 [n], of the samples at log rows ``rows`` [n]."""
        from offline.training.fit import predict

        return predict(self._network, self._encoder, rows)

    @property
    def model(self) -> str:
        """Name and version of the model, for people."""
        return str(self.fitted_to.model)

    @property
    def circumstances(self) -> str:
        """SHA-256 of the model's artifact, which names all that its scores come from."""
        return self.fitted_to.artifact_sha256


def trained_report(job: Job) -> TrainingReport:
    """The report of the last training. DataError if there is none (or no log), or if its artifact is absent or another
    file."""
    path = job.models / "report.json"
    if not path.is_file() or not InteractionLog.is_saved(job.log):
        raise DataError(
            "weight and band are fitted against the CTR model that is served, and none is trained yet: "
            "run `refresh` first"
        )
    report = TrainingReport.load(path)
    artifact = job.models / report.artifact
    if file_digest(artifact) != report.sha256:
        raise DataError(f"{artifact} is not the model of the last training: run `refresh --retrain`")
    return report


def refuse_another_live_model(job: Job, report: TrainingReport) -> None:
    """DataError if a release is live whose model is not the one of ``report``. Nothing live is no error: the model may
    be published later, or from another machine."""
    with store_if_there(job.data_dir, job.config.name) as store:
        live = None if store is None else live_release(store)
        if store is None or live is None or read_manifest(store, live).artifact_sha256 == report.sha256:
            return
    raise DataError(
        f"release {live} is live with another CTR model than {report.artifact}, which was trained last, and weight and "
        "band would be of the wrong one: make it live first (`publish`; `publish --return` after a rollback, "
        "`publish --accept` after a refusal)"
    )


def ctr_scores(
    job: Job, catalogue: Catalogue, log: InteractionLog, knowledge: Knowledge, report: TrainingReport
) -> CtrScores:
    """Scores of the model of ``report``, read from the job's files. DataError if knowledge, schema or configuration are
    no longer those that it was trained with."""
    from offline.training.artifact import weights_version  # torch
    from offline.training.run import load_served

    artifact = job.models / report.artifact
    try:
        manifest = read_model(artifact)
    except ArtifactError as error:
        raise DataError(f"model {artifact} cannot be read, run `refresh --retrain`: {error}") from error
    _refuse_what_does_not_fit(as_trained(job.config, report.architecture), manifest, knowledge)
    encoder = SampleEncoder(manifest.feature_schema, catalogue, log, knowledge, report.trained_rows)
    try:
        network = load_served(job.config, report, encoder, job.models)
    except FileNotFoundError as error:
        raise DataError(f"the weights beside {artifact} are gone: run `refresh --retrain`") from error
    except RuntimeError as error:  # torch: other names or shapes
        raise DataError(
            f"model {report.artifact} was trained under another [training] than the configuration's: run `refresh` "
            f"first ({str(error).splitlines()[0]})"
        ) from error
    if weights_version(network) != report.model_version:
        raise DataError(f"the weights beside {artifact} are of another model: run `refresh --retrain`")
    return CtrScores(FittedTo(model=manifest.model, artifact_sha256=report.sha256), network, encoder)


def _refuse_what_does_not_fit(config: JobConfig, manifest: ArtifactManifest, knowledge: Knowledge) -> None:
    """DataError unless the configured schema and the knowledge on disk hold all that the model reads, unchanged."""
    names = tuple({space.name for space in manifest.spaces})
    if config.feature_schema.with_knowledge(names).fingerprint != manifest.feature_schema.fingerprint:
        raise DataError(
            f"model {manifest.model} was trained on another feature schema than the configuration's: "
            "run `refresh` first"
        )
    on_disk = {space.key: space.fingerprint for space in knowledge.spaces}
    trained_on = {space.key: space.fingerprint for space in manifest.spaces}
    if others := sorted(key for key, fingerprint in trained_on.items() if on_disk.get(key) != fingerprint):
        raise DataError(
            f"model {manifest.model} was trained on other spaces than the knowledge on disk holds "
            f"({', '.join(others)}): run `refresh` first"
        )
