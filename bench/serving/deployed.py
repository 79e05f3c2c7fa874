"""Goal 2: the service beside the DIN that people deploy, behind plain FastAPI: see bench/serving/deployed_models.py."""

from __future__ import annotations

from contextlib import ExitStack

from bench.serving import deployed_models
from bench.serving.installed import CANDIDATES, Workbench
from bench.serving.processes import awake, pause
from bench.serving.results import Numbers
from bench.serving.servers import Server, bare, closed, free_port, ours, started, uvicorn
from bench.serving.spread import Spread, markdown_table
from bench.serving.world import World

NAMES = {
    "din": "DIN (FuxiCTR), 30 events",
    "attention": "DIN, 50 events, 64-d vectors, attention by an MLP",
}


def measure_deployed(workbench: Workbench) -> Numbers:
    """Requests per second of ours, of each model behind FastAPI and of each alone ("din bare"), by round."""
    world, effort = workbench.world(World()), workbench.effort
    folders = deployed_models.lay_out(world, CANDIDATES)
    bodies = world.bodies("deployed", CANDIDATES)
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
                    numbers = closed(servers[name], bodies, effort.seconds)
                rates.setdefault(name, []).append(numbers["requests_per_second"])
                if name in folders:
                    alone = bare(folders[name], "deployed", effort.seconds)
                    rates.setdefault(f"{name} bare", []).append(alone["requests_per_second"])
    return {"count": CANDIDATES, "rates": rates}


def ratio(numbers: Numbers, name: str) -> Spread:
    """Ours over a deployed model, round by round."""
    rates = numbers["rates"]
    return Spread.of([ours_rate / there for ours_rate, there in zip(rates["ours"], rates[name], strict=True)])


def deployed_section(numbers: Numbers) -> str:
    rows = [("Lorank", f"{Spread.of(numbers['rates']['ours']):.0f}", "", "")]
    for name, label in NAMES.items():
        served, alone = (Spread.of(numbers["rates"][side]) for side in (name, f"{name} bare"))
        rows.append((label, f"{served:.1f}", f"{alone:.1f}", f"{ratio(numbers, name):.1f}"))
    return markdown_table(
        (f"model, {numbers['count']} candidates", "requests/s", "bare `session.run`/s", "ours over it"), rows
    )
