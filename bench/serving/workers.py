"""Goal 5: what a second process of the service adds, and what each takes of the memory.

The machine has two cores, and the load generator and Redis need some of them. What is compared is therefore requests
per second of the service's own processor time, all its processes together: two workers on two free cores answer twice
what this says, over what it says for one. Workers may run on both cores here, and so may what asks them.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from bench.serving.installed import CANDIDATES, LOAD_CORE, SERVER_CORE, CannotMeasureError, Workbench
from bench.serving.processes import awake, memory, of_one, pause, settle, tree
from bench.serving.results import Numbers
from bench.serving.servers import Server, closed, ours
from bench.serving.spread import Spread, markdown_table
from service.settings import Settings

COMPARED, HELD = (1, 2), (1, 2, 3)
CONNECTIONS = 16
BOTH = (SERVER_CORE, LOAD_CORE)


def measure_workers(workbench: Workbench) -> Numbers:
    """By number of workers: results of the rounds, and MB of all processes at rest after some requests.
    CannotMeasureError if the service does not know the setting."""
    if "workers" not in Settings.model_fields:
        raise CannotMeasureError("the service has no setting LORANK_WORKERS")
    world, effort = workbench.large_world(), workbench.effort
    bodies = world.bodies("top50", CANDIDATES)
    rounds: dict[str, list[dict[str, Any]]] = {}
    megabytes: dict[str, dict[str, float]] = {}
    with ours(world):  # or the first to be measured would also hold what it needed to read a million items
        pass
    for number in HELD:
        with ours(world, {"workers": str(number)}, BOTH) as server:
            settle(server.pid)
            closed(server, bodies, effort.seconds, CONNECTIONS)
            megabytes[str(number)] = memory(server.pid) | {"processes": float(len(tree(server.pid)))}
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
                    before = {process: of_one(process) for process in tree(server.pid)}
                    load = closed(server, bodies, effort.seconds, CONNECTIONS)
                    each = sorted(of_one(process) - seconds for process, seconds in before.items())
                share = each[-number] / each[-1] if each[-1] else 0.0
                rounds.setdefault(str(number), []).append(load | {"least_over_most": share})
    return {"rounds": rounds, "memory": megabytes, "items": world.world.items}


def per_cpu_second(numbers: Numbers, number: int) -> Spread:
    """Requests per second of processor time."""
    return Spread.of([1000 / run["cpu_ms"] for run in numbers["rounds"][str(number)]])


def gain(numbers: Numbers) -> Spread:
    """Two workers over one, given a core for each: round by round."""
    rounds = zip(numbers["rounds"]["1"], numbers["rounds"]["2"], strict=True)
    return Spread.of([2 * alone["cpu_ms"] / both["cpu_ms"] for alone, both in rounds])


def growth(numbers: Numbers) -> float:
    """Memory of a further worker as part of that of one: the mean of the second and the third."""
    memory = numbers["memory"]
    return float((memory["3"]["pss"] - memory["1"]["pss"]) / 2 / memory["1"]["pss"])


def workers_section(numbers: Numbers) -> str:
    speed = []
    for number, each in numbers["rounds"].items():
        rates, even = (Spread.of([run[field] for run in each]) for field in ("requests_per_second", "least_over_most"))
        of_cpu = per_cpu_second(numbers, int(number))
        speed.append((number, f"{of_cpu:.0f}", f"{rates:.0f}", f"{even:.2f}" if int(number) > 1 else ""))
    memory_rows = [
        (number, f"{megabytes['processes']:.0f}", f"{megabytes['pss']:.0f}", f"{megabytes['rss']:.0f}")
        for number, megabytes in numbers["memory"].items()
    ]
    first = markdown_table(
        ("workers", f"requests per processor second, {CANDIDATES} candidates", "requests/s on this machine",
         "least busy over busiest worker"), speed,
    )  # fmt: skip
    second = markdown_table(("workers", "processes", "memory (PSS), MB", "summed RSS, MB"), memory_rows)
    return (
        f"{first}\n\nTwo workers give {gain(numbers)} times what one gives, a core for each.\n\n{second}\n\n"
        f"At {numbers['items']:,} items a further worker adds {growth(numbers):.1%}."
    )
