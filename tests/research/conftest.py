"""Installations in small, as the jobs' own tests have them."""

from __future__ import annotations

from tests.offline.conftest import finished, fresh, installed

__all__ = ["finished", "fresh", "installed"]
