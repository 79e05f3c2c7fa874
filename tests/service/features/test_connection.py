"""Which Redis URLs the service starts with."""

from __future__ import annotations

import pytest

from service.app import create_app
from service.features.connection import is_usable_url
from service.settings import Settings, SettingsError


@pytest.mark.parametrize(
    "url",
    [
        "redis://h", "redis://h:6379/0", "redis://user:p%40ss@h:1/15?socket_keepalive=yes", "redis://[::1]:6379",
        "rediss://h", "unix:///run/valkey.sock", "unix:///run/valkey.sock?db=2",
    ],
)  # fmt: skip
def test_urls_that_can_be_used(url: str) -> None:
    assert is_usable_url(url)
    create_app(Settings(redis_url=url))


@pytest.mark.parametrize(
    "url",
    [
        "redis://h:abc", "redis://h:99999", "redis://[::1", "redis://h/cache", "redis://h/0/1", "redis://h?db=first",
        "redis://h?colour=red", "unix://", "rediss://h?ssl_cert_reqs=perhaps",
    ],
)  # fmt: skip
def test_urls_that_cannot_be_used_stop_the_start(url: str) -> None:
    with pytest.raises(SettingsError, match="LORANK_REDIS_URL"):
        create_app(Settings(redis_url=url))
