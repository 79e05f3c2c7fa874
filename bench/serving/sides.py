"""Goal 1: ours, others' servers and the bare model side by side, the same ONNX file in all of them.

Every server runs from the start, paused; only the one whose turn it is goes on. The order turns round by round.
"""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from typing import Any

from bench.serving.installed import TOP_50, Installed, Laboratory
from bench.serving.plain_files import lay_out
from bench.serving.processes import awake, pause
from bench.serving.servers import PEERS, Server, bare, closed, ours, peer
from bench.serving.spread import Spread, table
from bench.serving.world import World

COUNTS = (100, 500)
KINDS = {"top50": TOP_50, "all": {}}


def measure(laboratory: Laboratory) -> dict[str, Any]:
    """Case ("500 top50") -> server -> results of the rounds, as ``closed`` gives them."""
    world, effort = laboratory.world(World()), laboratory.effort
    plain = asyncio.run(lay_out(world, COUNTS))
    bodies = {
        f"{count} {kind}": world.bodies(kind, count, more=more) for count in COUNTS for kind, more in KINDS.items()
    }
    found: dict[str, dict[str, list[Any]]] = {case: {} for case in bodies}
    with ExitStack() as stack:
        servers = paused(laboratory, world, stack)
        for number in range(effort.rounds):
            for count in COUNTS:
                cases = [case for case in bodies if case.startswith(f"{count} ")]
                for name in [*servers, "bare"] if number % 2 == 0 else ["bare", *reversed(servers)]:
                    if name == "bare":
                        alone = bare(plain, str(count), effort.seconds)
                        for case in cases:
                            found[case].setdefault(name, []).append(alone)
                        continue
                    with awake(servers[name].pid):
                        for case in cases:
                            one = closed(servers[name], bodies[case], effort.seconds)
                            found[case].setdefault(name, []).append(one)
    return {"cases": found}


def paused(laboratory: Laboratory, world: Installed, stack: ExitStack) -> dict[str, Server]:
    """Ours and every peer that can be started, by name. One is paused before the next is started."""
    servers = {"ours": stack.enter_context(ours(world))}
    pause(servers["ours"].pid)
    names = PEERS if laboratory.peers else PEERS[:1]
    for name in names:
        servers[name] = stack.enter_context(peer(name, world, laboratory.peers or laboratory.scratch))
        pause(servers[name].pid)
    return servers


def ratios(found: dict[str, Any], case: str, name: str, other: str) -> Spread:
    """Requests per second of one over those of another, round by round."""
    rounds = zip(found["cases"][case][name], found["cases"][case][other], strict=True)
    return Spread.of([one["requests_per_second"] / there["requests_per_second"] for one, there in rounds])


def section(found: dict[str, Any]) -> str:
    parts = []
    for case, servers in found["cases"].items():
        rows = []
        for name, each in servers.items():
            rates = Spread.of([one["requests_per_second"] for one in each])
            tail = f"{Spread.of([one['p99'] for one in each]).middle:.2f}" if "p99" in each[0] else ""
            of_bare = str(ratios(found, case, name, "bare")) if name != "bare" else ""
            of_plain = str(ratios(found, case, name, "plain FastAPI")) if name == "ours" else ""
            rows.append((name, f"{rates:.0f}", of_bare, of_plain, tail))
        count, kind = case.split()
        answered = "the first 50" if kind == "top50" else "all"
        head = (f"{count} candidates, {answered} answered", "requests/s", "of bare", "of plain FastAPI", "p99, ms")
        parts.append(table(head, rows))
    return "\n\n".join(parts)
