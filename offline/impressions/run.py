"""From a file of impressions to what would be gained: read, choose, score, compare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from models.contract.arrays import IntArray
from models.contract.artifact import verify_file
from models.split_model import WholeModel
from offline.data.catalogue import DataError
from offline.data.dataset import open_dataset
from offline.data.log import InteractionLog
from offline.data.spellings import common_spelling
from offline.impressions.cautions import Acquaintance, Selection, day_of
from offline.impressions.comparison import compare_orders
from offline.impressions.reading import read_impressions
from offline.impressions.report import ImpressionReport
from offline.impressions.role import Role, Vocabulary
from offline.impressions.scoring import LoggedRequest, RequestEncoder, score
from offline.jobs.steps import Job
from offline.knowledge.vectors import Knowledge
from offline.training.report import TrainingReport
from offline.training.samples import SampleEncoder
from offline.training.validation import of_drawn_users, trained_splits


@dataclass(frozen=True, slots=True)
class Question:
    """A file of impressions, the columns that a person ``named``, whether requests that the model was trained on are
    compared too, and about how many at most, of users drawn by chance."""

    path: Path
    named: Mapping[Role, str]
    with_trained: bool
    most_requests: int


def what_would_be_gained(
    job: Job, log: InteractionLog, knowledge: Knowledge, report: TrainingReport, question: Question
) -> ImpressionReport:
    """The model that was trained last against the order in which impressions were shown. DataError and ArtifactError
    say what keeps them from being compared."""
    if not job.config.data.timed:
        raise DataError("interactions have no times, so nobody knows which of them came before an impression")
    trained_splits(job.config.samples, log, report)
    encoder, model = _model(job, log, knowledge, report)
    known = Vocabulary(pl.Series(log.user_ids, dtype=pl.String), pl.Series(log.item_ids, dtype=pl.String))
    impressions = read_impressions(question.path, known, question.named)
    rows, selection = _chosen(impressions.requests, log, report, question)
    requests = impressions.requests[rows]
    _refuse_strangers(question.path, requests["user"], known.users)
    logged = [LoggedRequest(*row) for row in requests.select("user", "time_ms", "items").iter_rows()]
    return ImpressionReport(
        path=question.path,
        model=str(model.artifact.model),
        trained_until_ms=report.trained_until_ms,
        impressions=impressions,
        selection=selection,
        acquaintance=_acquaintance(requests, known, encoder, logged),
        comparison=compare_orders(requests, score(model, encoder, logged)),
    )


def _model(
    job: Job, log: InteractionLog, knowledge: Knowledge, report: TrainingReport
) -> tuple[RequestEncoder, WholeModel]:
    """The exported model and what encodes requests for it."""
    file = job.models / report.artifact
    verify_file(file, report.sha256, f"model {report.artifact}")
    model = WholeModel.open(file, threads=1)
    spaces = {space.key: space.fingerprint for space in knowledge.spaces}
    if others := [space.key for space in model.artifact.spaces if spaces.get(space.key) != space.fingerprint]:
        raise DataError(f"the model reads other knowledge than there is now ({', '.join(others)}): run `refresh` first")
    catalogue = open_dataset(job.config.data, job.raw).catalogue()
    samples = SampleEncoder(model.artifact.feature_schema, catalogue, log, knowledge, report.trained_rows)
    return RequestEncoder(samples, catalogue, knowledge, report), model


def _chosen(
    requests: pl.DataFrame, log: InteractionLog, report: TrainingReport, question: Question
) -> tuple[IntArray, Selection]:
    """Rows of the requests that are compared. DataError if there are none."""
    time_ms = requests["time_ms"].to_numpy()
    begin, end = int(log.time_ms.min()), int(log.time_ms.max())
    early, trained = time_ms < begin, (time_ms >= begin) & (time_ms <= report.trained_until_ms)
    rows = np.flatnonzero(~early & (~trained | question.with_trained))
    if not len(rows):
        first, last = day_of(int(time_ms.min())), day_of(int(time_ms.max()))
        if early.all():
            raise DataError(
                f"{question.path}: all {len(time_ms):,} requests, from {first} to {last}, come before the log begins "
                f"({day_of(begin)}), so nothing is known of anybody: are the times read right?"
            )
        raise DataError(
            f"{question.path}: all {len(time_ms):,} requests, from {first} to {last}, come before the end of training "
            f"({day_of(report.trained_until_ms)}), so that the model has learned from what came of them: bring later "
            "ones, or take them all the same, --with-trained"
        )
    user = np.unique(requests["user"].to_numpy(), return_inverse=True)[1]
    drawn = of_drawn_users(user, rows, question.most_requests)
    late = int((time_ms[drawn] > end).sum())
    counts = int(early.sum()), int(trained.sum()), len(rows) - len(drawn), late
    return drawn, Selection(len(time_ms), *counts, question.with_trained)


def _refuse_strangers(path: Path, users: pl.Series, known: pl.Series) -> None:
    """DataError if no user is in the log, but would be in another spelling."""
    if users.is_in(known.implode()).any():
        return
    used = users.unique(maintain_order=True).head(1000).to_list()
    if note := common_spelling(used, known.to_list()):
        raise DataError(
            f"{path}: none of its users is in the log, such as {used[0]!r}, where the log has {known[0]!r}; {note}: "
            "write both alike, or name another column, --user"
        )


def _acquaintance(
    requests: pl.DataFrame, known: Vocabulary, encoder: RequestEncoder, logged: Sequence[LoggedRequest]
) -> Acquaintance:
    """What the log knows of the requests."""
    clicked = requests["clicked"].explode().to_numpy()
    lately = np.array([seen for request in logged for seen in encoder.seen_lately(request)])
    return Acquaintance(
        unknown_items=_unknown(requests["items"].explode(), known.items),
        unknown_users=_unknown(requests["user"].unique(), known.users),
        without_history=float(np.mean([not encoder.has_history(request) for request in logged])),
        clicked_lately=float(lately[clicked].mean()) if clicked.any() else 0.0,
        unclicked_lately=float(lately[~clicked].mean()) if not clicked.all() else 0.0,
    )


def _unknown(ids: pl.Series, known: pl.Series) -> float:
    """Share of ids that are not known."""
    return 1.0 - float(ids.is_in(known.implode()).mean() or 0.0)  # type: ignore[arg-type]
