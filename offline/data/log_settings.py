"""The settings under which a log was loaded: those of ``[data]`` that decide which rows the files have.

A log notes them (``InteractionLog.settings``), so that no job goes on with the rows of other settings unawares.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from models.contract.schema import fingerprint
from offline.data.catalogue import DataError
from offline.data.config import DataConfig
from offline.data.log import InteractionLog

_IDLE = {"interactions", "interactions.paths", "interactions.bad_rows_at_most"}
"""Further files are no other rows of the same files; nor is the share of bad rows that a file may have: of a file that
was read with either, the same are left out."""


def row_settings(config: DataConfig) -> dict[str, Any]:
    """Settings that decide which rows the files have and what those hold, by dotted name, as JSON has them."""
    settings = config.model_dump(mode="json", include={"source", "interactions", "labels", "split_by", "nobody"})
    flat = dict(settings)
    for table in ("interactions", "labels"):
        values = flat.pop(table) or {}
        flat |= {f"{table}.{name}": value for name, value in values.items()}
    return {name: value for name, value in flat.items() if name not in _IDLE}


def changed_settings(log: InteractionLog, config: DataConfig) -> list[str]:
    """Names of the settings that were others when the log was loaded, sorted; none of a log that did not note them."""
    if log.settings is None:
        return []
    before, now = log.settings, row_settings(config)
    return sorted(f"data.{name}" for name in {*before, *now} if before.get(name) != now.get(name))


def settings_digest(settings: Mapping[str, Any]) -> str:
    """Changes whenever a setting does."""
    return fingerprint(dict(settings))


def refuse_other_settings(log: InteractionLog, config: DataConfig) -> None:
    """DataError if the log was loaded under other settings, for jobs that do not load it anew."""
    if changed := changed_settings(log, config):
        raise DataError(
            f"the log of interactions was loaded before {', '.join(changed)} changed: run `refresh`, which loads it "
            "anew, or take the change back"
        )
