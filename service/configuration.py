"""The configuration that the service serves: that of LORANK_KEY_PREFIX, or else the only one that is there.

Looks before anything is started: into the folder of the embedded Redis, or into the Redis of the settings.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisClusterException
from redis.retry import Retry

from models.contract.keys import PREFIXES, Keys
from models.contract.prefixes import FORMER_PREFIX, prefix_in
from models.redis_address import URL_FORMS, RedisAddress
from models.valkey.embedded import holds_data
from service.redis import check_url
from service.settings import Settings, SettingsError

_ANSWER_SECONDS = 5.0
"""How long Redis may take to say which configurations it holds."""


def with_prefix(settings: Settings) -> Settings:
    """The settings with a key prefix. SettingsError if they leave it open and not exactly one configuration is there.

    A call that blocks.
    """
    if settings.key_prefix is not None:
        return settings
    if settings.redis_url is None:
        place, prefixes = str(settings.embedded_root), _prefixes_below(settings.embedded_root)
    else:
        check_redis_url(settings)
        place, prefixes = "the Redis of LORANK_REDIS_URL", _prefixes_at(settings.redis_url)
    if not prefixes:
        raise SettingsError(
            f"nothing is published in {place} yet: run `python -m offline refresh` first, or say with "
            "LORANK_KEY_PREFIX=lorank:NAME which configuration's first release to wait for"
        )
    if len(prefixes) > 1:
        raise SettingsError(
            f"{place} holds {len(prefixes)} configurations: say which one to serve with LORANK_KEY_PREFIX, "
            f"one of {', '.join(prefixes)}"
        )
    return settings.model_copy(update={"key_prefix": prefixes[0]})


def check_redis_url(settings: Settings) -> None:
    """SettingsError if no connection can be made with the Redis URL, or none as the settings ask for."""
    url = settings.redis_url
    if url is not None:
        try:
            check_url(url)
        except ValueError as error:  # the URL is not repeated here, because it may hold a password
            raise SettingsError(f"LORANK_REDIS_URL is not understood: {error}; it looks like {URL_FORMS}") from error
    if settings.redis_reads != "primary" and (url is None or RedisAddress.parse(url).form != "cluster"):
        raise SettingsError(
            f"LORANK_REDIS_READS={settings.redis_reads} needs a cluster, LORANK_REDIS_URL=redis+cluster://...; "
            "unset it: any other Redis is read at its primary"
        )


def _prefixes_below(folder: Path) -> list[str]:
    """Prefixes for which an embedded Redis in ``folder`` holds something, in their order."""
    prefixes = [FORMER_PREFIX] if holds_data(folder) else []
    if folder.is_dir():
        prefixes += [prefix_in(path) for path in sorted(folder.iterdir()) if holds_data(path)]
    return prefixes


def _prefixes_at(url: str) -> list[str]:
    """Prefixes under which something is published in a Redis, in their order; keys that were deleted leave none."""
    try:
        with RedisAddress.parse(url).connected(
            socket_timeout=_ANSWER_SECONDS,
            socket_connect_timeout=_ANSWER_SECONDS,
            retry=Retry(NoBackoff(), 0),  # whoever restarts the service tries again
        ) as client:
            listed: Any = client.smembers(PREFIXES)
            prefixes = sorted({FORMER_PREFIX, *(prefix.decode() for prefix in listed)})
            return [prefix for prefix in prefixes if client.exists(Keys(prefix).installation, Keys(prefix).live)]
    except (redis.RedisError, RedisClusterException) as error:
        raise SettingsError(
            f"Redis cannot say which configurations it holds ({error}): set LORANK_KEY_PREFIX to serve one whatever "
            "state Redis is in"
        ) from error
