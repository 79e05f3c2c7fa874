"""``python -m offline JOB``: the jobs that cron and people start."""

from __future__ import annotations

import typer

from offline.cli import beginning, experiments, forgetting, impressions, inspection, jobs, tuning
from offline.cli.call import run_command_line
from offline.cli.panels import ByPurpose

app = typer.Typer(
    cls=ByPurpose,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="""Turn interactions into knowledge, models and releases that the ranking service answers from.

    Start with REFRESH: it runs every stage in order and skips what is up to date. The stages also run by themselves.
    All state lies in the configuration's workdir (data, answers, vectors, models) and in --data-dir (embedded Redis,
    artifacts). A refresh builds both again from the source, but not what only they hold: docs/operations.md says what
    to back up. Set LORANK_REDIS_URL to publish to your own Redis.

    Exit codes: 0 done; 1 failed; 2 wrong options or configuration; 3 partial: what was finished is published, the rest
    is left for the next run, or a model is refused; 4 locked: another job is at work in the folder; 130 or 143: stopped
    by Ctrl-C or SIGTERM.
    """,
)
app.add_typer(beginning.app)
app.add_typer(jobs.app)
app.add_typer(inspection.app)
app.add_typer(impressions.app)
app.add_typer(tuning.app)
app.add_typer(experiments.app)
app.add_typer(forgetting.app)


def main() -> None:
    run_command_line(app)


if __name__ == "__main__":
    main()
