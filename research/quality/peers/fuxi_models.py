"""FuxiCTR's models (github.com/reczoo/FuxiCTR, 2.3.10), made for the peers' inputs.

DIN, DCNv2, ETA and SDIM are its ``model_zoo.LongCTR`` as they are. FinalMLP is too, with the feature selection back in
place that the packaged ``forward`` builds and then leaves out; its original (``model_zoo/FinalMLP``) and the paper
(arXiv 2304.00902) apply it, gated by user and by item. DeepFM is in its repository and not in its package: here it is
put together from the package's layers in the same way. ``INPUT_KINDS`` says which inputs each of them reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from pathlib import Path
from typing import Any

import torch
from fuxictr.pytorch.layers import (
    FeatureEmbedding,
    FeatureEmbeddingDict,
    InnerProductInteraction,
    LogisticRegression,
    MLP_Block,
)
from fuxictr.pytorch.models import BaseModel
from model_zoo import LongCTR
from torch import Tensor, nn
from tqdm import tqdm

from research.quality.peers import PeerSettings
from research.quality.peers.inputs import Batches, Inputs, Kind, is_history

INPUT_KINDS: dict[str, Kind] = {
    "DIN": "towers",
    "DCNv2": "towers",
    "DeepFM": "flat",
    "FinalMLP": "towers",
    "ETA": "recent",
    "SDIM": "recent",
}

_EMBEDDING_STD = 1e-4
_ATTENTION = {"attention_dim": 64, "num_heads": 2}
"""Of ETA and SDIM, as in FuxiCTR's configurations of both; so are the next two."""
_SHORT = 50
"""The candidate and the last events before it, which ETA and SDIM attend to in full."""
_HASHES = {"ETA": {"hash_bits": 32, "topk": 50}, "SDIM": {"hash_bits": 4, "num_hashes": 2}}

# The base classes have no types: hence "ignore".


class Recorded(BaseModel):  # type: ignore[misc]
    """Remembers the validation AUC of every epoch, and shows it."""

    def fit(self, data_generator: Batches, bar: tqdm[Any], **kwargs: Any) -> None:
        self.validation_auc: list[float] = []
        self._bar = bar
        super().fit(data_generator, **kwargs)

    def checkpoint_and_earlystop(self, logs: Mapping[str, float], min_delta: float = 1e-6) -> None:
        self.validation_auc.append(float(logs["AUC"]))
        self._bar.set_postfix(validation_auc=f"{logs['AUC']:.4f}")
        super().checkpoint_and_earlystop(logs, min_delta)


class DIN(Recorded, LongCTR.DIN):  # type: ignore[misc]
    pass


class DCNv2(Recorded, LongCTR.DCNv2):  # type: ignore[misc]
    pass


class ETA(Recorded, LongCTR.ETA):  # type: ignore[misc]
    pass


class SDIM(Recorded, LongCTR.SDIM):  # type: ignore[misc]
    pass


class FinalMLP(Recorded, LongCTR.FinalMLP):  # type: ignore[misc]
    def forward(self, inputs: Any) -> dict[str, Tensor]:
        features, items, mask = self.get_inputs(inputs)
        towers = self.embedding_layer(items, flatten_emb=True).view(len(mask), -1, self.item_info_dim)
        history = self.masked_avg_pooling(towers[:, :-1], mask)
        joined = torch.cat([self.embedding_layer(features, flatten_emb=True), towers[:, -1], history], dim=-1)
        context = {"user": features["user"], "item": items["item"].view(len(mask), -1)[:, -1]}
        first, second = self.fs_module(context, joined)
        return {"y_pred": self.output_activation(self.fusion_module(self.mlp1(first), self.mlp2(second)))}


