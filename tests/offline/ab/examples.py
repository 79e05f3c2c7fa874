"""Settings of property tests of this folder: the same examples every time, and no limit of time on a busy machine."""

from __future__ import annotations

from hypothesis import settings

EXAMPLES = settings(deadline=None, database=None, derandomize=True, max_examples=50)
