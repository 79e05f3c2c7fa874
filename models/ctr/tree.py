"""Boosted trees over running features and fields, as a module like the networks: the same inputs, the same export.

scikit-learn grows the trees (offline/training/tree.py). Here they are arrays, which torch walks and ONNX Runtime has an
operator for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from models.contract.schema import FeatureSchema
from models.ctr.running import RunningFeatures

_Attribute = int | float | str | bool | Sequence[int] | Sequence[float] | Sequence[str] | Sequence[bool]
_WHOLE_NUMBERS, _NUMBERS = ("feature", "left", "right", "roots", "depth"), ("threshold", "value", "base")


class BoostedTrees(nn.Module):
    """Logits [C] of the contract's inputs: ``base`` and a leaf of each tree. None has been grown yet.

    Arrays of all nodes [n], the root of tree t at ``roots[t]``: the ``feature`` that is compared, the ``threshold``,
    at or below which the way goes to the node ``left`` and above it to ``right``, both the node itself at a leaf, and
    the leaf's ``value``. ``depth`` [1] is the length of the longest way.
    """

    def __init__(self, schema: FeatureSchema) -> None:
        super().__init__()
        self.running = RunningFeatures(schema)
        self.width = self.running.width + schema.item_slots + schema.user_slots
        self.depth: Tensor
        self.feature: Tensor
        self.left: Tensor
        self.right: Tensor
        self.roots: Tensor
        self.threshold: Tensor
        self.value: Tensor
        self.base: Tensor
        for name in _WHOLE_NUMBERS:
            self.register_buffer(name, torch.zeros(int(name == "depth"), dtype=torch.int64))
        for name in _NUMBERS:
            self.register_buffer(name, torch.zeros(int(name == "base")))
        self._operator: dict[str, _Attribute] = {}
        self.register_load_state_dict_pre_hook(_resized)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_post_hook(_prepare)  # type: ignore[no-untyped-call]

    def grow(self, arrays: Mapping[str, Tensor]) -> None:
        """Take the trees of these arrays, by the names of the attributes."""
        for name in (*_WHOLE_NUMBERS, *_NUMBERS):
            setattr(self, name, arrays[name].to(getattr(self, name).dtype))
        self.prepare()

    def features(self, inputs: dict[str, Tensor]) -> Tensor:
        """What the trees compare, [C, width]: running features as they are, and the codes of fields.

        In double precision until they are compared: a last digit that one program rounds otherwise than another would
        pass a threshold here and there, and one threshold may be that of many trees.
        """
        doubled = {name: cells.double() if cells.is_floating_point() else cells for name, cells in inputs.items()}
        running = self.running.plain(doubled).float()
        user = inputs["user_categorical"].expand(running.shape[0], -1)
        return torch.cat([running, inputs["item_categorical"].to(running.dtype), user.to(running.dtype)], dim=1)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        features = self.features(inputs)
        if torch.onnx.is_in_onnx_export():
            scores: Tensor = torch.onnx.ops.symbolic(
                "ai.onnx.ml::TreeEnsembleRegressor", (features,), self._operator,
                dtype=features.dtype, shape=(features.shape[0], 1), version=3,
            )  # fmt: skip
            return scores.squeeze(1)
        node = self.roots.unsqueeze(0).expand(len(features), -1)
        for _ in range(int(self.depth)):
            goes_left = features.gather(1, self.feature[node]) <= self.threshold[node]
            node = torch.where(goes_left, self.left[node], self.right[node])
        return self.base + self.value[node].sum(dim=1)

    def prepare(self) -> None:
        """Write the trees as the attributes of ONNX's operator, which takes no tensors for them. Done when they are
        grown or loaded."""
        places = torch.arange(len(self.feature))
        owner = torch.bucketize(places, self.roots, right=True) - 1
        first, leaf = self.roots[owner], self.left == places
        self._operator = {
            "n_targets": 1,
            "base_values": self.base.tolist(),
            "nodes_treeids": owner.tolist(),
            "nodes_nodeids": (places - first).tolist(),
            "nodes_featureids": self.feature.tolist(),
            "nodes_values": self.threshold.tolist(),
            "nodes_modes": ["LEAF" if end else "BRANCH_LEQ" for end in leaf.tolist()],
            "nodes_truenodeids": torch.where(leaf, 0, self.left - first).tolist(),
            "nodes_falsenodeids": torch.where(leaf, 0, self.right - first).tolist(),
            "target_treeids": owner[leaf].tolist(),
            "target_nodeids": (places - first)[leaf].tolist(),
            "target_ids": [0] * int(leaf.sum()),
            "target_weights": self.value[leaf].tolist(),
        }


def _resized(trees: nn.Module, state: Mapping[str, Tensor], prefix: str, *_: Any) -> None:
    """Make room for as many nodes as there are in what is loaded."""
    for name in (*_WHOLE_NUMBERS, *_NUMBERS):
        if (saved := state.get(prefix + name)) is not None:
            setattr(trees, name, torch.zeros_like(saved))


def _prepare(trees: BoostedTrees, _: object) -> None:
    trees.prepare()
