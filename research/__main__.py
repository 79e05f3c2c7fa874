"""``python -m research JOB``: the studies, from a checkout."""

from __future__ import annotations

import os
import sys

import typer

from offline.cli.endings import EXPECTED, end_cleanly_when_terminated, told
from offline.config import ConfigError
from offline.llm.threads import wait_without_spinning
from research.cli import quality, replay, studies

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="""Measure what methods and models are worth, and write the tables of the documentation.

    They read what the jobs of `python -m offline` made (configuration, workdir, --data-dir) and change nothing that is
    served. `--write PAGE.md` puts a table between its markers. Some need the extras `benchmark` and `peers`.
    """,
)
app.add_typer(quality.app)
app.add_typer(studies.app)
app.add_typer(replay.app)


def main() -> None:
    """Entry point. Expected failures end with one line and an exit code, never with a traceback."""
    wait_without_spinning()  # before a job loads torch
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # weights come from packages and folders
    end_cleanly_when_terminated()
    try:
        app()
    except (ConfigError, *EXPECTED) as error:
        sys.exit(told(error))


if __name__ == "__main__":
    main()