class DeepFM(Recorded):
    """arXiv 1703.04247. The arguments are FuxiCTR's.

    The first-order term is of the user, the profile, the candidate and the numbers. FuxiCTR's sums the weights of
    everything in a sequence as well: over thirty items and their genres one step of Adam then moves a logit by more
    than its size, and the validation AUC on a fifth of MovieLens-1M was .68 instead of .79.
    """

    def __init__(
        self,
        feature_map: Any,
        *,
        embedding_dim: int,
        hidden_units: list[int],
        net_dropout: float,
        batch_norm: bool,
        optimizer: str,
        loss: str,
        learning_rate: float,
        **kwargs: Any,
    ) -> None:
        super().__init__(feature_map, **kwargs)
        self.embedding_layer = FeatureEmbedding(feature_map, embedding_dim)
        single = copy(feature_map)
        single.features = {name: spec for name, spec in feature_map.features.items() if not is_history(name)}
        self.first_order = LogisticRegression(single)
        self.second_order = InnerProductInteraction(feature_map.num_fields, output="product_sum")
        self.mlp = MLP_Block(
            input_dim=feature_map.sum_emb_out_dim(),
            output_dim=1,
            hidden_units=hidden_units,
            hidden_activations="ReLU",
            dropout_rates=net_dropout,
            batch_norm=batch_norm,
        )
        self.compile(optimizer, loss, learning_rate)
        self.reset_parameters()
        self.model_to_device()

    def forward(self, inputs: Any) -> dict[str, Tensor]:
        features = self.get_inputs(inputs)
        embedded = self.embedding_layer(features)
        single = {name: value for name, value in features.items() if not is_history(name)}
        logit = self.first_order(single) + self.second_order(embedded) + self.mlp(embedded.flatten(start_dim=1))
        return {"y_pred": self.output_activation(logit)}


def pools(name: str, settings: PeerSettings) -> bool:
    """Whether a model has the means of liked and of other items. Attention sees ratings anyway."""
    return settings.rated_pools and name not in ("DIN", "ETA", "SDIM")


def fuxi_model(name: str, inputs: Inputs, settings: PeerSettings, folder: Path) -> Recorded:
    """A model with the weights that it starts from; ``folder`` is where its best epoch will lie."""
    hidden = list(settings.hidden_units)
    (folder / inputs.feature_map.dataset_id).mkdir(parents=True, exist_ok=True)
    options: dict[str, Any] = {
        "model_id": name,
        "model_root": str(folder),
        "verbose": 0,
        "metrics": ["AUC"],
        "monitor": "AUC",
        "early_stop_patience": settings.patience,
        "optimizer": "adam",
        "loss": "binary_crossentropy",
        "learning_rate": settings.learning_rate,
        "embedding_dim": settings.embedding_dim,
        "embedding_regularizer": settings.embedding_regularizer,
    }
    network: dict[str, Any] = {"net_dropout": settings.dropout, "batch_norm": settings.batch_norm}
    model: Recorded
    match name:
        case "DIN":
            attention = list(settings.attention_hidden_units)
            model = DIN(
                inputs.feature_map, dnn_hidden_units=hidden, attention_hidden_units=attention, **network, **options
            )
        case "DCNv2":
            model = DCNv2(inputs.feature_map, parallel_dnn_hidden_units=hidden, **network, **options)
        case "DeepFM":
            model = DeepFM(inputs.feature_map, hidden_units=hidden, **network, **options)
        case "FinalMLP":
            streams = {
                f"mlp{stream}_{what}": value
                for stream in (1, 2)
                for what, value in (
                    ("hidden_units", hidden),
                    ("dropout", settings.dropout),
                    ("batch_norm", settings.batch_norm),
                )
            }
            model = FinalMLP(inputs.feature_map, fs1_context=["user"], fs2_context=["item"], **streams, **options)
        case "ETA" | "SDIM":
            sequence = {**_ATTENTION, **_HASHES[name], "short_seq_len": min(_SHORT, inputs.length)}
            cls = ETA if name == "ETA" else SDIM
            model = cls(inputs.feature_map, dnn_hidden_units=hidden, **sequence, **network, **options)
        case _:
            raise ValueError(f"FuxiCTR's {name!r} is not among the peers")
    _start_shares_as_embeddings(model)
    return model


def _start_shares_as_embeddings(model: nn.Module) -> None:
    """A table that is multiplied by shares is one of embeddings, and starts as FuxiCTR's embeddings do."""
    for module in model.modules():
        if isinstance(module, FeatureEmbeddingDict):
            for encoder in module.feature_encoders.values():
                if isinstance(encoder, nn.Linear):
                    nn.init.normal_(encoder.weight, std=_EMBEDDING_STD)
