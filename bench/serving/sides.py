"""Goal 1: ours, others' servers and the bare model side by side, the same ONNX file in all of them.

Every server runs from the start, paused; only the one whose turn it is goes on. The order turns round by round.
"""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from typing import Any

from bench.serving.installed import TOP_50, Installed, Workbench
from bench.serving.plain_files import lay_out
from bench.serving.processes import awake, pause
from bench.serving.results import Numbers
from bench.serving.servers import PEERS, Server, bare, closed, ours, peer
from bench.serving.spread import Spread, markdown_table
from bench.serving.world import World

COUNTS = (100, 500)
KINDS = {"top50": TOP_50, "all": {}}


def measure_sides(workbench: Workbench) -> Numbers:
    """Case ("500 top50") -> server -> results of the rounds, as ``closed`` gives them."""
    world, effort = workbench.world(World()), workbench.effort
    plain = asyncio.run(lay_out(world, COUNTS))
    bodies = {
        f"{count} {kind}": world.bodies(kind, count, more=more) for count in COUNTS for kind, more in KINDS.items()
    }
    rounds_of: dict[str, dict[str, list[Any]]] = {case: {} for case in bodies}
    with ExitStack() as stack:
        servers = paused(workbench, world, stack)
        for number in range(effort.rounds):
            for count in COUNTS:
                cases = [case for case in bodies if case.startswith(f"{count} ")]
                for name in [*servers, "bare"] if number % 2 == 0 else ["bare", *reversed(servers)]:
                    if name == "bare":
                        alone = bare(plain, str(count), effort.seconds)
                        for case in cases:
                            rounds_of[case].setdefault(name, []).append(alone)
                        continue
                    with awake(servers[name].pid):
                        for case in cases:
                            numbers = closed(servers[name], bodies[case], effort.seconds)
                            rounds_of[case].setdefault(name, []).append(numbers)
    return {"cases": rounds_of}


def paused(workbench: Workbench, world: Installed, stack: ExitStack) -> dict[str, Server]:
    """Ours and every peer that can be started, by name. One is paused before the next is started."""
    servers = {"ours": stack.enter_context(ours(world))}
    pause(servers["ours"].pid)
    names = PEERS if workbench.peers else PEERS[:1]
    for name in names:
        servers[name] = stack.enter_context(peer(name, world, workbench.peers or workbench.scratch))
        pause(servers[name].pid)
    return servers


def ratios(numbers: Numbers, case: str, name: str, other: str) -> Spread:
    """Requests per second of one over those of another, round by round."""
    rounds = zip(numbers["cases"][case][name], numbers["cases"][case][other], strict=True)
    return Spread.of([ours["requests_per_second"] / there["requests_per_second"] for ours, there in rounds])


def sides_section(numbers: Numbers) -> str:
    parts = []
    for case, servers in numbers["cases"].items():
        rows = []
        for name, each in servers.items():
            rates = Spread.of([run["requests_per_second"] for run in each])
            tail = f"{Spread.of([run['p99'] for run in each]).middle:.2f}" if "p99" in each[0] else ""
            of_bare = str(ratios(numbers, case, name, "bare")) if name != "bare" else ""
            of_plain = str(ratios(numbers, case, name, "plain FastAPI")) if name == "ours" else ""
            rows.append((name, f"{rates:.0f}", of_bare, of_plain, tail))
        count, kind = case.split()
        answered = "the first 50" if kind == "top50" else "all"
        head = (f"{count} candidates, {answered} answered", "requests/s", "of bare", "of plain FastAPI", "p99, ms")
        parts.append(markdown_table(head, rows))
    return "\n\n".join(parts)
