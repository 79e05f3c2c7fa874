"""Answers other than success, each with its HTTP status and code, and the state in which Redis gives none.

Failures of one stage of a request never reach a caller; they are in ``service.ranking.degraded``.
"""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar


class ErrorCode(StrEnum):
    """Codes of the error envelope: stable, and for machines."""

    MALFORMED = "malformed"
    UNAUTHENTICATED = "unauthenticated"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    TOO_LARGE = "too_large"
    INVALID = "invalid"
    OVERLOADED = "overloaded"
    RATE_LIMITED = "rate_limited"
    TIMEOUT = "timeout"
    UNSUPPORTED = "unsupported"
    REFUSED = "refused"
    UNAVAILABLE = "unavailable"
    NO_RELEASE = "no_release"
    REDIS_UNAVAILABLE = "redis_unavailable"
    INTERNAL = "internal"


class ServiceError(Exception):
    """An answer other than success. The message is for people."""

    status: ClassVar[int] = 500
    code: ErrorCode = ErrorCode.INTERNAL

    def __init__(
        self,
        message: str,
        *,
        code: ErrorCode | None = None,
        field: str | None = None,
        retry_after_ms: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.code
        self.field = field
        self.retry_after_ms = retry_after_ms


class MalformedRequest(ServiceError):  # noqa: N818 - the family reads as answers, not as errors
    status, code = 400, ErrorCode.MALFORMED


class Unauthenticated(ServiceError):  # noqa: N818
    status, code = 401, ErrorCode.UNAUTHENTICATED


class Forbidden(ServiceError):  # noqa: N818
    status, code = 403, ErrorCode.FORBIDDEN


class NotFound(ServiceError):  # noqa: N818
    status, code = 404, ErrorCode.NOT_FOUND


class TooLarge(ServiceError):  # noqa: N818
    status, code = 413, ErrorCode.TOO_LARGE


class RequestTimeout(ServiceError):  # noqa: N818
    status, code = 408, ErrorCode.TIMEOUT


class Unsupported(ServiceError):  # noqa: N818
    status, code = 415, ErrorCode.UNSUPPORTED


class HeadersTooLarge(ServiceError):  # noqa: N818
    status, code = 431, ErrorCode.TOO_LARGE


class InvalidRequest(ServiceError):  # noqa: N818
    status, code = 422, ErrorCode.INVALID


class Overloaded(ServiceError):  # noqa: N818
    status, code = 429, ErrorCode.OVERLOADED


class RateLimited(ServiceError):  # noqa: N818
    """More than the caller's API key allows, which is ``limit`` in so many ``seconds``."""

    status, code = 429, ErrorCode.RATE_LIMITED

    def __init__(self, message: str, *, limit: float, seconds: int, retry_after_ms: int) -> None:
        super().__init__(message, retry_after_ms=retry_after_ms)
        self.limit, self.seconds = limit, seconds


class Unavailable(ServiceError):  # noqa: N818
    status, code = 503, ErrorCode.UNAVAILABLE


def no_release() -> Unavailable:
    """The answer while no release is loaded."""
    return Unavailable("no release is loaded", code=ErrorCode.NO_RELEASE, retry_after_ms=1000)


class RedisUnavailable(Exception):  # noqa: N818 - a state of Redis, not a fault of the caller
    """Redis gave no complete answer in time. What it had already acknowledged stays done."""
