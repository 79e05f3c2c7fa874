"""Running features, and the models that read them: what they count, in both orders of computing, and exported."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from models.contract.encoding import HISTORY_INPUTS, ITEM_INPUTS, USER_INPUTS, Tensors
from models.contract.schema import FeatureSchema, RunningSpec
from models.ctr.build import reads
from models.ctr.export import export_onnx, parity
from models.ctr.running import RunningFeatures
from models.ctr.split import rehearse, split
from models.ctr.tree import BoostedTrees
from tests.models.test_export import Exported, manifest_of
from tests.models.tiny import Kind, as_torch, inputs_of, logits_of, model_of
from tests.synthetic import SCHEMA

HALF_LIVES = (1.0, 14.0)
TIMED = SCHEMA.model_copy(update={"running": RunningSpec(half_lives_days=HALF_LIVES)})
UNTIMED = SCHEMA.model_copy(update={"running": RunningSpec()})
KINDS: tuple[Kind, ...] = (("din", "target"), ("dcnv2", "target"), ("deepfm", "target"), ("tree", "target"),
    ("lifelong", "target"),
)  # fmt: skip

of_every_schema = pytest.mark.parametrize("schema", [TIMED, UNTIMED], ids=["timed", "untimed"])
CASES = [*((kind, TIMED) for kind in KINDS), *((KINDS[at], UNTIMED) for at in (0, 3, 4))]
"""Of the networks that read these features as they are, one without times is enough."""


def grown(model: torch.nn.Module) -> torch.nn.Module:
    """The model; trees get two random ones of depth 2 and 1 first."""
    if isinstance(model, BoostedTrees):
        arrays = {
            "feature": [3, 0, 5, 0, 0, 0, 0, 0],
            "threshold": [0.1, 0.0, -0.2, 0.0, 0.0, 0.3, 0.0, 0.0],
            "left": [1, 1, 3, 3, 4, 6, 6, 7],
            "right": [2, 1, 4, 3, 4, 7, 6, 7],
            "value": [0.0, 0.5, 0.0, -0.3, 0.2, 0.0, 1.0, -1.0],
            "roots": [0, 5],
            "depth": [2],
            "base": [0.25],
        }
        model.grow({name: torch.tensor(values) for name, values in arrays.items()})
    return model


@cache
def exported(kind: Kind, schema: FeatureSchema) -> Exported:
    model, manifest = grown(model_of(kind, schema)), manifest_of(kind, schema)
    return model, manifest, export_onnx(model, manifest, inputs_of(1, 3, schema))


def expected(schema: FeatureSchema, inputs: Tensors, user: int, item: int) -> dict[str, list[float]]:
    """The features of one pair from their definitions, event by event."""
    events = int(inputs["history_mask"][user].sum())
    ago = [events - 1 - at for at in range(events)]
    values = inputs["history_value"][user, :events]
    liked_above = (schema.liked_above - schema.value_center) / schema.value_scale
    liked = [float(value > liked_above) - schema.prior_liked for value in values]
    weights = [[1.0, 0.8 ** ago[at], liked[at]] for at in range(events)]
    for days in schema.running.half_lives_days if schema.running else ():
        for at, weight in enumerate(weights):
            weight.append(2 ** (-float(inputs["history_hours"][user, at]) / 24 / days))
    width = 3 + len(schema.half_lives_ms)
    totals = [sum(weight[k] for weight in weights) for k in range(width)]
    liking = totals[2] / (totals[0] + 2)

    def of_key(met: list[float]) -> list[float]:
        sums = [sum(share * weight[k] for share, weight in zip(met, weights, strict=True)) for k in range(width)]
        shares = [sums[k] / (totals[k] + 1) for k in range(width)]
        return [*shares[:2], (sums[2] - liking * sums[0]) / (sums[0] + 2), *shares[3:]]

    row = inputs["item_row"][item]
    same = [float(row > 0 and row == other) for other in inputs["history_row"][user, :events]]
    clocks = [ago, *([inputs["history_hours"][user, :events].tolist()] if schema.half_lives_ms.size else [])]
    lately = [max([0.0, *(s / (1 + np.log1p(t)) for s, t in zip(same, clock, strict=True))]) for clock in clocks]
    keys = [of_key(same)]
    first = 0
    for field in schema.item_fields:
        own = [code for code in inputs["item_categorical"][item, first : first + field.slots] if code]
        met = []
        for at in range(events):
            codes = inputs["history_categorical"][user, at, first : first + field.slots].tolist()
            met.append(sum(codes.count(code) for code in own) / max(len(own), 1))
        keys.append(of_key(met))
        first += field.slots
    surprise = values - inputs["history_numeric"][user, :events, 1]
    averages = []
    for rate in (0.8, 0.97, 1.0):
        decayed = [rate**later for later in ago]
        averages += [float(np.dot(decayed, numbers)) / (sum(decayed) + 1) for numbers in (values, liked, surprise)]
    return {
        "met": [float(np.log1p(sum(same)))],
        "item": inputs["item_numeric"][item].tolist(),
        "user": [*inputs["user_numeric"][user].tolist(), *inputs["user_running"][user].tolist(), *averages],
        "lately": lately,
        "keys": [number for key in keys for number in key],
    }


@of_every_schema
@pytest.mark.parametrize("events", [0, 1, 5, 8])
def test_features_are_what_their_definitions_say(schema: FeatureSchema, events: int) -> None:
    inputs = inputs_of(1, 5, schema, events=events)
    features = RunningFeatures(schema)
    plain = features.plain(as_torch(inputs))
    assert plain.shape == (5, features.width)
    for item in range(5):
        numbers = [number for part in expected(schema, inputs, 0, item).values() for number in part]
        np.testing.assert_allclose(plain[item], numbers, rtol=1e-5, atol=1e-5)


@of_every_schema
@pytest.mark.parametrize("events", [0, 1, 5])
def test_one_history_for_all_gives_what_pairs_give(schema: FeatureSchema, events: int) -> None:
    features, inputs = RunningFeatures(schema), inputs_of(1, 6, schema, events=events)
    pairs = inputs | {name: inputs[name].repeat(6, axis=0) for name in USER_INPUTS if name in inputs}
    torch.testing.assert_close(features.plain(as_torch(inputs)), features.plain(as_torch(pairs)), rtol=1e-5, atol=1e-5)


@of_every_schema
def test_padding_says_nothing(schema: FeatureSchema) -> None:
    features, clean = RunningFeatures(schema), inputs_of(1, 4, schema)
    noise = inputs_of(1, 4, schema, seed=9, events=8)
    dirty = dict(clean)
    for name in HISTORY_INPUTS:
        if name in clean and name != "history_mask":
            present = clean["history_mask"].reshape(1, -1, *[1] * (clean[name].ndim - 2)) > 0
            dirty[name] = np.where(present, clean[name], noise[name])
    torch.testing.assert_close(features.plain(as_torch(clean)), features.plain(as_torch(dirty)))


def test_an_unknown_item_was_never_met() -> None:
    inputs = inputs_of(1, 2, UNTIMED)
    inputs["item_row"][:] = inputs["history_row"][:] = 0
    assert not RunningFeatures(UNTIMED).plain(as_torch(inputs))[:, 0].any()


def test_networks_read_them_standardised() -> None:
    features = RunningFeatures(TIMED)
    plain = torch.cat([features.plain(as_torch(inputs_of(1, 50, TIMED, seed=seed))) for seed in range(20)])
    features.standardise(plain)
    inputs = inputs_of(1, 50, TIMED)
    inputs["item_numeric"][0] = 1e9
    scaled = features(as_torch(inputs))
    assert float(scaled.abs().max()) == 8.0
    varies = plain.std(dim=0) > 1e-3
    scale = ((plain - features.mean) / features.scale).std(dim=0)
    torch.testing.assert_close(scale[varies], torch.ones(int(varies.sum())))


def named(case: tuple[Kind, FeatureSchema]) -> str:
    return f"{case[0][0]}-{'timed' if case[1] is TIMED else 'untimed'}"


def of_cases(*without: str) -> pytest.MarkDecorator:
    """Of all cases, but those of architectures that are left out. DCNv2 and DeepFM read these features as DIN does:
    exports of both without them are in test_export.py."""
    again = pytest.mark.slow(small="tests/models/test_running.py::test_exported_models_answer_as_torch_does")
    cases = [
        pytest.param(case, marks=again if case[0][0] in ("dcnv2", "deepfm") else ())
        for case in CASES
        if case[0][0] not in without
    ]
    return pytest.mark.parametrize("case", cases, ids=named)


@of_cases()
def test_exported_models_answer_as_torch_does(case: tuple[Kind, FeatureSchema]) -> None:
    model, manifest, content = exported(*case)
    requests = [
        inputs_of(1, candidates, manifest.feature_schema, seed=candidates, events=events, length=max(1, events))
        for candidates in (1, 2, 500)
        for events in (0, 1, 5, 8)
    ]
    assert parity(model, content, manifest, requests) < 1e-5
    assert len(set(logits_of(model, requests[-1]).tolist())) > 1


@of_cases("tree")
def test_networks_are_served_in_parts(case: tuple[Kind, FeatureSchema], tmp_path: Path) -> None:
    _, _, content = exported(*case)
    for name, part in split(content).items():
        (tmp_path / name).write_bytes(part)
    rehearse(content, tmp_path)


def test_trees_are_loaded_with_as_many_nodes_as_were_saved() -> None:
    model = grown(model_of(("tree", "target"), TIMED))
    other = model_of(("tree", "target"), TIMED)
    other.load_state_dict(copy.deepcopy(model.state_dict()))
    inputs = inputs_of(1, 20, TIMED)
    torch.testing.assert_close(logits_of(model, inputs), logits_of(other, inputs))


def test_models_without_running_features_read_what_they_read() -> None:
    assert set(reads("din", TIMED)) - set(reads("din", SCHEMA)) == {
        "user_running", "history_hours", "history_numeric", "history_row", "item_row",
    }  # fmt: skip
    assert "history_hours" not in reads("din", UNTIMED)
    assert set(reads("lifelong", TIMED)) - set(reads("lifelong", SCHEMA)) == {
        "user_numeric", "user_running", "history_hours", "history_row", "item_row",
    }  # fmt: skip
    assert not {"item_index", "item_vectors"} & set(reads("tree", TIMED))
    assert set(ITEM_INPUTS) > {"item_row"}


def test_a_schema_without_them_is_written_as_before() -> None:
    assert "running" not in SCHEMA.model_dump(mode="json")
    assert SCHEMA.fingerprint != UNTIMED.fingerprint != TIMED.fingerprint
    assert FeatureSchema.model_validate(TIMED.model_dump(mode="json")) == TIMED
