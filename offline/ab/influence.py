"""Metrics as one value per unit: their mean is the metric, and their variance over units is the delta method's.

Units are what was randomised, so they are what is independent; rows of one unit are not. Once a metric is linearised
so (Deng, Knoblich and Lu, KDD 2018, arXiv 1803.06336: section 2 for ratios, section 4 for quantiles), differences,
CUPED and sequential tests treat means, ratios and quantiles alike.
"""

from __future__ import annotations

import numpy as np
from scipy.stats import norm  # type: ignore[import-untyped]  # has no types

from models.contract.arrays import Array


def of_ratio(numerator: Array, denominator: Array) -> Array:
    """Values [units] of the sum of ``numerator`` [units] over the sum of ``denominator`` [units]. ValueError if the
    denominators add up to nothing."""
    mean = float(np.mean(denominator)) if len(denominator) else 0.0
    if not mean > 0:
        raise ValueError("a ratio whose denominators do not add up to more than 0 has no value")
    ratio = float(np.mean(numerator)) / mean
    return np.asarray(ratio + (numerator - ratio * denominator) / mean)


def of_quantile(values: Array, owner: Array, units: int, share: float) -> Array:
    """Values [units] of the ``share`` quantile of ``values`` [n], of which ``owner`` [n] names the unit from 0.

    The density at the quantile is taken from the quantiles at both ends of the interval of the share below it ("outer"
    interval of section 4.2), which needs neither a kernel nor a bandwidth. ValueError without values.
    """
    if not len(values):
        raise ValueError("a quantile of no values")
    quantile = np.quantile(values, share)
    count = np.bincount(owner, minlength=units).astype(np.float64)
    below = of_ratio(np.bincount(owner, values <= quantile, units), count)
    reach = norm.ppf(0.975) * np.std(below, ddof=1) / np.sqrt(units) if units > 1 else 0.0
    shares = np.clip([below.mean() - reach, below.mean() + reach], 0.0, 1.0)
    low, high = np.quantile(values, shares)
    slope = (high - low) / (shares[1] - shares[0]) if shares[1] > shares[0] else 0.0
    return np.asarray(quantile - slope * (below - below.mean()))
