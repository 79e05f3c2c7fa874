"""Routes about users, and about what service and jobs tell each other: forgetting, export, opting out, requests to the
next job, reports."""

from __future__ import annotations

from typing import Any, Literal
from urllib.parse import unquote_to_bytes

from fastapi import Request
from msgspec import UNSET, Struct, UnsetType
from msgspec.json import Decoder
from starlette.responses import Response

from models.contract.requests import JobRequest, RequestKind
from service.access import Scope
from service.api import answers
from service.api.fast_path import FastPathApp
from service.api.parsing import body_of, checked_id, new_request_id
from service.api.routes import Service, answer_schema, answered, read_body, secured
from service.errors import ErrorCode, InvalidRequest, NotFound, RedisUnavailable, Unavailable
from service.logs import note_request

MOST_BODY_BYTES = 4096


class RequestBody(Struct, forbid_unknown_fields=True):
    """What the next job is asked for. A user is forgotten by DELETE."""

    kind: Literal["close_partition", "dry_run"]
    user_id: str | int | None = None


class RequestReply(Struct, kw_only=True):
    """A request to the next job; for a user who is forgotten it is the receipt.

    removed  records that are gone, by the store they were in
    returned    records that came back since then, and were deleted now; of a receipt that is looked at
    """

    id: str
    kind: str
    user_id: str | UnsetType = UNSET
    state: str
    asked_ms: int
    changed_ms: int
    asked_by: str
    removed: dict[str, int]
    remaining: list[str]
    note: str
    returned: dict[str, int] | UnsetType = UNSET


class RequestsReply(Struct):
    requests: list[RequestReply]


class ReportReply(Struct):
    name: str
    kind: str
    made_ms: int
    body: dict[str, Any]


class ReportName(Struct):
    name: str
    kind: str
    made_ms: int


class ReportsReply(Struct):
    reports: list[ReportName]


class OptOutReply(Struct):
    user_id: str
    opted_out: bool


class ExportReply(Struct):
    """What is stored of a user, readable.

    stored       in Redis, now
    work_folder  in the work folder of the jobs, when a job last told; null if none did, or 30 days ago
    elsewhere    what is not in here, and where to look for it
    """

    user_id: str
    made_ms: int
    tombstone: dict[str, Any] | None
    stored: dict[str, Any]
    work_folder: dict[str, Any] | None
    elsewhere: list[str]


REPLIES = (RequestReply, RequestsReply, ReportReply, ReportsReply, OptOutReply, ExportReply, RequestBody)

_REQUEST = Decoder(RequestBody)


async def delete_user(service: Service, request: Request) -> Response:
    """Delete a user: everything older than now, in Redis and in all processes, before this is answered.

    The answer is the receipt of a request to the next job, which removes the user from what the jobs store. A tombstone
    keeps what is older than now from coming back. `remaining` says what is left.
    """
    receipt = await service.erasure.forget(_user_in(request), _asker(request))
    return answers.json_response(_reply(receipt), status=202)


async def opt_out(service: Service, request: Request) -> Response:
    """Delete a user as DELETE does, and store nothing of them from now on: they are ranked as somebody unknown."""
    receipt = await service.erasure.forget(_user_in(request), _asker(request), opt_out=True)
    return answers.json_response(_reply(receipt), status=202)


async def opt_in(service: Service, request: Request) -> Response:
    """Let a user who opted out be remembered again, from now on."""
    user_id = _user_in(request)
    await service.erasure.opt_in(user_id)
    return answers.json_response(OptOutReply(user_id, opted_out=False))


async def export(service: Service, request: Request) -> Response:
    """Everything that Redis holds of a user, readable, and what lies in the work folder of the jobs if a job was asked
    for it by POST."""
    release = service.live.current()
    document = await service.erasure.export(_user_in(request), None if release is None else release.table)
    return answers.json_response(document)


async def ask_export(service: Service, request: Request) -> Response:
    """Ask the next job for what its work folder has of a user, which the export has then for 30 days."""
    asked = await service.erasure.ask(JobRequest.new(RequestKind.EXPORT, _user_in(request), _asker(request)))
    return answers.json_response(_reply(asked), status=202)


async def ask(service: Service, request: Request) -> Response:
    """Ask the next job for something: a dry run, or a user's open partition to be closed. Where a request for the same
    is open already, the answer is that one."""
    body = body_of(_REQUEST, await read_body(request, MOST_BODY_BYTES))
    kind = RequestKind(body.kind)
    if (body.user_id is None) is (kind is RequestKind.CLOSE_PARTITION):
        demand = "names its user" if kind is RequestKind.CLOSE_PARTITION else "is about no user"
        raise InvalidRequest(f"a request of the kind {body.kind} {demand}", field="user_id")
    user_id = None if body.user_id is None else checked_id(body.user_id, "user_id")
    asked = await service.erasure.ask(JobRequest.new(kind, user_id, _asker(request)))
    return answers.json_response(_reply(asked), status=202)


async def requests(service: Service, request: Request) -> Response:
    """The newest requests to the jobs, newest first."""
    return answers.json_response(RequestsReply([_reply(each) for each in await service.erasure.requests.all()]))


async def receipt(service: Service, request: Request) -> Response:
    """A request to the jobs as it is now. That of a forgotten user is verified: what came back meanwhile is deleted
    again, and is in `returned`."""
    asked, returned = await service.erasure.receipt(request.path_params["request_id"])
    reply = _reply(asked)
    if asked.kind is RequestKind.FORGET:
        reply.returned = returned
    return answers.json_response(reply)


