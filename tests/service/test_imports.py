"""No module of the service needs, not even for its types, a module that needs it."""

from __future__ import annotations

from graphlib import TopologicalSorter

import grimp


def test_imports_have_no_circle() -> None:
    graph = grimp.build_graph("service", cache_dir=None)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    TopologicalSorter(imports).prepare()  # CycleError names the modules
    assert "service.ranking.types" in imports["service.ranking.ports"]
