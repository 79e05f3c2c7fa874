"""The first job of all: a configuration for files that nobody has described."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Annotated

import typer

from offline.cli.call import DEFAULT_DATA_DIR, DataDir, job_of
from offline.cli.inspection import Measured, print_findings
from offline.cli.panels import DATA
from offline.config import NAME
from offline.data.catalogue import DataError

app = typer.Typer()


@app.command(rich_help_panel=DATA)
def init(
    interactions: Annotated[Path, typer.Option(metavar="FILE", help="Who did what with which item: .csv, .parquet, …")],
    items: Annotated[Path, typer.Option(metavar="FILE", help="The items: ids, titles, whatever describes them.")],
    users: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The users, if there is more than their ids.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the configuration; without it, of the folder the interactions lie in.")
    ] = None,
    to: Annotated[Path | None, typer.Option(metavar="FILE.toml", help="Without it, configs/NAME.toml.")] = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    measured: Measured = True,
) -> None:
    """Look at your files, write a commented configuration that fits them, and check it against them."""
    from offline.proposal.propose import name_of, propose  # polars

    name = name or name_of(interactions)
    path = to or Path("configs") / f"{name}.toml"
    if not re.fullmatch(NAME, name):
        raise typer.BadParameter(f"--name {name!r}: letters, digits, _ and -, at most 40")
    if path.exists():
        raise DataError(f"{path} exists already and stays as it is: say another --name or --to, or remove it")
    if others := [str(other) for other in sorted(path.parent.glob("*.toml")) if _name_in(other) == name]:
        raise DataError(f"the name {name!r} is taken by {', '.join(others)}: say another --name")
    proposal = propose(interactions, items, users, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(proposal.text(), encoding="utf-8")
    print(f"written: {path}")
    for remark in proposal.remarks:
        print(f"  LOOK: {remark}")
    print(f"read it{', above all where it says LOOK' if proposal.remarks else ''}; then")
    print(f"  python -m offline refresh --config {path}", flush=True)
    print_findings(job_of(path, data_dir), measured=measured)


def _name_in(path: Path) -> str | None:
    """The name in a configuration; None in whatever else it may be."""
    try:
        name = tomllib.loads(path.read_text(encoding="utf-8")).get("name")
    except (OSError, ValueError, RecursionError):
        return None
    return name if isinstance(name, str) else None
