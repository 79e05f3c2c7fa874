"""Groups of jobs in ``--help``, by what a person wants."""

from __future__ import annotations

from typing import Any

from typer.core import TyperGroup

TRY = "Try it"
DATA = "Bring your data"
MAKE = "Make and publish, also from cron"
LOOK = "See how it stands"
BACK = "Take something back"
ARMS = "Compare arms of A/B experiments"
TUNE = "Tune a language model"
CARRY = "Spare another machine the work"

WORTH = "What models are worth, beside others"
METHODS = "What a method is worth by itself"
REPLAY = "What a service would have done"

PANELS = (TRY, DATA, MAKE, LOOK, BACK, ARMS, TUNE, CARRY, WORTH, METHODS, REPLAY)


class ByPurpose(TyperGroup):
    """A program whose help lists the panels in their order; every command names its own, or comes last."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(super().list_commands(ctx), key=lambda name: _place(self.commands[name]))


def _place(command: Any) -> int:
    panel = command.rich_help_panel
    return PANELS.index(panel) if panel in PANELS else len(PANELS)
