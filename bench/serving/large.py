"""The world of many items that goals 5 and 6 are about."""

from __future__ import annotations

from bench.serving.installed import Laboratory
from bench.serving.world import World

SPACES = ("text", "autograph", "marc")


def large(laboratory: Laboratory) -> World:
    return World(items=laboratory.effort.items, spaces=SPACES)
