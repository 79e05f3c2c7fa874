"""An analysis as one HTML page that needs nothing else: no script, no other file."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from offline.ab import report
from offline.ab.figures import drawn
from offline.ab.findings import Analysis

_TEMPLATE = Path(__file__).with_name("page.html.j2")


def page(name: str, found: Analysis) -> str:
    """The page of the experiment ``name``. DataError if matplotlib is not installed."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    figures = drawn(found)
    return environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        name=name,
        found=found,
        figures={"effects": "", "looks": "", **figures},
        attribution=asdict(found.attribution),
        moment=report.moment,
        number=report.number,
        value=report.value,
        signed=report.signed,
        span=report.span,
        verdict=report.verdict,
    )
