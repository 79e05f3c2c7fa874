"""Calibration inside a model: the lowest LogLoss, the same order, and nothing where there is nothing to learn from."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from models.ctr.calibration import Calibrated, calibrated_scores, scaling
from offline.metrics import expected_calibration_error


class Given(nn.Module):
    """A model that says what it is given."""

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        return inputs["logits"]


def sample(count: int = 4000, slope: float = 0.4, offset: float = -1.0) -> tuple[Tensor, Tensor]:
    """Logits that are too sure and too high, and labels drawn from what they should have been."""
    generator = np.random.default_rng(0)
    logits = generator.normal(1.0, 2.0, count)
    labels = generator.random(count) < 1 / (1 + np.exp(-(slope * logits + offset)))
    return torch.from_numpy(logits.astype(np.float32)), torch.from_numpy(labels.astype(np.float32))


def test_slope_and_offset_are_those_of_a_logistic_regression() -> None:
    logits, labels = sample()
    expected = LogisticRegression(C=1e9, tol=1e-9, max_iter=1000).fit(logits[:, None].numpy(), labels.numpy())
    assert scaling(logits, labels) == pytest.approx((expected.coef_[0, 0], expected.intercept_[0]), abs=1e-3)


def test_scores_become_the_shares_that_they_claim_and_keep_their_order() -> None:
    logits, labels = sample()
    model = Calibrated(Given())
    torch.testing.assert_close(model({"logits": logits}), logits)  # as it is made, it changes nothing
    model.calibrate(logits, labels)
    before, after = (torch.sigmoid(values).numpy() for values in (logits, model({"logits": logits})))
    assert expected_calibration_error(labels.numpy(), after) < 0.03 < expected_calibration_error(labels.numpy(), before)
    assert (np.argsort(after, kind="stable") == np.argsort(logits.numpy(), kind="stable")).mean() > 0.99
    np.testing.assert_allclose(calibrated_scores(logits.numpy(), labels.numpy()), after, atol=1e-6)
    assert {"slope", "offset"} <= model.state_dict().keys()


@pytest.mark.parametrize("case", ["one label", "few of a label", "wrong order", "one value", "diverged"])
def test_nothing_is_taken_where_nothing_can_be_learned(case: str) -> None:
    logits, labels = sample(400)
    match case:
        case "one label":
            labels = torch.ones_like(labels)
        case "few of a label":
            labels = (torch.arange(400) < 40).float()
        case "wrong order":
            logits = -logits
        case "diverged":
            logits[7] = float("nan")
        case "one value":
            logits = torch.zeros_like(logits)
    assert scaling(logits, labels) == (1.0, 0.0)
