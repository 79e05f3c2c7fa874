"""Ready-made texts take the place of the language model's."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from models.contract.forgetting import Tombstone
from offline.data.catalogue import DataError
from offline.data.files import write_json
from offline.data.log import InteractionLog
from offline.data.texts_import import ImportedTexts
from offline.import_texts import import_texts
from offline.jobs.dry_run import dry_run
from offline.jobs.runs import Run
from offline.knowledge.vectors import Produced
from offline.publish.connection import open_store
from offline.publish.tombstones import write_tombstones
from tests.offline.pipeline import Pipeline, kinds


def take_over(installation: Pipeline, items: Path | None, users: Path | None = None) -> ImportedTexts:
    run = Run(installation.job, "import-texts")
    with run.working():
        return import_texts(run, items, users)


def test_texts_are_kept_and_added_to(installed: Pipeline, tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text("item,text\ni1,A film about trains.\ni2,A film about boats.\n")
    (tmp_path / "users.jsonl").write_text('{"user": "u1", "text": "Likes trains."}\n')
    assert take_over(installed, tmp_path / "items.csv").items == {
        "i1": "A film about trains.",
        "i2": "A film about boats.",
    }
    both = take_over(installed, None, tmp_path / "users.jsonl")
    assert len(both.items) == 2
    assert both.users[0].user == "u1"
    assert ImportedTexts.load(installed.job.imported) == both
    assert installed.runs()[-1]["job"] == "import-texts"


def test_a_file_that_breaks_a_rule_changes_nothing(installed: Pipeline, tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text("item,text\ni1,A film about trains.\nnobody,A film.\n")
    with pytest.raises(DataError, match="text_owner"):
        take_over(installed, tmp_path / "items.csv")
    assert not installed.job.imported.exists()
    assert installed.runs()[-1]["status"] == "failed"


def test_what_was_streamed_before_the_import_does_not_see_it(installed: Pipeline, tmp_path: Path) -> None:
    """Its author may have read the very events that a sample would predict."""
    before = len(InteractionLog.load(installed.job.log))
    streamed = installed.close_partition_of("u1")
    (tmp_path / "users.jsonl").write_text('{"user": "u1", "text": "Likes trains."}\n')
    take_over(installed, None, tmp_path / "users.jsonl")
    assert installed.refresh()["status"] == "done"
    log = InteractionLog.load(installed.job.log)
    assert len(log) == before + streamed
    users = Produced.load(installed.job.knowledge / "liber").users
    assert users is not None
    number = log.user_ids.index("u1")
    imported = users.since[users.start[number + 1] - 1]
    assert imported == len(log) - 1  # the last version is the imported one; no row that is there today sees it
    everything = np.arange(before, len(log))
    newest = users.visible(np.full(len(everything), number), everything)
    assert (newest < users.start[number + 1] - users.start[number]).all()


def test_texts_about_a_user_who_came_back_are_left_out(
    installed: Pipeline, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The old file may be imported again, and says nothing of when its texts were written."""
    now = round(time.time() * 1000)
    with open_store(installed.job.data_dir, installed.config.name) as store:
        write_tombstones(store, {"u1": Tombstone(forgotten_ms=now)})
    installed.stream(*(("u1", f"i{at}", 5.0, now + 1 + at) for at in range(3)))
    (tmp_path / "users.jsonl").write_text(
        '{"user": "u1", "text": "Likes trains."}\n{"user": "u2", "text": "Likes boats."}\n'
    )
    assert [text.user for text in take_over(installed, None, tmp_path / "users.jsonl").users] == ["u2"]
    assert "left out: 1 text of users who are forgotten" in capsys.readouterr().out
    assert "u1" in InteractionLog.load(installed.job.log).user_ids


def test_a_text_about_a_partition_is_left_out_when_other_partitions_close(
    installed: Pipeline, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first five interactions are not the first four."""
    message = "1 imported text about a partition is left out"
    (tmp_path / "users.jsonl").write_text('{"user": "u1", "partition": 0, "text": "Likes trains."}\n')
    take_over(installed, None, tmp_path / "users.jsonl")
    assert installed.refresh()["status"] == "done"
    assert "Likes trains." in Produced.load(installed.job.knowledge / "liber").texts["u1"]
    assert message not in capsys.readouterr().out
    smaller = installed.with_config(knowledge={"liber": {"partition_size": 4}})
    assert any(message in line for line in dry_run(smaller.job).lines())
    entry, paid = smaller.paid_by()
    assert (entry["status"], kinds(paid)["summary"]) == ("done", 24 * 3)
    shown = capsys.readouterr().out
    assert f"{message}: imported when 5 interactions closed one, and now 4 interactions do" in shown
    assert "Likes trains." not in Produced.load(smaller.job.knowledge / "liber").texts["u1"]
    assert installed.refresh()["status"] == "done"
    assert "Likes trains." in Produced.load(installed.job.knowledge / "liber").texts["u1"]


def test_texts_about_partitions_of_an_earlier_version_are_imported_again(
    installed: Pipeline, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They do not say what closed their partitions; texts about users as a whole need not."""
    paid = installed.model.paid()
    users = [["u1", None, "Likes trains.", 288], ["u1", 0, "Liked boats.", 288]]
    write_json(installed.job.imported, {"items": {"i1": "A film about trains."}, "users": users})
    (tmp_path / "items.csv").write_text("item,text\ni2,A film about boats.\n")
    assert len(take_over(installed, tmp_path / "items.csv").users) == 2
    for job in (installed.refresh, lambda: dry_run(installed.job)):
        with pytest.raises(DataError, match=r"texts about partitions \(1\) .*`import-texts --users FILE`"):
            job()
    assert installed.model.paid() == paid
    (tmp_path / "users.jsonl").write_text('{"user": "u1", "partition": 0, "text": "Liked boats."}\n')
    texts = take_over(installed, None, tmp_path / "users.jsonl")
    assert "texts about partitions that did not say what closed them are dropped: 1" in capsys.readouterr().out
    assert texts.items == {"i1": "A film about trains.", "i2": "A film about boats."}
    assert [(text.partition, text.text) for text in texts.users] == [(None, "Likes trains."), (0, "Liked boats.")]
    assert installed.refresh()["status"] == "done"
