"""The walk of the value ``candidates`` of one rank request: from the HTTP body to the model, and back to the answer.

usage: python -m tests.service.walk
"""

from __future__ import annotations

import asyncio
import dis
import inspect
import json
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pydantic
import redis
from fastapi import FastAPI
from starlette.responses import Response

from models.contract.keys import Keys
from models.valkey.embedded import embedded_redis
from service.app import create_app
from service.settings import Settings
from tests.service.tiny import Publisher

ROOT = Path(__file__).parents[2]

CANDIDATES = tuple(f"candidate-{at:02}" for at in range(29))
"""Their number is the length of nothing else that a request of the tiny release touches."""

_DEPTH = 4


class Hop(NamedTuple):
    """An uninterrupted stay in one file: the file from the root of the checkout, and the first function there."""

    file: str
    function: str


class Walk:
    """Counts how often ``candidates``, or what was made of them, crosses from one file of ours into another.

    A function of ``service`` or ``models`` has the candidates in hand from the moment at which it is called with them,
    or at which something that it calls returns them, until it returns. A value holds the candidates if it is

    - bytes or text with every one of their ids,
    - an array with an axis, or a collection, of as many entries as there are candidates (ids, rows, scores, positions),
    - or an object of ours, a struct, a collection or a response with such a value in it, down to four levels.

    The innermost function that has them says in which file they are; functions without them, and those of libraries,
    are looked through. A coroutine that waits stays where it is. Hops are the files in their order, without repeats;
    crossings are the steps between them. Reading an attribute costs nothing, a property is a function.
    """

    def __init__(self) -> None:
        self.hops: list[Hop] = []
        self.model_at = 0
        self._frames: list[tuple[FrameType, bool]] = []
        self._task: asyncio.Task[Any] | None = None

    @property
    def crossings(self) -> int:
        return len(self.hops) - 1

    def markdown(self) -> str:
        """The hops as the numbered list of docs/architecture.md."""
        model = {self.model_at: ", and there ONNX Runtime"}
        lines = [
            f"{number}. `{hop.file}`: `{hop.function.replace('.<locals>.<listcomp>', '')}`{model.get(number, '')}\n"
            for number, hop in enumerate(self.hops, 1)
        ]
        files = len({hop.file for hop in self.hops})
        return "".join(lines) + f"\n{self.crossings} borders between files are crossed, of {files} files.\n"

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Follow what the running task calls. What other tasks do meanwhile, as the exposure log does, is not its."""
        self._task = asyncio.current_task()
        sys.setprofile(self._event)
        try:
            yield
        finally:
            sys.setprofile(None)

    def _event(self, frame: FrameType, event: str, result: Any) -> None:
        if asyncio.current_task() is not self._task:
            return
        if event == "call":
            if frame.f_code.co_name == "run" and "onnxruntime" in frame.f_code.co_filename:
                self.model_at = len(self.hops)
            elif _file(frame.f_code) and not any(frame is known for known, _ in self._frames):
                self._called(frame)
        elif event == "return" and _file(frame.f_code) and not _is_suspended(frame):
            self._returned(frame, result)

    def _called(self, frame: FrameType) -> None:
        has_them = any(_holds(value, _DEPTH) for value in _arguments(frame))
        if has_them:
            self._take()
        self._frames.append((frame, has_them))
        if has_them:
            self._note(frame)

    def _returned(self, frame: FrameType, result: Any) -> None:
        at = next((at for at, (known, _) in enumerate(self._frames) if known is frame), None)
        if at is None:
            return
        del self._frames[at:]
        if _holds(result, _DEPTH):
            self._note(frame)
            self._take()
        for holder in [known for known, has_them in self._frames if has_them][-1:]:
            self._note(holder)

    def _take(self) -> None:
        """The innermost function under way has the candidates now."""
        if self._frames:
            self._frames[-1] = (self._frames[-1][0], True)
            self._note(self._frames[-1][0])

    def _note(self, frame: FrameType) -> None:
        file = _file(frame.f_code)
        if not self.hops or self.hops[-1].file != file:
            self.hops.append(Hop(file, frame.f_code.co_qualname))


def _file(code: CodeType) -> str:
    """The file of a function of ours from the root of the checkout; "" for others."""
    file = code.co_filename.removeprefix(f"{ROOT}/")
    return file if file.startswith(("service/", "models/")) else ""


def _is_suspended(frame: FrameType) -> bool:
    """Whether a coroutine or generator that leaves its frame will come back to it."""
    return dis.opname[frame.f_code.co_code[frame.f_lasti]] in {"YIELD_VALUE", "INSTRUMENTED_YIELD_VALUE"}


def _arguments(frame: FrameType) -> list[Any]:
    given = inspect.getargvalues(frame)
    return [given.locals[name] for name in (*given.args, given.varargs, given.keywords) if name in given.locals]


def _holds(value: Any, depth: int) -> bool:
    """Whether a value holds the candidates, see ``Walk``."""
    if isinstance(value, bytes | str):
        text = value if isinstance(value, bytes) else value.encode()
        return all(name.encode() in text for name in CANDIDATES)
    if isinstance(value, np.ndarray):
        return len(CANDIDATES) in value.shape
    if isinstance(value, list | tuple | Mapping) and len(value) == len(CANDIDATES):
        return True
    return depth > 0 and any(_holds(part, depth - 1) for part in _parts(value))


def _parts(value: Any) -> Iterable[Any]:
    if isinstance(value, Mapping):
        return value.values()
    if isinstance(value, list | tuple):
        return value
    names: Iterable[str] = ()
    if isinstance(value, msgspec.Struct):
        names = value.__struct_fields__
    elif isinstance(value, pydantic.BaseModel):
        names = type(value).model_fields
    elif isinstance(value, Response):
        names = ("body",)
    elif is_dataclass(value):
        names = (field.name for field in fields(value))
    return [getattr(value, name, None) for name in names]


async def walk(app: FastAPI) -> Walk:
    """The walk of one rank request through an app inside its lifespan, called as a web server would."""
    body = json.dumps({"user_id": "u", "candidates": [{"id": name} for name in CANDIDATES]}).encode()
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/v1/rank", "headers": [], "query_string": b""}
    followed = Walk()
    with followed.watching():
        await app(scope, receive, send)
    answer = json.loads(sent[1]["body"])
    assert (sent[0]["status"], len(answer["items"])) == (200, len(CANDIDATES)), answer
    return followed


async def main() -> None:
    """Print the hops as the numbered list of docs/architecture.md."""
    with tempfile.TemporaryDirectory() as name, embedded_redis(Path(name) / "valkey") as url:
        settings = Settings(redis_url=url, key_prefix="walk", data_dir=Path(name), default_deadline_ms=5000.0)
        with redis.Redis.from_url(url) as client:
            Publisher(client, Keys("walk"), settings.artifact_folder).publish()
        app = create_app(settings)
        async with app.router.lifespan_context(app):
            followed = await walk(app)
    print(followed.markdown(), end="")


if __name__ == "__main__":
    asyncio.run(main())
