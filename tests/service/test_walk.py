"""The files that the candidates of a rank request go through."""

from __future__ import annotations

from tests.service.conftest import Running
from tests.service.walk import ROOT, walk

MOST_CROSSINGS = 25


async def test_candidates_cross_few_borders_between_files(service: Running) -> None:
    await service.rank()  # the first request fills caches
    first, second = await walk(service.app), await walk(service.app)
    files = [hop.file for hop in first.hops]
    assert first.hops == second.hops
    assert first.crossings <= MOST_CROSSINGS, files
    assert files[0] == "service/api/routes.py"
    assert files[first.model_at - 1] == "models/split_model.py"
    assert all((ROOT / file).is_file() for file in files)
    page = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    assert f"<!-- walk -->\n{first.markdown()}<!-- /walk -->" in page, first.markdown()
