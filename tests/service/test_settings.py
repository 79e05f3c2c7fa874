"""Settings come from ``LORANK_*`` and refuse what they do not know."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from service.settings import Settings, SettingsError


def test_defaults() -> None:
    settings = Settings.from_environment({"PATH": "/bin", "LORANK_REDIS_URL": ""})
    assert settings == Settings()
    assert settings.redis_url is None
    assert settings.key_prefix is None
    for folder in ("served_prefix", "artifact_folder", "embedded_folder"):
        with pytest.raises(SettingsError, match="LORANK_KEY_PREFIX"):
            getattr(settings, folder)


@pytest.mark.parametrize(
    ("prefix", "folder"), [("lorank:books", "books"), ("lorank", "."), ("lorank:a.b", "prefix=lorank:a.b")]
)
def test_each_prefix_has_folders_of_its_own(prefix: str, folder: str) -> None:
    settings = Settings.from_environment({"LORANK_KEY_PREFIX": prefix})
    assert settings.artifact_folder == Path("var/artifacts") / folder
    assert settings.embedded_folder == Path("var/valkey") / folder


@pytest.mark.parametrize("service", ["", "REDIS_"])
def test_what_kubernetes_says_of_services_of_our_name_is_no_setting(service: str) -> None:
    links = {
        "SERVICE_HOST": "10.0.12.7", "SERVICE_PORT": "8000", "SERVICE_PORT_HTTP": "8000", "PORT": "tcp://10.0.12.7:8000",
        "PORT_8000_TCP": "tcp://10.0.12.7:8000", "PORT_8000_TCP_PROTO": "tcp", "PORT_8000_TCP_PORT": "8000",
        "PORT_8000_TCP_ADDR": "10.0.12.7",
    }  # fmt: skip
    environment = {f"LORANK_{service}{name}": value for name, value in links.items()}
    assert Settings.from_environment(environment) == Settings()
    assert Settings.from_environment(environment | {"LORANK_PORT": "9000"}).port == 9000
    with pytest.raises(SettingsError, match="LORANK_SERVICE_HOTS"):
        Settings.from_environment({"LORANK_SERVICE_HOTS": "10.0.12.7"})


def test_values_are_read_and_typed() -> None:
    settings = Settings.from_environment(
        {
            "LORANK_PORT": "9000",
            "LORANK_DATA_DIR": "/data",
            "LORANK_KEY_PREFIX": "lorank:books",
            "LORANK_ARTIFACTS": "/models",
            "LORANK_DEFAULT_DEADLINE_MS": "12.5",
            "LORANK_LOG_LEVEL": "warning",
        }
    )
    assert settings.port == 9000
    assert settings.artifact_folder == Path("/models/books")
    assert settings.embedded_folder == Path("/data/valkey/books")
    assert settings.default_deadline_ms == 12.5
    with pytest.raises(ValidationError, match="frozen"):
        setattr(settings, "port", 1)  # noqa: B010 - the type checker refuses the plain form, rightly


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("LORANK_REDIS_ULR", "redis://x", "LORANK_REDIS_URL"),
        ("LORANK_prot", "1", "LORANK_PORT"),
        ("LORANK_", "1", "nearest"),
        ("LORANK_REDIS_URL", "localhost:6379", "LORANK_REDIS_URL"),
        ("LORANK_PORT", "many", "LORANK_PORT"),
        ("LORANK_PORT", "-1", "LORANK_PORT"),
        ("LORANK_MAX_CANDIDATES", "0", "LORANK_MAX_CANDIDATES"),
        ("LORANK_RELEASE_POLL_SECONDS", "nan", "LORANK_RELEASE_POLL_SECONDS"),
        ("LORANK_KEY_PREFIX", "a{b}", "LORANK_KEY_PREFIX"),
        ("LORANK_LOG_LEVEL", "loud", "LORANK_LOG_LEVEL"),
        ("LORANK_DEFAULT_DEADLINE_MS", "999999", "LORANK_MAX_DEADLINE_MS"),
        ("LORANK_MAX_HEADER_BYTES", "16k", "LORANK_MAX_HEADER_BYTES"),
        ("LORANK_MAX_HEADERS", "0", "LORANK_MAX_HEADERS"),
        ("LORANK_HEADER_SECONDS", "0", "LORANK_HEADER_SECONDS"),
        ("LORANK_BODY_SECONDS", "inf", "LORANK_BODY_SECONDS"),
        ("LORANK_MAX_UNFINISHED_BYTES", "1000", "LORANK_MAX_BODY_BYTES exceeds LORANK_MAX_UNFINISHED_BYTES"),
        ("LORANK_MAX_CONNECTIONS", "-1", "LORANK_MAX_CONNECTIONS"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(name: str, value: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        Settings.from_environment({name: value})


def test_a_setting_that_there_was_says_what_took_its_place() -> None:
    with pytest.raises(SettingsError, match=r"LORANK_NOBODY is no setting any more: .* data\.nobody"):
        Settings.from_environment({"LORANK_NOBODY": "0"})
