"""Files of experiments, for whoever reads them."""

from __future__ import annotations

TWO_LAYERS = """
[[layers]]
name = "ranking"
[[layers.experiments]]
name = "knowledge"
[[layers.experiments.arms]]
name = "plain"
weight = 30
knowledge = "off"
[[layers.experiments.arms]]
name = "full"
weight = 70

[[layers]]
name = "head"
[[layers.experiments]]
name = "rerank"
seed = "another"
[[layers.experiments.arms]]
name = "none"
weight = 1.0
[[layers.experiments.arms]]
name = "twenty"
weight = 1
rerank_top_n = 20
[[layers.experiments.arms]]
name = "never"
weight = 0
"""


def experiment(name: str = "e", more: str = "", weights: tuple[float, ...] = (0.5, 0.5), arms: str = "") -> str:
    listed = arms or "".join(
        f'[[layers.experiments.arms]]\nname = "{"abcdef"[at]}"\nweight = {weight}\n'
        for at, weight in enumerate(weights)
    )
    return f'[[layers.experiments]]\nname = "{name}"\n{more}\n{listed}'
