"""The exceptions that have a meaning across the service, and their one mapping to HTTP.

``ServiceError`` and its children are answers to a caller. ``StageError`` and its children are failures of one
stage of a request; the ranker turns them into a lower step of the ladder, so they never reach a caller.
"""

from __future__ import annotations

from typing import ClassVar


class ServiceError(Exception):
    """An answer other than success. ``code`` is stable and machine-readable, the message is for people."""

    code: ClassVar[str] = "internal"

    def __init__(
        self, message: str, *, code: str | None = None, field: str | None = None, retry_after_ms: int | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.kind = code or self.code
        self.field = field
        self.retry_after_ms = retry_after_ms


class MalformedRequest(ServiceError):  # noqa: N818 - the family reads as answers, not as errors
    code = "malformed"


class Unauthenticated(ServiceError):  # noqa: N818
    code = "unauthenticated"


class Forbidden(ServiceError):  # noqa: N818
    code = "forbidden"


class TooLarge(ServiceError):  # noqa: N818
    code = "too_large"


class InvalidRequest(ServiceError):  # noqa: N818
    code = "invalid"


class Overloaded(ServiceError):  # noqa: N818
    code = "overloaded"


class Unavailable(ServiceError):  # noqa: N818
    code = "unavailable"


HTTP_STATUS: dict[type[ServiceError], int] = {
    MalformedRequest: 400,
    Unauthenticated: 401,
    Forbidden: 403,
    TooLarge: 413,
    InvalidRequest: 422,
    Overloaded: 429,
    Unavailable: 503,
}


def http_status(error: ServiceError) -> int:
    """HTTP status of an error; 500 for a ServiceError of no known kind."""
    return next((HTTP_STATUS[kind] for kind in type(error).__mro__ if kind in HTTP_STATUS), 500)


class StageError(Exception):
    """One stage of a request failed; the request goes on without it."""


class RedisUnavailable(StageError):  # noqa: N818 - a state of Redis, not a fault of the caller
    """Redis gave no complete answer in time. What it had already acknowledged stays done."""


class FeatureReadError(StageError):
    """The stored features of a user could not be read in time."""


class ScoringError(StageError):
    """The model failed or gave scores that are not finite numbers."""


class RerankError(StageError):
    """The reranker gave no verdict. ``word`` is the word of ``degraded`` that says why."""

    def __init__(self, message: str, word: str = "rerank_failed") -> None:
        super().__init__(message)
        self.word = word
