"""Settings of the service, read once from ``LORANK_*`` environment variables and never changed afterwards.

Knows names, types and limits. Does not know what any of them is used for.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from models.contract.leaving import FieldName, is_loopback
from models.contract.prefixes import own_folder

PREFIX = "LORANK_"

CLIENT_KEY = f"{PREFIX}API_KEY"
"""Variable of whoever calls a service (offline/jobs/calls.py); the service takes nothing from it."""

_REMOVED = {
    f"{PREFIX}TABLES": "item tables are mapped from the artifact folder; unset it and delete its folder",
    f"{PREFIX}NOBODY": "the release brings the list of its configuration; set data.nobody there and run `refresh`",
}

_SERVICE_LINK = re.compile(
    rf"{PREFIX}(?:\w+_)?(?:SERVICE_(?:HOST|PORT\w*)|PORT_\d+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?)=.*"
    rf"|{PREFIX}(?:\w+_)?PORT=(?:tcp|udp|sctp)://.*"
)
"""Variables with their values that Kubernetes puts into every container of a namespace that has a Service ``lorank`` or
``lorank-...`` (enableServiceLinks, on by default). They are no settings."""

_Positive = Annotated[int, Field(ge=1)]

Reads = Literal["primary", "replicas"]
"""Of whom reads of users are asked first, in a Redis Cluster."""


def _listed(value: object) -> object:
    """The parts of a text with commas between them."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


class SettingsError(ValueError):
    """A setting that is unknown, malformed or cannot take effect. The message names it; it stops the start-up."""


