"""Cores by control groups: of both versions, nested, and seen from within a container."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from models.cores import cpu_quota, limit_threads, usable_cores


def machine(root: Path, groups: str, files: Mapping[str, str]) -> Path:
    """A root with the control groups of this process, and files below /sys/fs/cgroup."""
    for name, text in {"proc/self/cgroup": groups, **{f"sys/fs/cgroup/{name}": files[name] for name in files}}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("groups", "files", "quota"),
    [
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 1.5),
        ("0::/\n", {"cpu.max": "max 100000\n"}, None),
        ("0::/\n", {}, None),
        (
            "0::/a/b\n",
            {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "50000 100000\n", "cpu.max": "200000 100000\n"},
            0.5,
        ),
        ("0::/a/b\n", {"a/b/cpu.max": "100000 100000\n", "a/cpu.max": "400000 100000\n"}, 1.0),
        (
            "0::/of/the/machine\n",
            {"cpu.max": "200000 100000\n"},
            2.0,
        ),  # as a container may see it
        ("0::/\n", {"cpu.max": "rubbish"}, None),
        (
            "4:memory:/a\n3:cpu,cpuacct:/a\n0::/\n",
            {"cpu,cpuacct/a/cpu.cfs_quota_us": "300000\n", "cpu,cpuacct/a/cpu.cfs_period_us": "100000\n"},
            3.0,
        ),
        ("3:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
    ],
)
def test_the_least_quota_of_all_groups_counts(
    tmp_path: Path, groups: str, files: dict[str, str], quota: float | None
) -> None:
    assert cpu_quota(machine(tmp_path, groups, files)) == quota


def test_without_control_groups_there_is_no_quota(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path) is None


@pytest.mark.parametrize(("quota", "cores"), [("50000", 1), ("250000", 3), ("6400000", 8), ("max", 8)])
def test_cores_are_those_of_the_quota(tmp_path: Path, quota: str, cores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    assert usable_cores(machine(tmp_path, "0::/\n", {"cpu.max": f"{quota} 100000\n"})) == cores


def test_libraries_start_threads_by_the_quota(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    root = machine(tmp_path, "0::/\n", {"cpu.max": "400000 100000\n"})
    alone: dict[str, str] = {}
    limit_threads(alone, root=root)
    several: dict[str, str] = {}
    limit_threads(several, processes=3, root=root)
    assert (alone, several) == ({"OMP_NUM_THREADS": "4"}, {"OMP_NUM_THREADS": "1"})
    chosen = {"OMP_NUM_THREADS": "7"}
    limit_threads(chosen, root=root)
    assert chosen == {"OMP_NUM_THREADS": "7"}
    unlimited: dict[str, str] = {}
    limit_threads(unlimited, root=machine(tmp_path, "0::/\n", {"cpu.max": "max 100000\n"}))
    assert unlimited == {}
