"""Goal 5: what a second process of the service adds, and what each takes of the memory.

The machine has two cores, and the load generator and Redis need some of them. What is compared is therefore requests
per second of the service's own processor time, all its processes together: two workers on two free cores answer twice
what this says, over what it says for one. Workers may run on both cores here, and so may what asks them.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from bench.serving.installed import LOAD_CORE, SERVER_CORE, CannotMeasureError, Laboratory
from bench.serving.large import large
from bench.serving.processes import awake, memory, of_one, pause, settle, tree
from bench.serving.servers import Server, closed, ours
from bench.serving.spread import Spread, table
from service.settings import Settings

COMPARED, HELD = (1, 2), (1, 2, 3)
COUNT, CONNECTIONS = 500, 16
BOTH = (SERVER_CORE, LOAD_CORE)


def measure(laboratory: Laboratory) -> dict[str, Any]:
    """By number of workers: results of the rounds, and MB of all processes at rest after some requests.
    CannotMeasureError if the service does not know the setting."""
    if "workers" not in Settings.model_fields:
        raise CannotMeasureError("the service has no setting LORANK_WORKERS")
    world, effort = laboratory.world(large(laboratory)), laboratory.effort
    bodies = world.bodies("top50", COUNT)
    rounds: dict[str, list[dict[str, Any]]] = {}
    held: dict[str, dict[str, float]] = {}
    with ours(world):  # or the first to be measured would also hold what it needed to read a million items
        pass
    for number in HELD:
        with ours(world, {"workers": str(number)}, BOTH) as server:
            settle(server.pid)
            closed(server, bodies, effort.seconds, CONNECTIONS)
            held[str(number)] = memory(server.pid) | {"processes": float(len(tree(server.pid)))}
    with ExitStack() as stack:
        servers: dict[int, Server] = {}
        for number in COMPARED:
            servers[number] = stack.enter_context(ours(world, {"workers": str(number)}, BOTH))
            settle(servers[number].pid)
            pause(servers[number].pid)
        for at in range(effort.rounds):
            for number in COMPARED if at % 2 == 0 else reversed(COMPARED):
                server = servers[number]
                with awake(server.pid):
                    before = {one: of_one(one) for one in tree(server.pid)}
                    found = closed(server, bodies, effort.seconds, CONNECTIONS)
                    each = sorted(of_one(one) - seconds for one, seconds in before.items())
                share = each[-number] / each[-1] if each[-1] else 0.0
                rounds.setdefault(str(number), []).append(found | {"least_over_most": share})
    return {"rounds": rounds, "memory": held, "items": world.world.items}


def per_cpu_second(found: dict[str, Any], number: int) -> Spread:
    """Requests per second of processor time."""
    return Spread.of([1000 / one["cpu_ms"] for one in found["rounds"][str(number)]])


def gain(found: dict[str, Any]) -> Spread:
    """Two workers over one, given a core for each: round by round."""
    rounds = zip(found["rounds"]["1"], found["rounds"]["2"], strict=True)
    return Spread.of([2 * one["cpu_ms"] / two["cpu_ms"] for one, two in rounds])


def growth(found: dict[str, Any]) -> float:
    """Memory of a further worker as part of that of one: the mean of the second and the third."""
    held = found["memory"]
    return float((held["3"]["pss"] - held["1"]["pss"]) / 2 / held["1"]["pss"])


def section(found: dict[str, Any]) -> str:
    speed = []
    for number, each in found["rounds"].items():
        rates, even = (Spread.of([one[field] for one in each]) for field in ("requests_per_second", "least_over_most"))
        of_cpu = per_cpu_second(found, int(number))
        speed.append((number, f"{of_cpu:.0f}", f"{rates:.0f}", f"{even:.2f}" if int(number) > 1 else ""))
    held = [
        (number, f"{one['processes']:.0f}", f"{one['pss']:.0f}", f"{one['rss']:.0f}")
        for number, one in found["memory"].items()
    ]
    first = table(
        ("workers", f"requests per processor second, {COUNT} candidates", "requests/s on this machine",
         "least busy over busiest worker"), speed,
    )  # fmt: skip
    second = table(("workers", "processes", "memory (PSS), MB", "summed RSS, MB"), held)
    return (
        f"{first}\n\nTwo workers give {gain(found)} times what one gives, a core for each.\n\n{second}\n\n"
        f"At {found['items']:,} items a further worker adds {growth(found):.1%}."
    )
