"""``python -m offline compare --impressions FILE`` on an installation whose model goes by popularity."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import typer.testing

from offline.__main__ import app
from offline.data.log import InteractionLog
from offline.training.report import TrainingReport
from offline.training.statistics import statistics_until
from tests.offline.impressions.files import Shown, requests
from tests.offline.pipeline import Pipeline
from tests.offline.proposal.shops import write

HEADER = ("user", "time", "item", "clicked")
Compare = Callable[..., tuple[int, str]]


@pytest.fixture
def compare(installed: Pipeline, monkeypatch: pytest.MonkeyPatch) -> Compare:
    """Runs the command on the installation: (exit code, output or error)."""
    monkeypatch.setattr("offline.cli.call.load_config", lambda path: installed.config)

    def run(*arguments: str) -> tuple[int, str]:
        result = typer.testing.CliRunner().invoke(app, ["compare", "--impressions", *arguments])
        return result.exit_code, result.output or str(result.exception)

    return run


def impressions(path: Path, shown: Sequence[Shown], prefix: str = "") -> str:
    rows = [
        (f"{prefix}{request.user}", request.when, item, label)
        for request in shown
        for item, label in zip(request.items, request.labels, strict=True)
    ]
    return str(write(path, HEADER, rows))


def after_training(installed: Pipeline, **options: int) -> list[Shown]:
    """Requests from the second after the model's training on."""
    report = TrainingReport.load(installed.job.models / "report.json")
    return requests(**{"users": 24, "items": 20, **options, "first": report.trained_until_ms // 1000 + 1})


def test_the_model_is_compared_with_what_was_shown(installed: Pipeline, compare: Compare, tmp_path: Path) -> None:
    shown = after_training(installed)
    code, output = compare(impressions(tmp_path / "shown.csv", shown), "--json", str(tmp_path / "gain.json"))
    assert code == 0, output
    document = json.loads((tmp_path / "gain.json").read_text())
    assert output.splitlines()[-1] == document["sentence"]
    assert document["counts"]["judged"] == 50
    assert document["shares"]["unknown_items"] == 0.0
    # The order by popularity at the end of training, reckoned here by itself.
    log, report = InteractionLog.load(installed.job.log), TrainingReport.load(installed.job.models / "report.json")
    rate = statistics_until(installed.config.feature_schema, log, report.trained_rows)[:, 2]
    first = [request.items[np.argmax([rate[log.item_ids.index(item)] for item in request.items])] for request in shown]
    hits = [item in [request.items[at] for at in request.clicked] for item, request in zip(first, shown, strict=True)]
    assert document["measures"]["clicks in the first place"]["model"] == pytest.approx(sum(hits) / 50)


def test_what_the_model_was_trained_on_is_left_out_unless_it_is_asked_for(
    installed: Pipeline, compare: Compare, tmp_path: Path
) -> None:
    log = InteractionLog.load(installed.job.log)
    first = int(log.time_ms.min()) // 1000 + 1
    trained = [Shown(each.user, first, each.items, each.clicked) for each in requests(users=24, items=20)]
    both = impressions(tmp_path / "both.csv", [*trained[:30], *after_training(installed)])
    note = "requests come before the end of training"
    code, output = compare(both)
    assert (code, note in output, "--with-trained takes them" in output) == (0, True, True)
    assert "60 requests of" in output
    assert "compared all the same" in compare(both, "--with-trained")[1]
    _, refusal = compare(impressions(tmp_path / "trained.csv", trained))
    assert "come before the end of training" in refusal
    assert "--with-trained" in refusal
    _, early = compare(impressions(tmp_path / "early.csv", requests(users=24, items=20, first=first - 10**6)))
    assert "come before the log begins" in early
    assert "are the times read right?" in early


def test_users_are_drawn_where_requests_are_many(installed: Pipeline, compare: Compare, tmp_path: Path) -> None:
    _, output = compare(impressions(tmp_path / "shown.csv", after_training(installed)), "--most-requests", "20")
    assert "requests are left out, of users drawn by chance" in output


def test_users_of_another_spelling_are_refused_and_strangers_are_not(
    installed: Pipeline, compare: Compare, tmp_path: Path
) -> None:
    shown = after_training(installed)
    upper = [Shown(each.user.upper(), each.second, each.items, each.clicked) for each in shown]
    assert "written in lower case" in compare(impressions(tmp_path / "upper.csv", upper))[1]
    code, output = compare(impressions(tmp_path / "strangers.csv", shown, "visitor-"))
    assert code == 0, output
    assert "100.0% of the users; 100.0% of the requests come before anything else of their user" in output


def test_there_must_be_a_model_of_this_log(installed: Pipeline, compare: Compare, tmp_path: Path) -> None:
    path = impressions(tmp_path / "shown.csv", after_training(installed))
    assert "there is no file" in compare("absent.csv")[1]
    shutil.move(installed.job.knowledge / "text", tmp_path / "text")
    assert "the model reads other knowledge than there is now (item/text): run `refresh` first" in compare(path)[1]
    shutil.move(tmp_path / "text", installed.job.knowledge / "text")
    (artifact,) = installed.job.models.glob("*.onnx")
    artifact.write_bytes(artifact.read_bytes() + b"\0")
    assert "has sha256" in compare(path)[1]
    (installed.job.models / "report.json").unlink()
    assert "nothing is trained yet: run `refresh` or `train` first" in compare(path)[1]
