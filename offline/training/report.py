"""The report of a training: counts, the artifact, and the quality table. Knows no torch, so any job may read it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from offline.data.catalogue import DataError
from offline.data.files import read_json, write_json
from offline.metrics import in_words

PAGE_FILE = "report.html"
"""The report as a page, beside report.json (page.py)."""


class TrainingError(RuntimeError):
    """Training produced something that must not be served."""


@dataclass(frozen=True, slots=True)
class TrainingReport:
    """A training: its data, the model and the model's quality.

    ``table`` has one row per model, best served model first, None for a measure that is not defined; ``metrics`` lacks
    such a one. ``partial`` says that some texts were still to come, so that their knowledge was missing; ``parts`` are
    the files of the split model with their digests, none of a model that runs as a whole; ``split`` says what the
    samples are split by; ``notes`` are sentences that a reader of the table has to know; ``slices`` has one
    row per part of the test samples that the mean over all hides (slices.py); ``log`` is the digest of the
    rows of the log that it looked at, "" of an earlier version's; ``architecture`` is the served model's;
    ``choice`` is what "auto" chose and why (candidates.Choice), empty without.

    ``page.py`` draws the rest, of which earlier versions have none: ``data`` is the source of the data and
    ``written_ms`` the time of the report; ``verdict`` is what speaks against the served model, "" if nothing does, and
    ``rivals`` its differences from each other row (verdict.py); ``epochs`` are measures on the validation samples by
    name, one row per epoch; ``calibration`` are buckets of test scores, and ``histogram`` counts them (scores.py);
    ``importance`` has a row per group of inputs (importance.py); ``profile`` and ``drift`` are what was looked at, and
    what moved (drift.py); ``live`` is how the served model's AUC and LogLoss change with item statistics that are up to
    date.
    """

    log_rows: int
    trained_rows: int
    trained_until_ms: int
    samples: dict[str, int]
    artifact: str
    sha256: str
    model_version: str
    parity: float
    metrics: dict[str, float]
    table: list[dict[str, Any]]
    partial: bool = False
    parts: dict[str, str] = field(default_factory=dict)
    split: str = "by global time"
    notes: list[str] = field(default_factory=list)
    slices: list[dict[str, Any]] = field(default_factory=list)
    log: str = ""
    architecture: str = ""
    choice: dict[str, Any] = field(default_factory=dict)
    data: str = ""
    written_ms: int = 0
    verdict: str = ""
    rivals: list[dict[str, Any]] = field(default_factory=list)
    epochs: list[dict[str, float | None]] = field(default_factory=list)
    calibration: list[dict[str, Any]] = field(default_factory=list)
    histogram: list[int] = field(default_factory=list)
    importance: list[dict[str, Any]] = field(default_factory=list)
    profile: dict[str, float] = field(default_factory=dict)
    drift: dict[str, Any] = field(default_factory=dict)
    live: dict[str, Any] = field(default_factory=dict)

    @property
    def warnings(self) -> list[str]:
        """Sentences that a person has to see: the verdict, and what moved."""
        return [*filter(None, [self.verdict, self.live.get("sentence")]), *self.drift.get("sentences", [])]

    def save(self, path: Path) -> None:
        write_json(path, asdict(self))

    @classmethod
    def load(cls, path: Path) -> TrainingReport:
        try:
            return cls(**read_json(path))
        except TypeError as error:
            raise DataError(f"{path} is of another version: {error}") from error


def markdown(table: Sequence[dict[str, Any]], notes: Sequence[str] = ()) -> str:
    """Rows of a training report as a Markdown table, and the notes below it. Differences carry their 95 % interval."""
    heads = ["model", "test AUC", "LogLoss", "ECE", "GAUC", "AUC against trees [95 %]", "LogLoss against trees [95 %]"]
    differences = ["difference", "logloss_difference"]
    if any("knowledge_difference" in row for row in table):
        heads.append("AUC against no knowledge [95 %]")
        differences.append("knowledge_difference")
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for row in table:
        cells = [row["model"], *(in_words(row.get(name)) for name in ("auc", "logloss", "ece", "gauc"))]
        cells += ["{:+.4f} [{:+.4f}, {:+.4f}]".format(*row[name]) if name in row else "" for name in differences]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, *([""] if notes else []), *(f"{note}." for note in notes)])


def summary(report: TrainingReport, folder: Path) -> str:
    """The quality table, what a person has to see, and where the page lies, if there is one in ``folder``."""
    lines = [markdown(report.table, report.notes), *(f"  ! {warning}" for warning in report.warnings)]
    if (page := folder / PAGE_FILE).is_file():
        lines.append(f"  the report as a page: {page}")
    return "\n".join(lines)


def slices_markdown(slices: Sequence[dict[str, Any]]) -> str:
    """The served model on parts of the test samples, as a Markdown table; "" without any."""
    if not slices:
        return ""
    columns = {"auc": "AUC", "logloss": "LogLoss", "baseline": "AUC of the baseline", "tree": "AUC of the trees"}
    present = [name for name in columns if name in slices[0]]
    heads = ["test samples", "number", "liked", *(columns[name] for name in present)]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in slices:
        measures = " | ".join(in_words(row[name]) for name in present)
        lines.append(f"| {row['slice']} | {row['samples']:,} | {row['liked']:.1%} | {measures} |")
    return "\n".join(lines)
