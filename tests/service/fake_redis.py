"""A Redis that says what a test wants it to say, over a real socket."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing, suppress

import hiredis

Answer = Callable[[list[bytes]], bytes | Awaitable[bytes]]


@asynccontextmanager
async def server(answer: Answer, context: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """A port at which commands are answered with the bytes of ``answer``; what redis-py sends first, with OK."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        commands = hiredis.Reader()
        with closing(writer), suppress(OSError):
            while data := await reader.read(65536):
                commands.feed(data)
                while (command := commands.gets()) is not False:
                    reply = b"+OK\r\n" if command[0] in (b"CLIENT", b"AUTH", b"SELECT") else answer(command)
                    reply = reply if isinstance(reply, bytes) else await reply
                    if reply == b"":
                        return
                    writer.write(reply)

    started = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield started.sockets[0].getsockname()[1]
    finally:
        started.close()
        await asyncio.sleep(0.05)  # for the other ends to see that they are closed
