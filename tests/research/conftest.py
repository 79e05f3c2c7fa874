"""Installations in small, as the jobs' own tests have them."""

from __future__ import annotations

from tests.offline.conftest import finished, fresh, installed, offline_valkey

__all__ = ["finished", "fresh", "installed", "offline_valkey"]
