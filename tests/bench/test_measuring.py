"""The numbers that parts of the benchmark make of their measurements."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bench.serving import swaps, workers
from bench.serving.arrivals import Arrived
from bench.serving.overload import phase_numbers
from bench.serving.scaling import history
from bench.serving.world import World, catalogue_of, job_of, log_of
from models.contract.events import item_hash, unpack_history


def test_a_world_has_the_spaces_that_it_was_told(tmp_path: Path) -> None:
    world = World(items=30, users=4, events=5, spaces=("text", "marc"))
    schema = job_of(world, tmp_path).feature_schema
    assert [space.name for space in schema.user_knowledge] == ["text"]
    assert [space.name for space in schema.item_knowledge] == ["text", "marc"]
    catalogue, log = catalogue_of(world, schema), log_of(world)
    assert (len(catalogue.items), len(catalogue.users), len(log)) == (30, 4, 20)


def test_written_histories_are_what_the_service_reads() -> None:
    hashes = np.array([item_hash(item) for item in ("a", "b")], np.uint64)
    events, foreign = unpack_history("u1", history("u1", hashes, 50))
    assert (len(events), foreign) == (50, 0)
    assert set(events["item"]) == set(hashes)


def test_requests_at_a_swap_are_told_from_others() -> None:
    arrived = np.array(
        [[0.0, 0.001, 1], [1.0, 0.002, 1], [2.0, 0.050, 1], [3.0, np.inf, 0], [4.0, 0.003, 1], [5.0, 0.004, 1]]
    )
    windows = swaps._compared(arrived, {"new": (1.5, 3.5), "back": (3.9, 4.5)})
    assert (windows["new"]["requests"], windows["new"]["failed"], windows["new"]["max"]) == (2, 1, pytest.approx(50.0))
    assert (windows["calm"]["requests"], windows["calm"]["failed"], windows["calm"]["max"]) == (
        2,
        0,
        pytest.approx(2.0),
    )
    assert (windows["back"]["requests"], windows["back"]["max"]) == (1, pytest.approx(3.0))
    assert (windows["after"]["requests"], windows["after"]["max"]) == (1, pytest.approx(4.0))
    numbers = {"items": 5, "cases": {"one core": [windows | {"rate": 1.0, "seconds": {"new": 2.0, "back": 0.5}}]}}
    assert swaps.failed(numbers, "one core") == 1
    assert swaps.added(numbers, "one core", "new").middle == pytest.approx(48.0, abs=0.1)
    assert "| one core | 1 (1 to 1) | at a swap to a new release | 2 | 50.00 (50.00 to 50.00) |" in swaps.swaps_section(
        numbers
    )


def test_two_workers_are_compared_by_processor_time() -> None:
    rounds = {"1": [{"cpu_ms": 1.0}, {"cpu_ms": 2.0}], "2": [{"cpu_ms": 1.25}, {"cpu_ms": 2.0}]}
    assert workers.gain({"rounds": rounds}).low == pytest.approx(1.6)
    memory = {"1": {"pss": 1000.0}, "2": {"pss": 1120.0}, "3": {"pss": 1200.0}}
    assert workers.growth({"memory": memory}) == pytest.approx(0.1)


def test_a_single_late_request_is_no_sign_of_a_flood() -> None:
    """Two seconds of calm, flood and calm each, a request every 10 ms; calm requests take 1 ms."""
    due = np.arange(600) / 100
    latency = np.where((due >= 2) & (due < 2.6), 0.1, np.where((due >= 4) & (due < 4.6), 0.005, 0.001))
    latency[550] = 0.05
    arrived = Arrived(0.0, due, latency, np.zeros(600), np.full(600, fill_value=True))
    assert phase_numbers(arrived, 2.0)["recovery_seconds"] == 0.75
    arrived.well[575:590] = False
    assert phase_numbers(arrived, 2.0)["recovery_seconds"] == 2.0
    arrived.latency[450:] = arrived.latency[400:460] = 0.001
    arrived.well[:] = True
    assert phase_numbers(arrived, 2.0)["recovery_seconds"] == 0.0
