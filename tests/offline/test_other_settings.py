"""Settings that decide which rows the files have, changed after a first refresh: log, model, histories and validate."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.contract.events import EVENT_DTYPE, Interaction
from models.contract.keys import Keys
from offline.cli.jobs import data_and_knowledge
from offline.data.arrival import first_log
from offline.data.catalogue import DataError
from offline.data.config import DataConfig
from offline.data.dataset import open_dataset
from offline.data.files import read_json, write_json
from offline.data.log import MANIFEST, InteractionLog
from offline.data.log_settings import changed_settings
from offline.data.texts_import import ImportedTexts, UserText
from offline.jobs.dry_run import dry_run
from offline.jobs.refusals import of_everything
from offline.jobs.runs import Run
from offline.publish.connection import Store, open_store
from offline.publish.rewriting import rewrite_histories
from offline.publish.staging import Contents
from offline.publish.streams import new_interactions
from offline.refresh import data, publish_release
from offline.training.report import TrainingReport
from tests.offline.pipeline import LATER_MS, Pipeline, source_of


def with_data(installation: Pipeline, **data: Any) -> Pipeline:
    """Other settings of the data; those of ``interactions`` beside the ones that there are."""
    source = source_of(installation.folder)
    source["interactions"] |= data.pop("interactions", {})
    return installation.with_config(data={**source, **data})


def liked_alone(installation: Pipeline) -> Pipeline:
    return with_data(installation, interactions={"keep": {"value": "> 3"}})


def rows_of(log: InteractionLog) -> list[tuple[str, str, float, int]]:
    """(user, item, value, time_ms) of each row."""
    return [
        (log.user_ids[user], log.item_ids[item], float(value), int(time_ms))
        for user, item, value, time_ms in zip(log.user, log.item, log.value, log.time_ms, strict=True)
    ]


def saved(installation: Pipeline) -> InteractionLog:
    return InteractionLog.load(installation.job.log)


def of_the_files(installation: Pipeline) -> list[tuple[str, str, float, int]]:
    """The rows that a first load would have."""
    source = open_dataset(installation.config.data, installation.job.raw)
    config = installation.config
    return rows_of(first_log(source, source.catalogue(), config.data.labels, config.feature_schema))


def artifact_of(installation: Pipeline) -> str:
    return TrainingReport.load(installation.job.models / "report.json").artifact


def history_of(installation: Pipeline, user: str) -> Any:
    client = installation.redis
    blob: Any = client.get(Keys(installation.prefix).user_history(user))
    client.close()
    return None if blob is None else np.frombuffer(blob, EVENT_DTYPE)


def test_the_log_becomes_that_of_the_new_settings_and_keeps_what_was_streamed(
    installed: Pipeline, capsys: pytest.CaptureFixture[str]
) -> None:
    installed.stream(("u1", "i1", 1.0, LATER_MS), ("late", "i2", 2.0, LATER_MS + 1))
    installed.refresh()
    former, model = rows_of(saved(installed)), artifact_of(installed)
    installed.redis.delete(Keys(installed.prefix).interactions)  # nobody else has them any more
    changed = liked_alone(installed)
    entry = changed.refresh()
    output = capsys.readouterr().out
    streamed = [("u1", "i1", 1.0, LATER_MS), ("late", "i2", 2.0, LATER_MS + 1)]
    expected = [row for row in former if row[2] > 3]
    assert rows_of(saved(changed)) == expected + streamed
    assert of_the_files(changed) == expected
    assert (
        f"data.interactions.keep changed, so the log is loaded anew: 290 interactions before, now {len(expected)} "
        "of the files and 2 that the service streamed; the former log is kept in"
    ) in output
    (copy,) = changed.config.workdir.glob("log-before-*")
    assert rows_of(InteractionLog.load(copy)) == former
    assert artifact_of(changed) != model, "it is of the former rows"
    assert entry["release"].endswith(artifact_of(changed).removeprefix("small-").removesuffix(".onnx"))
    assert changed.refresh()["bytes_written"] == 0
    assert rows_of(saved(changed)) == expected + streamed


@pytest.mark.parametrize(
    ("data", "name"),
    [
        ({"interactions": {"repeated": "last"}}, "data.interactions.repeated"),
        ({"interactions": {"item": "user", "user": "item"}}, "data.interactions.item"),
        ({"interactions": {"split_column": "item"}}, "data.interactions.split_column"),
        ({"split_by": "leave_last_out"}, "data.split_by"),
        ({"nobody": ["null", "u2"]}, "data.nobody"),
    ],
)
def test_every_setting_that_decides_on_rows_is_noticed(installed: Pipeline, data: dict[str, Any], name: str) -> None:
    source = source_of(installed.folder)
    source["interactions"] |= data.get("interactions", {})
    changed = DataConfig.model_validate({**source, **{key: data[key] for key in data if key != "interactions"}})
    assert name in changed_settings(saved(installed), changed)


def test_other_files_texts_and_shares_of_bad_rows_change_no_row(installed: Pipeline) -> None:
    path = installed.folder / "interactions.csv"
    same = with_data(
        installed,
        interactions={"paths": [str(path), str(path)], "bad_rows_at_most": 0.5},
        texts={"item": "a film of {year}"},
    )
    assert changed_settings(saved(installed), same.config.data) == []


def test_negatives_are_drawn_anew(fresh: Pipeline) -> None:
    schema = fresh.config.feature_schema.model_dump(mode="json")
    schema |= {"value_min": 0, "value_max": 1, "liked_above": 0.5}
    implicit = with_data(fresh, interactions={"value": None}, labels={"kind": "implicit", "negatives": 1})
    implicit = implicit.with_config(feature_schema=schema)
    implicit.refresh()
    implicit.stream(("u1", "i1", 1.0, LATER_MS))
    implicit.refresh()
    assert saved(implicit).streamed == ((len(saved(implicit)) - 2, len(saved(implicit))),)
    source = implicit.config.data.model_dump(mode="json", exclude_unset=True)
    more = implicit.with_config(data={**source, "labels": {"kind": "implicit", "negatives": 3}})
    more.refresh()
    log = saved(more)
    assert (len(log.observed), len(log)) == (289, 289 + int(log.sampled.sum()))
    assert log.sampled.sum() > 2.5 * 288
    first, end = log.streamed[0] if log.streamed else (0, 0)
    assert (end - first, log.sampled[first:end].tolist()) == (4, [True, True, True, False])


def test_nobody_leaves_the_log_and_the_histories(installed: Pipeline, capsys: pytest.CaptureFixture[str]) -> None:
    installed.stream(("u2", "i1", 5.0, LATER_MS), ("u3", "i1", 5.0, LATER_MS))
    installed.refresh()
    assert len(history_of(installed, "u2")) == 13
    without = with_data(installed, nobody=["null", "u2"])
    without.refresh()
    assert "not compared with the live model: it was trained on a log of other settings" in capsys.readouterr().out
    assert "u2" not in {user for user, *_ in rows_of(saved(without))}
    assert rows_of(saved(without))[-1] == ("u3", "i1", 5.0, LATER_MS)
    assert history_of(without, "u2") is None
    assert len(history_of(without, "u3")) == 13
    installed.refresh()  # the stream still has it
    assert len(history_of(installed, "u2")) == 13


def test_histories_lose_what_the_log_lost_and_keep_what_the_service_wrote_since(installed: Pipeline) -> None:
    changed = liked_alone(installed)
    late = Interaction(user_id="u3", item_id="i2", type="rating", value=1.0, time_ms=LATER_MS)

    def meanwhile(store: Store, *others: Any) -> Any:
        """What the service writes after the refresh has read its stream."""
        fields: Any = late.to_stream()
        store.redis.xadd(store.keys.interactions, fields)
        store.redis.append(store.keys.user_history("u3"), late.pack())
        return rewrite_histories(store, *others)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("offline.publish.staging.rewrite_histories", meanwhile)
        changed.refresh()
    log, history = saved(changed), history_of(changed, "u3")
    mine = [row for row in rows_of(log) if row[0] == "u3"]
    assert history["value"].tolist() == [*(row[2] for row in mine), 1.0]
    assert history["time_ms"].tolist() == [*(row[3] for row in mine), LATER_MS]


def test_histories_that_change_in_the_middle_are_the_next_runs(
    installed: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed, number = liked_alone(installed), iter(range(100))

    def busy(store: Store, mark: str) -> Any:
        """The stream, of a service that appends to one history whenever it is read."""
        event = Interaction(user_id="u3", item_id="i2", type="rating", value=1.0, time_ms=LATER_MS + next(number))
        fields: Any = event.to_stream()
        store.redis.xadd(store.keys.interactions, fields)
        store.redis.append(store.keys.user_history("u3"), event.pack())
        return new_interactions(store, mark)

    with monkeypatch.context() as patch:
        patch.setattr("offline.publish.rewriting.new_interactions", busy)
        changed.refresh()
    assert (history_of(changed, "u4")["value"] > 3).all()
    assert (history_of(changed, "u3")["value"] <= 3).sum() > next(number)
    changed.refresh()
    mine = [row for row in rows_of(saved(changed)) if row[0] == "u3"]
    assert history_of(changed, "u3")["time_ms"].tolist() == [row[3] for row in mine]
    assert [row[2] for row in mine].count(1.0) == 3


def test_the_histories_of_a_configuration_that_is_replaced_stay(installed: Pipeline) -> None:
    length = len(history_of(installed, "u2"))
    other = with_data(installed, nobody=["null", "u2"])
    other.config = other.config.model_copy(update={"name": "other", "workdir": installed.folder / "other"})
    other.refresh(take_over=True)
    assert "u2" not in {user for user, *_ in rows_of(saved(other))}
    assert len(history_of(installed, "u2")) == length


def test_imported_texts_are_shown_to_no_row_that_is_there(installed: Pipeline) -> None:
    ImportedTexts({}, (UserText("u1", None, "Likes trains.", 7),)).save(installed.job.imported)
    changed = liked_alone(installed)
    changed.refresh()
    (text,) = ImportedTexts.load(installed.job.imported).users
    assert text == UserText("u1", None, "Likes trains.", len(saved(changed)))


def test_a_log_that_was_removed_is_trained_and_written_anew(installed: Pipeline) -> None:
    model = artifact_of(installed)
    for path in installed.job.log.iterdir():
        path.unlink()
    changed = liked_alone(installed)
    changed.refresh()
    assert artifact_of(changed) != model
    assert (history_of(changed, "u3")["value"] > 3).all()
    model = artifact_of(changed)
    for path in changed.job.log.iterdir():
        path.unlink()
    changed.refresh()
    assert artifact_of(changed) == model, "the same rows need no other model"


def test_validate_and_a_dry_run_say_what_will_happen_and_save_nothing(installed: Pipeline) -> None:
    before = {path: path.read_bytes() for path in installed.job.log.iterdir()}
    changed = liked_alone(installed)
    liked = len(of_the_files(changed))
    line = f"keep changed, so the log is loaded anew: 288 interactions before, now {liked} of the files"
    findings = of_everything(changed.job)
    assert any(line in warning for warning in findings.warnings)
    plan = dry_run(changed.job)
    assert any(line in said for said in plan.lines())
    assert len(plan.arrived.log) == liked
    assert {path: path.read_bytes() for path in installed.job.log.iterdir()} == before


def test_jobs_that_load_no_rows_refuse_a_log_of_other_settings(installed: Pipeline) -> None:
    with pytest.raises(DataError, match=r"before data.interactions.keep changed: run `refresh`"):
        data_and_knowledge(liked_alone(installed).job)


def as_an_earlier_version(folder: Path) -> None:
    """The log in ``folder`` without the notes that came later."""
    manifest = read_json(folder / MANIFEST)
    write_json(folder / MANIFEST, {name: manifest[name] for name in manifest if name not in ("streamed", "settings")})


def test_a_log_of_an_earlier_version_takes_the_present_settings(installed: Pipeline) -> None:
    as_an_earlier_version(installed.job.log)
    installed.redis.delete(Keys(installed.prefix).log_settings)
    model = artifact_of(installed)
    run = Run(installed.job, "publish")
    with run.working(), open_store(installed.job.data_dir, "small") as store:
        log, known = data_and_knowledge(installed.job)
        report = TrainingReport.load(installed.job.models / "report.json")
        publish_release(run, store, Contents(data(run)[1], log, known, report, installed.job.models))
    as_of_an_earlier_version = replace(report, log="")
    as_of_an_earlier_version.save(installed.job.models / "report.json")
    assert installed.refresh()["records"]["user histories"]["written"] == 0
    assert TrainingReport.load(installed.job.models / "report.json") == report
    assert artifact_of(installed) == model
    assert saved(installed).settings is not None
    changed = liked_alone(installed)  # nothing was streamed, so all rows are of the files
    changed.refresh()
    assert rows_of(saved(changed)) == of_the_files(changed)


def test_a_log_that_does_not_tell_what_was_streamed_is_refused_and_stays(installed: Pipeline) -> None:
    installed.stream(("u1", "i1", 1.0, LATER_MS))
    installed.refresh()
    as_an_earlier_version(installed.job.log)
    installed.refresh()
    before = rows_of(saved(installed))
    with pytest.raises(DataError, match=r"data.interactions.keep changed, .* take the change back, or move the folder"):
        liked_alone(installed).refresh()
    assert rows_of(saved(installed)) == before
    installed.stream(("u1", "i2", 1.0, LATER_MS))
    installed.refresh()
    assert rows_of(saved(installed)) == [*before, ("u1", "i2", 1.0, LATER_MS)]
