"""``python -m offline`` on a finished installation: what each job does, and what it says of it last of all."""

from __future__ import annotations

import json
import re
import shlex
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer.testing

from offline.__main__ import app
from offline.cli import call
from offline.cli.experiments import ab_report, exposures
from offline.cli.panels import PANELS
from offline.data.catalogue import DataError
from offline.jobs import runs
from offline.jobs.dry_run import dry_run
from offline.jobs.ledger import RunLedger, RunRecord
from offline.jobs.prometheus import registry
from offline.jobs.runs import exclusive
from offline.llm.protocol import Completion, Prompt, UnusableBackendError
from offline.publish.comparison import Comparison
from offline.publish.connection import open_store
from offline.publish.release import SwitchError, live_release, read_manifest, write_manifest
from offline.training.candidates import Choice, save_choice, settings_of
from offline.training.report import TrainingReport
from research.__main__ import app as research
from tests.conftest import ROOT
from tests.offline.pipeline import LATER_MS, USERS, CountingModel, Pipeline, kinds

GUIDE = (ROOT / "docs" / "operations.md").read_text()
CRON = ROOT / "deploy" / "cron" / "lorank"
JOBS = (
    "config",
    "refresh",
    "knowledge",
    "train",
    "publish",
    "rollback",
    "import-texts",
    "status",
    "report",
    "validate",
)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs a command line in this process, on the configuration of an installation."""
    runner = typer.testing.CliRunner()

    def run(installation: Pipeline, *arguments: str) -> tuple[int, str, Any]:
        """(exit code, all output, the last line of standard output as JSON)."""
        monkeypatch.setattr("offline.cli.call.load_config", lambda path: installation.config)
        result = runner.invoke(app, [*arguments, "--data-dir", str(installation.job.data_dir)])
        last = result.stdout.splitlines()[-1] if result.stdout else ""
        return result.exit_code, result.output, json.loads(last) if last.startswith("{") else None

    return run


def test_done_partial_and_locked_have_their_codes_and_a_last_line(installed: Pipeline, command: Any) -> None:
    code, _, last = command(installed, "refresh")
    assert (code, last["status"], last["exit_code"], last["bytes_written"]) == (0, "done", 0, 0)
    installed.close_partition_of("u3")
    installed.model.fails = UnusableBackendError("nobody listens")
    code, output, last = command(installed, "refresh", "--metrics-file", str(installed.folder / "x.prom"))
    assert (code, last["status"], last["exit_code"]) == (3, "partial", 3)
    assert "left: 1 texts are still to come: nobody listens" in output
    assert last == installed.runs()[-1]
    assert (
        'lorank_job_status{config="small",job="refresh",status="partial"} 1.0'
        in (installed.folder / "x.prom").read_text()
    )
    with exclusive(installed.config.workdir, "train"):
        code, output, last = command(installed, "knowledge", "--producer", "liber")
    assert (code, last["status"]) == (4, "locked")
    assert "error: another job is at work" in output


def test_a_failure_is_one_line_and_one_line_of_json(installed: Pipeline, command: Any) -> None:
    (installed.job.log / "log.json").write_bytes(b"no log")
    code, output, last = command(installed, "refresh")
    assert (code, last["status"], last["exit_code"]) == (1, "failed", 1)
    assert "error: " in output
    assert "log.json cannot be read" in output
    assert "Traceback" not in output


def test_a_dry_run_says_what_a_run_then_does(installed: Pipeline, command: Any) -> None:
    installed.close_partition_of("u3")
    code, output, last = command(installed, "refresh", "--dry-run")
    assert (code, last["dry_run"], last["total"]["to_ask"]) == (0, True, 2)
    assert "liber: 2 of 74 prompts to ask in 2 calls, 72 from cache" in output
    assert len(installed.runs()) == 1
    _, _, last = command(installed, "knowledge", "--producer", "text", "--dry-run")
    assert last["total"]["to_ask"] == 0
    _, _, last = command(installed, "refresh")
    assert last["llm"]["paid"] == 2


def test_each_producer_alone(installed: Pipeline, command: Any) -> None:
    before = installed.published()
    installed.close_partition_of("u3")
    assert command(installed, "knowledge", "--producer", "liber")[0] == 0
    assert kinds(installed.model.paid()[72:]) == {"summary": 1, "shift": 1}
    code, _, last = command(installed, "publish", "--producer", "liber")
    assert (code, last["records"]["user/liber"]["written"]) == (0, 1)
    after = installed.published()
    code, _, last = command(installed, "rollback", "--producer", "liber")
    assert (code, last["records"]["restored"]["written"]) == (0, 1)
    assert installed.published() == before
    assert "held since its rollback" in command(installed, "publish")[1]
    assert command(installed, "publish", "--producer", "liber", "--return")[0] == 0
    assert installed.published() == after
    assert command(installed, "publish", "--producer", "liber")[2]["bytes_written"] == 0


def test_a_model_is_trained_without_knowledge_only_if_there_can_be_none_yet(installed: Pipeline, command: Any) -> None:
    for name in ("text", "liber"):
        (installed.job.knowledge / name / "vectors.npz").unlink()
    code, _, last = command(installed, "train", "--retrain")
    assert (code, last["status"]) == (1, "failed")
    assert "no knowledge yet" in last["reasons"][0]
    waiting = {name: {"state": "waits", "absent": 0} for name in ("text", "liber")}
    RunLedger(installed.config.workdir).append(RunRecord.parse({**installed.runs()[-1], "producers": waiting}))
    assert command(installed, "train", "--retrain")[0] == 0


def test_a_training_is_told_the_former_choice_unless_it_is_to_choose(
    installed: Pipeline, command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = {"served": "auto", "choice": {"candidates": ["tree", "din"]}}
    unsettled = installed.with_config(training=served, feature_schema={"running": {"half_lives_days": [7.0]}})
    wider = unsettled.with_config(training={"choice": {"candidates": ["tree", "din"], "share": 1.0}})
    choice = Choice("din", settings_of(unsettled.config), 9, "auto serves DIN", 0.1)
    training: Any = sys.modules["offline.training.run"]
    choices: list[Choice | None] = []

    def train(*arguments: Any) -> TrainingReport:
        choices.append(arguments[-1])
        report: TrainingReport = type(training).train(training, *arguments)
        return report

    monkeypatch.setattr(training, "train", train)
    save_choice(choice, installed.job.models)
    for job in ("train", "refresh"):
        for installation, *options in ((unsettled, "--retrain"), (unsettled, "--choose"), (wider, "--retrain")):
            command(installation, job, *options)  # the stand-in cannot be published with running features
    assert choices == [choice, None, None] * 2


def test_a_model_that_reads_no_knowledge_is_trained_published_and_accepted(
    fresh: Pipeline, command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = fresh.with_config(feature_schema={"knowledge": []})
    assert command(plain, "refresh")[2]["status"] == "done"
    monkeypatch.setattr("offline.publish.comparison.compare", lambda *_: Comparison(("worse",), ("worse",)))
    plain.stream(("newcomer", "i1", 5.0, LATER_MS))
    _, _, last = command(plain, "refresh", "--retrain")
    assert (last["status"], last["release"] == last["refused"]) == ("partial", False)
    assert command(plain, "train")[0] == 0
    assert command(plain, "publish")[2]["status"] == "partial"
    code, _, accepted = command(plain, "publish", "--accept")
    assert (code, accepted["release"], accepted["refused"]) == (0, last["refused"], "")


def test_since_budget_and_prices(installed: Pipeline, command: Any) -> None:
    installed.close_partition_of("u3")
    code, _, last = command(installed, "refresh", "--max-tokens", "10")
    assert (code, last["llm"]["paid"]) == (3, 0)
    assert "budget" in last["reasons"][0]
    assert command(installed, "refresh", "--max-cost", "1")[0] == 2  # nothing has a price
    assert command(installed, "refresh", "--since", "some day")[0] == 2
    code, _, last = command(installed, "refresh", "--since", "1h")
    assert (code, last["llm"]["paid"]) == (0, 2)


@pytest.mark.parametrize("bound", [(), ("--max-tokens", "2000000"), ("--since", "9999d", "--max-tokens", "2000000")])
def test_a_first_refresh_goes_live_without_a_prompt_whatever_the_budget_and_the_next_one_asks(
    fresh: Pipeline, command: Any, bound: tuple[str, ...]
) -> None:
    code, output, plan = command(fresh, "refresh", "--dry-run", *bound)
    assert (code, plan["total"]["to_ask"] > 0) == (0, True)
    assert "nothing is live, so a first refresh asks nothing" in output
    code, output, first = command(fresh, "refresh", *bound)
    assert (code, first["status"], first["llm"]["calls"]) == (3, "partial", 0)
    assert "nothing was live, so a first refresh asked nothing; the next one does, or --ask-at-once" in output
    assert fresh.model.paid() == []
    with open_store(fresh.job.data_dir, "small") as store:
        assert live_release(store) == first["release"]
    code, output, second = command(fresh, "refresh", *bound)
    assert second["llm"]["calls"] == len(fresh.model.paid()) > 0
    assert "asks nothing" not in output
    code, _, _ = command(fresh, "refresh")
    assert code == 0


def test_a_first_refresh_asks_if_it_is_told_to(fresh: Pipeline, command: Any) -> None:
    code, _, first = command(fresh, "refresh", "--ask-at-once", "--max-tokens", "2000000")
    assert (code, first["status"]) == (0, "done")
    assert first["llm"]["calls"] == len(fresh.model.paid()) > 0


def test_exposures_and_plans_leave_another_configurations_stream_alone(
    installed: Pipeline, command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed.stream(("u1", "i1", 5.0, LATER_MS))
    folder = installed.folder / "other"
    other = installed.config.model_copy(update={"name": "other", "workdir": folder})
    monkeypatch.setattr("offline.cli.call.load_config", lambda path: other)
    place = (Path("other.toml"), installed.job.data_dir)
    for look in (
        lambda: exposures(*place),
        lambda: ab_report("knowledge", *place),
        lambda: dry_run(replace(installed.job, config=other)),
    ):
        with pytest.raises(SwitchError, match="of configuration small is live under the key prefix"):
            look()
    assert not [path for path in folder.rglob("*") if path.suffix in (".parquet", ".json")]
    assert command(installed, "exposures")[2]["interactions"]["added"] == 1


def test_exposures_and_plans_leave_another_configurations_work_folder_alone(
    installed: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = installed.config.model_copy(update={"name": "other"})
    monkeypatch.setattr("offline.cli.call.load_config", lambda path: other)
    for look in (
        lambda: exposures(Path("other.toml"), installed.job.data_dir),
        lambda: dry_run(replace(installed.job, config=other)),
    ):
        with pytest.raises(DataError, match="is that of the configuration 'small'"):
            look()
    assert not (installed.config.workdir / "exposures").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ("refresh", "--max-tokens", "-1"),
        ("refresh", "--engine", "spark"),
        ("refresh", "--no-such-option"),
        ("rollback", "--to", "a", "--producer", "text"),
        ("publish", "--accept", "--producer", "text"),
        ("rollback", "--metrics-file", "rollback.prom"),
        ("import-texts",),
    ],
)
def test_wrong_calls_end_with_2_before_anything_happens(
    installed: Pipeline, command: Any, arguments: tuple[str, ...]
) -> None:
    assert command(installed, *arguments)[0] == 2
    assert len(installed.runs()) == 1


def test_another_configurations_release_is_replaced_if_the_command_line_says_so(
    installed: Pipeline, command: Any
) -> None:
    with open_store(installed.job.data_dir, "small") as store:
        mine, other = str(live_release(store)), "other-0123456789ab"
        manifest = read_manifest(store, mine).model_copy(update={"id": other, "configuration": None})
        write_manifest(store, manifest)
        store.redis.set(store.keys.live, other)
        for job in ("refresh", "knowledge", "publish"):
            code, _, last = command(installed, job)
            assert (code, last["status"]) == (1, "failed")
            assert "configuration other is live" in last["reasons"][0]
            assert "--take-over" in last["reasons"][0]
            assert live_release(store) == other
        assert command(installed, "publish", "--take-over")[0] == 0
        assert live_release(store) == mine
        store.redis.set(store.keys.live, other)
        assert command(installed, "refresh", "--take-over")[0] == 0
        assert live_release(store) == mine


def test_the_whole_release_is_rolled_back_at_once_whatever_is_at_work(installed: Pipeline, command: Any) -> None:
    with open_store(installed.job.data_dir, "small") as store:
        first = live_release(store)
        installed.with_config(training={"seeds": [2]}).refresh(retrain=True)
        installed.close_partition_of("u3")
        installed.refresh(retrain=True)
        second = live_release(store)
        assert second != first
        with exclusive(installed.config.workdir, "refresh"):
            code, _, last = command(installed, "rollback")
        assert (code, last["release"], last["before"]) == (0, first, second)
        assert live_release(store) == first
        code, _, last = command(installed, "rollback", "--to", "no-such-release")
        assert (code, last["status"], last["exit_code"]) == (1, "failed", 1)
        assert "no-such-release" in last["reasons"][0]
        _, output, _ = command(installed, "publish")
        assert "was rolled back and stays off" in output
        assert command(installed, "publish", "--return")[2]["release"] == second


def test_a_refused_model_is_accepted_by_name(
    installed: Pipeline, command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    worse = Comparison(("AUC -0.1 against the live model",), ("AUC -0.1 against the live model",))
    monkeypatch.setattr("offline.publish.comparison.compare", lambda *_: worse)
    code, output, last = command(installed, "publish", "--accept")
    assert (code, last["status"]) == (1, "failed")
    assert "error: no model is refused" in output
    installed.stream(("u3", "i1", 5.0, LATER_MS))
    code, output, last = command(installed, "refresh", "--retrain")
    refused = last["refused"]
    assert (code, last["status"]) == (3, "partial")
    assert f"{refused} is refused and stays off" in output
    assert f"  left: model_refused: {refused} stays off" in output
    code, output, last = command(installed, "publish")
    assert (code, last["refused"]) == (3, refused)
    code, output, last = command(installed, "publish", "--accept")
    assert (code, last["status"], last["release"], last["refused"]) == (0, "done", refused, "")
    assert command(installed, "refresh")[2]["release"] == refused


def test_texts_are_imported(installed: Pipeline, command: Any, tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text("item,text\ni1,A film about trains.\n")
    code, output, last = command(installed, "import-texts", "--items", str(tmp_path / "items.csv"))
    assert (code, last["status"]) == (0, "done")
    assert "1 of 20 items have a text" in output


def test_the_data_are_checked_and_the_rules_are_told(installed: Pipeline, command: Any) -> None:
    code, output, _ = command(installed, "validate")
    assert code == 0
    assert "24 users and 20 items are described" in output
    code, output, _ = command(installed, "validate", "--rules")
    assert (code, "value_range" in output) == (0, True)


def test_status_is_for_people_and_for_machines(installed: Pipeline, command: Any) -> None:
    code, output, _ = command(installed, "status", "--users", "1000000")
    assert code == 0
    assert "forecast   1,000,000 users" in output
    _, output, last = command(installed, "status", "--json")
    assert output.count("\n") == 1
    assert last["producers"]["liber"]["users"] == 24
    assert last["forecast"]["users"] == 10_000_000


@pytest.mark.parametrize("interrupts", [signal.default_int_handler, signal.SIG_IGN], ids=["terminal", "background"])
def test_sigterm_ends_a_job_in_order(
    installed: Pipeline, command: Any, monkeypatch: pytest.MonkeyPatch, interrupts: Any
) -> None:
    """No call is made after those in flight, the ledger says how it ended, and the next run goes on; also for a
    background job of a script, to which a shell gives SIGINT ignored."""
    for user in range(USERS):
        installed.close_partition_of(f"u{user}")
    answer = CountingModel.complete

    async def then_terminate(model: CountingModel, prompts: Sequence[Prompt]) -> list[Completion]:
        answers = await answer(model, prompts)
        signal.raise_signal(signal.SIGTERM)
        return answers

    monkeypatch.setattr(runs.stopping, "asked", False)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    signal.signal(signal.SIGINT, interrupts)
    call.end_cleanly_when_terminated()
    try:
        with monkeypatch.context() as patch:
            patch.setattr(CountingModel, "complete", then_terminate)
            code, output, last = command(installed, "refresh")
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert (code, last["status"], installed.runs()[-1]["status"]) == (143, "interrupted", "interrupted")
    assert last["exit_code"] == 143
    assert "Traceback" not in output
    in_flight = installed.job.config.llm.calls_in_flight
    assert 1 <= len(installed.model.paid()) - 72 <= in_flight < USERS
    monkeypatch.setattr(runs.stopping, "asked", False)
    assert command(installed, "refresh")[0] == 0
    assert installed.paid_by()[1] == []


@pytest.mark.parametrize("job", JOBS)
def test_every_job_has_its_help(job: str) -> None:
    result = typer.testing.CliRunner().invoke(app, [job, "--help"])
    assert result.exit_code == 0


def test_the_exit_codes_are_in_the_help_and_in_the_guide() -> None:
    help_text = " ".join(typer.testing.CliRunner().invoke(app, ["--help"]).output.split())
    for code, word in ((0, "done"), (1, "failed"), (2, "wrong"), (3, "partial"), (4, "locked")):
        assert f"{code} {word}" in help_text
        assert f"| {code} | {word}" in GUIDE


def test_the_guide_names_every_metric_and_every_word_of_the_ledger(installed: Pipeline) -> None:
    families = registry([], RunRecord.parse(installed.runs()[0])).collect()
    described = {f"{family.name}_total" if family.type == "counter" else family.name for family in families}
    assert described == set(re.findall(r"`(lorank_(?:jobs?|llm|model|producer)_\w+)`", GUIDE))
    for word in installed.runs()[0]:
        assert f"`{word}`" in GUIDE, word


def test_the_cron_lines_are_calls_that_the_jobs_understand() -> None:
    lines = [line for line in CRON.read_text().splitlines() if " -m offline " in line]
    assert lines
    for line in lines:
        arguments = shlex.split(line.partition(" -m offline ")[2].partition(" >>")[0])
        result = typer.testing.CliRunner().invoke(app, [*arguments, "--help"])
        assert result.exit_code == 0, result.output


@pytest.mark.parametrize("program", [app, research], ids=["offline", "research"])
def test_the_help_groups_commands_by_what_a_person_wants(program: typer.Typer) -> None:
    command = typer.main.get_command(program)
    jobs: Any = command
    assert {str(job.rich_help_panel) for job in jobs.commands.values()} <= set(PANELS), "every command names its group"
    shown = typer.testing.CliRunner().invoke(program, ["--help"]).output
    named = [panel for panel in PANELS if panel in shown]
    assert named == sorted(named, key=shown.index)
    assert len(named) == len({job.rich_help_panel for job in jobs.commands.values()})
