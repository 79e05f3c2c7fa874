"""``python -m research JOB``: the studies, from a checkout."""

from __future__ import annotations

import typer

from offline.cli.call import run_command_line
from offline.cli.panels import ByPurpose
from research.cli import quality, replay, studies

app = typer.Typer(
    cls=ByPurpose,
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
    """Entry point."""
    run_command_line(app)


if __name__ == "__main__":
    main()
