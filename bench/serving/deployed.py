"""Goal 2: the service beside the DIN that people deploy, behind plain FastAPI: see bench/serving/deployed_models.py."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from bench.serving import deployed_models
from bench.serving.installed import Laboratory
from bench.serving.processes import awake, pause
from bench.serving.servers import Server, bare, closed, free_port, ours, started, uvicorn
from bench.serving.spread import Spread, table
from bench.serving.world import World

COUNT = 500
NAMES = {
    "din": "DIN (FuxiCTR), 30 events",
    "attention": "DIN, 50 events, 64-d vectors, attention by an MLP",
}


def measure(laboratory: Laboratory) -> dict[str, Any]:
    """Requests per second of ours, of each model behind FastAPI and of each alone ("din bare"), by round."""
    world, effort = laboratory.world(World()), laboratory.effort
    folders = deployed_models.lay_out(world, COUNT)
    bodies = world.bodies("deployed", COUNT)
    rates: dict[str, list[float]] = {}
    with ExitStack() as stack:
        servers: dict[str, Server] = {"ours": stack.enter_context(ours(world))}
        pause(servers["ours"].pid)
        for name, folder in folders.items():
            port = free_port()
            environment = {"DEPLOYED": str(folder), "DEPLOYED_REDIS": world.url}
            command = uvicorn("bench.serving.deployed_app:app", port)
            servers[name] = stack.enter_context(started(command, environment, port, "/docs", "/rank"))
            pause(servers[name].pid)
        for number in range(effort.rounds):
            for name in servers if number % 2 == 0 else reversed(servers):
                with awake(servers[name].pid):
                    one = closed(servers[name], bodies, effort.seconds)
                rates.setdefault(name, []).append(one["requests_per_second"])
                if name in folders:
                    alone = bare(folders[name], "deployed", effort.seconds)
                    rates.setdefault(f"{name} bare", []).append(alone["requests_per_second"])
    return {"count": COUNT, "rates": rates}


def ratio(found: dict[str, Any], name: str) -> Spread:
    """Ours over a deployed model, round by round."""
    rates = found["rates"]
    return Spread.of([one / there for one, there in zip(rates["ours"], rates[name], strict=True)])


def section(found: dict[str, Any]) -> str:
    rows = [("Lorank", f"{Spread.of(found['rates']['ours']):.0f}", "", "")]
    for name, label in NAMES.items():
        served, alone = (Spread.of(found["rates"][one]) for one in (name, f"{name} bare"))
        rows.append((label, f"{served:.1f}", f"{alone:.1f}", f"{ratio(found, name):.1f}"))
    return table((f"model, {found['count']} candidates", "requests/s", "bare `session.run`/s", "ours over it"), rows)