async def reports(service: Service, request: Request) -> Response:
    """Names of the newest reports of the jobs, newest first."""
    names = [
        ReportName(report.name, report.kind, report.made_ms) for report in await service.erasure.requests.reports()
    ]
    return answers.json_response(ReportsReply(names))


async def single_report(service: Service, request: Request) -> Response:
    """One report of a job."""
    stored = await service.erasure.requests.report(request.path_params["name"])
    return answers.json_response(ReportReply(stored.name, stored.kind, stored.made_ms, dict(stored.body)))


def mount(app: FastPathApp, *, requires_keys: bool) -> None:
    """Put the routes on ``app``."""
    for method, path, endpoint, scope, reply, status in (
        ("DELETE", "/v1/users/{user_id:path}", delete_user, Scope.ADMIN, "RequestReply", 202),
        ("PUT", "/v1/users/{user_id:path}/opt-out", opt_out, Scope.ADMIN, "RequestReply", 202),
        ("PUT", "/v1/users/{user_id:path}/opt-in", opt_in, Scope.ADMIN, "OptOutReply", 200),
        ("GET", "/v1/users/{user_id:path}/export", export, Scope.ADMIN, "ExportReply", 200),
        ("POST", "/v1/users/{user_id:path}/export", ask_export, Scope.ADMIN, "RequestReply", 202),
        ("POST", "/v1/requests", ask, Scope.PUBLISH, "RequestReply", 202),
        ("GET", "/v1/requests", requests, Scope.ADMIN, "RequestsReply", 200),
        ("GET", "/v1/requests/{request_id}", receipt, Scope.ADMIN, "RequestReply", 200),
        ("GET", "/v1/reports", reports, Scope.ADMIN, "ReportsReply", 200),
        ("GET", "/v1/reports/{name}", single_report, Scope.ADMIN, "ReportReply", 200),
    ):  # fmt: skip
        page = _documented(path, reply, status, has_body=endpoint is ask, requires_keys=requires_keys)
        answer = answered(path.replace(":path", ""), _with_redis(endpoint), scope)
        app.add_api_route(path, answer, methods=[method], status_code=status, openapi_extra=page)
        if method == "GET":
            app.head(path, include_in_schema=False)(answer)


def _with_redis(endpoint: Any) -> Any:
    """An endpoint that is of no use without Redis, which its failure then says."""

    async def call(service: Service, request: Request) -> Response:
        request_id = new_request_id()
        note_request(request_id)
        try:
            response: Response = await endpoint(service, request)
        except RedisUnavailable as error:
            raise Unavailable(
                f"Redis gives no answer: {error}", code=ErrorCode.REDIS_UNAVAILABLE, retry_after_ms=1000
            ) from error
        response.headers[answers.REQUEST_ID_HEADER] = request_id
        return response

    call.__name__, call.__doc__ = endpoint.__name__, endpoint.__doc__
    return call


def _asker(request: Request) -> str:
    """Who asks, by name and id of the API key; "" where none is needed."""
    return "" if request.state.key is None else str(request.state.key)


def _user_in(request: Request) -> str:
    """The user of the path, as it was sent: an id may hold an escaped slash."""
    raw: bytes = request.scope.get("raw_path") or request.scope["path"].encode()
    segments = raw.partition(b"?")[0].removeprefix(b"/").split(b"/")
    suffix = request.scope["route"].path.partition("{user_id:path}")[2]
    if len(segments) != (4 if suffix else 3) or not segments[2]:
        raise NotFound("an id with a slash is sent with %2F in place of it")
    try:
        return checked_id(unquote_to_bytes(segments[2]).decode(), "user_id")
    except UnicodeDecodeError as error:
        raise InvalidRequest("an id is UTF-8", field="user_id") from error


def _reply(request: JobRequest) -> RequestReply:
    return RequestReply(
        id=request.id,
        kind=request.kind,
        user_id=UNSET if request.user_id is None else request.user_id,
        state=request.state,
        asked_ms=request.asked_ms,
        changed_ms=request.changed_ms,
        asked_by=request.asked_by,
        removed=dict(request.removed),
        remaining=list(request.remaining),
        note=request.note,
    )


def _documented(path: str, reply: str, status: int, *, has_body: bool, requires_keys: bool) -> dict[str, Any]:
    """The part of the OpenAPI page that the routes cannot declare."""
    names = [part.strip("{}").partition(":")[0] for part in path.split("/") if part.startswith("{")]
    answers_of = {
        str(status): answer_schema("Successful Response", reply),
        "404": answer_schema("There is none", "ErrorReply"),
        "422": answer_schema("The request is invalid; `field` says where", "ErrorReply"),
        "503": answer_schema("Redis is not there, or too many requests wait", "ErrorReply"),
    }
    page: dict[str, Any] = {
        "parameters": [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names],
        "responses": answers_of,
    }
    if has_body:
        body = answer_schema("", "RequestBody")["content"]
        page["requestBody"] = {"required": True, "content": body}
        for code, text in (("400", "The body is not JSON"), ("413", "The body is too large"),
                           ("415", "The body is compressed, or not UTF-8")):  # fmt: skip
            page["responses"][code] = answer_schema(text, "ErrorReply")
    if requires_keys:
        extra = secured()
        page = extra | page | {"responses": extra["responses"] | page["responses"]}
    return page