class Settings(BaseModel):
    """Everything an operator can choose. Sizes are bytes or counts, times carry their unit in the name.

    ``redis_url``        of a server, a cluster, or Sentinels and a name (``models/redis_address.py``); None starts the
                         embedded server in a folder below ``data_dir/valkey``
    ``redis_connections``  at each server
    ``redis_reads``      users are read from the primaries of a cluster, or from replicas, which may lag behind
    ``artifacts``        folder of the folders of models and item tables, which all processes map; None means
                         ``data_dir/artifacts``
    ``key_prefix``       the configuration that is served, lorank:NAME; None: the only one that is there
    ``max_body_bytes``   4 MiB hold 2,000 candidates with ids of 256 bytes, escaped as JSON, and 1 kB of features each
    ``max_header_bytes``, ``max_headers``  of the request line and headers of one request
    ``header_seconds``, ``body_seconds``   from the first byte of a request until its head, or its body, must be there;
                         ``body_seconds`` also until a caller must have read what it was answered
    ``max_unfinished_bytes``  of requests that are not complete yet, of all connections of a worker
    ``max_connections``  of a worker at once, beyond which idle ones make way; fewer if it lacks descriptors
    ``keys``             file of API keys (``python -m service keys``), which every request but those of the probes then
                         needs; None: nobody needs one
    ``private_network``  the operator says that nobody but their own machines reaches the host, so that it needs no keys
    ``workers``          processes that answer requests, each on a core; they share the port and the item table
    ``queue_ms``         a request that waited longer for its turn is refused (429); so are some when requests wait
                         a twentieth of it on average. None means ``default_deadline_ms``
    ``drain_seconds``    from SIGTERM on it says that it is leaving (readyz 503), and goes on answering for so long
    ``history_days``     a user's live history ends so many days after the last event; None: never
    ``stream_days``      entries of the streams of interactions and exposures end after so many days, read by a job or
                         not; None: when there are too many
    ``feedback_served_only``  events must name a ranking that was shown to their user in the last
                         ``feedback_served_seconds``, and an item in it; others are refused (docs/security.md)
    ``tls_certificate``, ``tls_key``   PEM files of the service's own TLS; ``tls_client_ca``: of those who may call
    ``feedback_fsyncs``  servers that have an interaction on their disks before it is accepted: 1 is the primary, each
                         further one a replica; 0 waits for none (docs/operations.md)
    ``exposure_queue``   exposures that wait in a worker's memory for Redis; beyond it they are dropped and counted
    ``reranker``         folder that `tune-reranker` wrote; with ``reranker_url``, the model server that serves it
    ``reranker_model``   name under which it is served; None means the one in the folder
    ``reranker_may_leave``  fields that prompts may carry there, with commas between (docs/security.md); None: all to a
                         server on this machine, none to another
    ``rerank_slots``     requests at the model server at once, of all workers; further ones keep the CTR model's order
    ``rerank_least_ms``  time that must be left for asking to make sense
    ``rerank_margin``    log-odds from first to last of a head beyond which its order is clear anyway; None: never
    ``rerank_check_seconds``  between two looks at whether the reranker answers its canaries
    ``experiments``      TOML file of layers and arms; None serves everybody the full model
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    redis_url: Annotated[str, Field(pattern=r"^(unix|rediss?(\+cluster|\+sentinel)?)://")] | None = None
    redis_connections: _Positive = 64
    redis_reads: Reads = "primary"
    data_dir: Path = Path("var")
    artifacts: Path | None = None
    key_prefix: Annotated[str, Field(pattern=r"^[A-Za-z0-9._:-]{1,64}$")] | None = None
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    keys: Path | None = None
    private_network: bool = False
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    tls_client_ca: Path | None = None
    workers: Annotated[int, Field(ge=1, le=256)] = 1
    queue_ms: Annotated[float, Field(gt=0)] | None = None
    drain_seconds: Annotated[float, Field(ge=0, le=600)] = 0.0
    max_candidates: _Positive = 2000
    max_body_bytes: _Positive = 4 * 1024 * 1024
    max_header_bytes: _Positive = 16 * 1024
    max_headers: _Positive = 100
    header_seconds: Annotated[float, Field(gt=0)] = 10.0
    body_seconds: Annotated[float, Field(gt=0)] = 20.0
    max_unfinished_bytes: _Positive = 64 * 1024 * 1024
    max_connections: _Positive = 10_000
    default_deadline_ms: Annotated[float, Field(gt=0)] = 100.0
    max_deadline_ms: Annotated[float, Field(gt=0)] = 5000.0
    release_poll_seconds: Annotated[float, Field(gt=0)] = 1.0
    onnx_threads: _Positive = 1
    history_max_events: _Positive = 10_000
    history_days: Annotated[float, Field(ge=0.001)] | None = None
    stream_days: Annotated[float, Field(ge=0.001)] | None = None
    feedback_served_only: bool = False
    feedback_served_seconds: Annotated[int, Field(ge=1)] = 86_400
    feedback_fsyncs: Annotated[int, Field(ge=0, le=16)] = 0
    exposure_queue: _Positive = 10_000
    exposure_stream_max: _Positive = 100_000
    interaction_stream_max: _Positive = 1_000_000
    reranker: Path | None = None
    reranker_url: Annotated[str, Field(pattern=r"^https?://")] | None = None
    reranker_model: str | None = None
    reranker_api_key: Annotated[str | None, Field(repr=False)] = None
    reranker_may_leave: Annotated[tuple[FieldName, ...], BeforeValidator(_listed)] | None = None
    rerank_slots: _Positive = 4
    rerank_least_ms: Annotated[float, Field(ge=0)] = 20.0
    rerank_margin: Annotated[float, Field(gt=0)] | None = None
    rerank_check_seconds: Annotated[float, Field(gt=0)] = 60.0
    experiments: Path | None = None
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["text", "json"] = "text"

    @property
    def served_seconds(self) -> int | None:
        """How long it is remembered what was shown; None where no feedback asks for it."""
        return self.feedback_served_seconds if self.feedback_served_only else None

    @property
    def queue_seconds(self) -> float:
        """Longest time that a request may wait for its turn."""
        return (self.default_deadline_ms if self.queue_ms is None else self.queue_ms) / 1000.0

    @property
    def served_prefix(self) -> str:
        """The key prefix. SettingsError while it is open: ``service.configuration`` looks for it."""
        if self.key_prefix is None:
            raise SettingsError(f"{PREFIX}KEY_PREFIX does not say which configuration is served")
        return self.key_prefix

    @property
    def artifact_folder(self) -> Path:
        """The folder of what is served. SettingsError while the key prefix is open."""
        shared = self.artifacts if self.artifacts is not None else self.data_dir / "artifacts"
        return own_folder(shared, self.served_prefix)

    @property
    def embedded_root(self) -> Path:
        """The folder of the folders of embedded servers."""
        return self.data_dir / "valkey"

    @property
    def embedded_folder(self) -> Path:
        """The embedded server's of what is served. SettingsError while the key prefix is open."""
        return own_folder(self.embedded_root, self.served_prefix)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Settings:
        """Settings from ``LORANK_*`` variables; SettingsError names every one that is unknown or malformed.

        An empty variable counts as unset, because that is all many deployment tools can write. Kubernetes' own
        variables about a Service of our name are no settings.
        """
        values: dict[str, str] = {}
        for variable, value in environment.items():
            if not variable.startswith(PREFIX) or variable == CLIENT_KEY:
                continue
            if _SERVICE_LINK.fullmatch(f"{variable}={value}"):
                continue
            name = variable.removeprefix(PREFIX).lower()
            if name not in cls.model_fields or variable != variable.upper():
                raise SettingsError(_unknown(variable))
            if value:
                values[name] = value
        try:
            settings = cls.model_validate(values)
        except ValidationError as error:
            lines = [f"{PREFIX}{str(fault['loc'][0]).upper()}: {fault['msg']}" for fault in error.errors()]
            raise SettingsError("; ".join(lines)) from error
        if (settings.reranker is None) != (settings.reranker_url is None):
            raise SettingsError(f"{PREFIX}RERANKER and {PREFIX}RERANKER_URL go together")
        if settings.default_deadline_ms > settings.max_deadline_ms:
            raise SettingsError(f"{PREFIX}DEFAULT_DEADLINE_MS exceeds {PREFIX}MAX_DEADLINE_MS")
        if not (is_loopback(settings.host) or settings.keys or settings.private_network):
            raise SettingsError(
                f"{PREFIX}HOST={settings.host} is reached from other machines: name a file of API keys by {PREFIX}KEYS "
                f"(`python -m service keys add NAME --scope rank --scope feedback` makes it), or say by "
                f"{PREFIX}PRIVATE_NETWORK=1 that only your own machines reach it"
            )
        if (settings.tls_certificate is None) != (settings.tls_key is None) or (
            settings.tls_client_ca is not None and settings.tls_certificate is None
        ):
            raise SettingsError(
                f"{PREFIX}TLS_CERTIFICATE and {PREFIX}TLS_KEY go together, and {PREFIX}TLS_CLIENT_CA with both"
            )
        if settings.max_body_bytes > settings.max_unfinished_bytes:
            raise SettingsError(f"{PREFIX}MAX_BODY_BYTES exceeds {PREFIX}MAX_UNFINISHED_BYTES")
        return settings


def _unknown(variable: str) -> str:
    if variable in _REMOVED:
        return f"{variable} is no setting any more: {_REMOVED[variable]}"
    valid = [PREFIX + name.upper() for name in Settings.model_fields]
    nearest = difflib.get_close_matches(variable.upper(), valid, n=1, cutoff=0.0)
    return f"unknown setting {variable}; the nearest valid name is {nearest[0]}"
