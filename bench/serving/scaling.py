"""Goal 4: what a request costs by number of candidates, of the user's events, of items and of users.

The cost is the processor time of the service's process, in milliseconds per request, under closed-loop load of one
connection; beside it the median latency, which has Redis and the load generator in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from bench.serving.installed import CANDIDATES, LARGE_SPACES, Installed, Workbench
from bench.serving.line import Line
from bench.serving.processes import awake, pause
from bench.serving.results import Numbers
from bench.serving.servers import Server, closed, ours
from bench.serving.spread import Spread, markdown_table
from bench.serving.world import World
from models.contract.events import EVENT_DTYPE, item_hash, owner_tag

COUNTS_OF_CANDIDATES = (1, 10, 50, 100, 200, 500, 1000, 2000)
EVENTS = (0, 50, 200, 1000, 10_000)
USERS_OF_EACH = 20
SHARED_EVENTS = 20
"""Events of each user where users are counted: fewer than elsewhere, or the log would be large."""

Curve = dict[str, list[dict[str, float]]]


def measure_scaling(workbench: Workbench) -> Numbers:
    """Curve ("candidates") -> x, as text -> results of the rounds, as ``closed`` gives them."""
    effort, world = workbench.effort, workbench.world(World())
    with ours(world) as server:
        candidates = _alternating(
            {str(n): (server, world.bodies("top50", n)) for n in COUNTS_OF_CANDIDATES}, effort.rounds, effort.seconds
        )
        with _histories(world) as bodies:
            events = _alternating({str(n): (server, path) for n, path in bodies.items()}, effort.rounds, effort.seconds)
    items = _of_worlds(workbench, {n: World(items=n, spaces=LARGE_SPACES) for n in effort.item_counts})
    users = _of_worlds(workbench, {n: World(users=n, events=SHARED_EVENTS) for n in effort.user_counts})
    curves = {"candidates": candidates, "events": events, "items": items, "users": users}
    return curves | {"history_length": world.history_length}


def _alternating(cases: dict[str, tuple[Server, Path]], rounds: int, seconds: float) -> Curve:
    numbers: Curve = {name: [] for name in cases}
    for number in range(rounds):
        for name in cases if number % 2 == 0 else reversed(cases):
            server, bodies = cases[name]
            numbers[name].append(closed(server, bodies, seconds, connections=1))
    return numbers


def _of_worlds(workbench: Workbench, worlds: dict[int, World]) -> Curve:
    """Each world has its service; one runs at a time."""
    numbers: Curve = {str(n): [] for n in worlds}
    with ExitStack() as stack:
        cases = {}
        for n, world in worlds.items():
            installed = workbench.world(world)
            server = stack.enter_context(ours(installed))
            pause(server.pid)
            cases[str(n)] = (server, installed.bodies("top50", CANDIDATES))
        for number in range(workbench.effort.rounds):
            for name in cases if number % 2 == 0 else reversed(cases):
                server, bodies = cases[name]
                with awake(server.pid):
                    numbers[name].append(closed(server, bodies, workbench.effort.seconds, connections=1))
    return numbers


@contextmanager
def _histories(world: Installed) -> Iterator[dict[int, Path]]:
    """Requests of users with so many events, whose own histories come back afterwards."""
    users, bodies, before = iter(world.world.user_ids), {}, {}
    hashes = np.array([item_hash(item) for item in world.world.item_ids], np.uint64)
    for count in EVENTS:
        chosen = [next(users) for _ in range(USERS_OF_EACH)]
        for user in chosen:
            key = world.store.keys.user_history(user)
            before[key] = world.store.redis.get(key)
            world.store.redis.set(key, history(user, hashes, count))
        bodies[count] = world.bodies(f"history-{count}", CANDIDATES, chosen)
    try:
        yield bodies
    finally:
        for key, blob in before.items():
            world.store.redis.set(key, blob or b"")


def history(user: str, hashes: np.ndarray[Any, np.dtype[np.uint64]], count: int) -> bytes:
    """A live history of random items, as the contract packs it."""
    random, events = np.random.default_rng(count), np.zeros(count, EVENT_DTYPE)
    events["item"] = random.choice(hashes, count)
    events["time_ms"] = 1_600_000_000_000 + 1000 * np.arange(count)
    events["owner"] = owner_tag(user)
    events["value"] = random.integers(1, 6, count)
    return events.tobytes()


def line(numbers: Numbers) -> Line:
    """Cost over candidates: of all rounds."""
    points = [(float(n), numbers_of["cpu_ms"]) for n, each in numbers["candidates"].items() for numbers_of in each]
    return Line.through([x for x, _ in points], [y for _, y in points])


def history_ratio(numbers: Numbers, field: str = "cpu_ms") -> Spread:
    """The longest history over one of 50 events, round by round."""
    rounds = zip(numbers["events"]["10000"], numbers["events"]["50"], strict=True)
    return Spread.of([longest[field] / there[field] for longest, there in rounds])


def scaling_section(numbers: Numbers) -> str:
    fitted = line(numbers)
    text = (
        f"A request costs {fitted.fixed:.3f} ms (95 %: {fitted.low:.3f} to {fitted.high:.3f}) and "
        f"{fitted.slope * 1000:.2f} us per candidate, R² {fitted.fit:.4f}; a user with 10,000 events "
        f"{history_ratio(numbers)} times one with 50 (the model reads the last {numbers['history_length']:,})."
    )
    parts = [text]
    at = f"{CANDIDATES} candidates"
    names = {
        "candidates": "candidates (200 events)",
        "events": f"events of the user ({at})",
        "items": f"items ({at}, {len(LARGE_SPACES)} spaces)",
        "users": f"users ({at}, {SHARED_EVENTS} events)",
    }
    for curve, label in names.items():
        rows = []
        for x, each in numbers[curve].items():
            cost, p50 = (Spread.of([run[field] for run in each]) for field in ("cpu_ms", "p50"))
            rows.append((f"{int(x):,}", f"{cost:.3f}", f"{p50:.2f}"))
        parts.append(markdown_table((label, "processor time per request, ms", "p50, ms"), rows))
    return "\n\n".join(parts)


def middles(curve: Curve) -> tuple[Sequence[int], Sequence[Spread]]:
    """x and cost in milliseconds."""
    return [int(x) for x in curve], [Spread.of([run["cpu_ms"] for run in each]) for each in curve.values()]
