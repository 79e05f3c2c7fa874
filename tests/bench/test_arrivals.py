"""The open-loop generator: who stalls is charged for all who would have come meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import numpy as np

from bench.serving.arrivals import arriving, due_at, summary

BODIES = [b'{"n": 1}', b'{"n": 22}']
Answer = Callable[[int, bytes], tuple[float, int]]


@asynccontextmanager
async def server(answer: Answer) -> AsyncIterator[str]:
    """The URL of a server that is told, by the number of a request and its body, how long to sleep and what status to
    answer; status 0 closes the connection."""
    seen = 0
    writers: list[asyncio.StreamWriter] = []
    turn = asyncio.Lock()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal seen
        writers.append(writer)
        while head := await reader.readuntil(b"\r\n\r\n"):
            length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
            body = await reader.readexactly(length)
            seen += 1
            async with turn:  # one request at a time, as on one core
                seconds, status = answer(seen, body)
                if seconds:
                    await asyncio.sleep(seconds)
            if not status:
                writer.close()
                return
            writer.write(f"HTTP/1.1 {status} X\r\nContent-Length: 2\r\n\r\n".encode())
            await asyncio.sleep(0)
            writer.write(b"ok")

    async def quietly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await talk(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    listening = await asyncio.start_server(quietly, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/rank"
    finally:
        for writer in writers:
            writer.close()
        listening.close()
        await listening.wait_closed()


async def test_every_request_is_answered_once_and_bodies_take_turns() -> None:
    bodies = []

    def answer(number: int, body: bytes) -> tuple[float, int]:
        bodies.append(body)
        return 0.0, 200

    async with server(answer) as url:
        numbers = summary(await arriving(url, BODIES, due_at(400, 0.25, "constant", 0), connections=4))
    assert (numbers["requests"], numbers["failed"]) == (100, 0)
    assert sorted(bodies) == sorted(BODIES * 50)


async def test_a_stall_is_charged_to_all_who_were_due_meanwhile() -> None:
    """Of 100 requests, one each 5 ms, the 20th takes 200 ms: some forty more were due before it ended."""
    async with server(lambda number, _: (0.2 if number == 20 else 0.0, 200)) as url:
        arrived = await arriving(url, BODIES, due_at(200, 0.5, "constant", 0), connections=2)
    late = arrived.latency > 0.02
    assert arrived.well.all()
    assert late.sum() >= 30
    assert arrived.latency.max() >= 0.2
    # Those that found both connections taken have no lag of the generator's own, but a latency all the same.
    assert np.isnan(arrived.lag).sum() >= 20
    assert summary(arrived)["waited"] == np.isnan(arrived.lag).sum()


async def test_refusals_and_lost_connections_are_failures() -> None:
    answers = {3: 503, 5: 0}
    async with server(lambda number, _: (0.0, answers.get(number, 200))) as url:
        arrived = await arriving(url, BODIES, due_at(100, 0.1, "constant", 0), connections=2)
    numbers = summary(arrived)
    assert (numbers["requests"], numbers["failed"]) == (10, 2)
    assert np.isinf(arrived.latency).sum() == 1


def test_arrivals_are_as_many_as_asked_for() -> None:
    constant, poisson = due_at(100, 2, "constant", 0), due_at(100, 2, "poisson", 1)
    assert len(constant) == len(poisson) == 200
    assert np.allclose(np.diff(constant), 0.01)
    assert (np.diff(poisson) > 0).all()
    assert np.std(np.diff(poisson)) > 0.005
    assert (due_at(100, 2, "poisson", 1) == poisson).all()
