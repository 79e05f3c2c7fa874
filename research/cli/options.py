"""Options that several studies share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

Seeds = Annotated[int, typer.Option(min=1, help="Trainings of every variant.")]
Workers = Annotated[int, typer.Option(min=1, help="Trainings at once, each on a core of its own.")]
Write = Annotated[
    Path | None, typer.Option(metavar="PAGE.md", help="Put the table into this page, between its markers.")
]
