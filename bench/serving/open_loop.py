"""Open-loop load by k6: requests arrive at a fixed rate, so that a slow answer delays no later request's sending."""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path

SCRIPT = Path(__file__).parent / "open.js"


def arriving(
    k6: list[str], url: str, bodies: Path, *, rate: float, seconds: float, connections: int = 64
) -> dict[str, float]:
    """Milliseconds p50, p90, p99, p99.9 and max, requests, failed ones, and ``dropped`` ones for which no connection
    was free. ``k6`` is the command, pinned or not."""
    with tempfile.TemporaryDirectory() as scratch:
        summary = Path(scratch) / "summary.json"
        given = {
            "URL": url, "BODIES": str(bodies.resolve()), "RATE": f"{rate:.0f}", "SECONDS": f"{seconds:.0f}",
            "CONNECTIONS": str(connections),
        }  # fmt: skip
        settings = [cell for name, value in given.items() for cell in ("-e", f"{name}={value}")]
        command = [*k6, "run", "--quiet", "--no-usage-report", "--summary-export", str(summary), *settings, str(SCRIPT)]
        ended = subprocess.run(command, capture_output=True, text=True)
        if not summary.exists():
            raise RuntimeError(f"k6 ended with status {ended.returncode}: {ended.stderr[-2000:]}")
        metrics = json.loads(summary.read_text())["metrics"]
    times = metrics["http_req_duration"]
    return {
        "p50": times["med"], "p90": times["p(90)"], "p99": times["p(99)"], "p99.9": times["p(99.9)"],
        "max": times["max"], "requests": metrics["http_reqs"]["count"],
        "failed": metrics["http_req_failed"]["passes"],
        "dropped": metrics.get("dropped_iterations", {}).get("count", 0),
    }  # fmt: skip
