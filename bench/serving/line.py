"""A straight line through measured costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from scipy.special import stdtrit  # type: ignore[import-untyped]


@dataclass(frozen=True, slots=True)
class Line:
    """y = ``fixed`` + ``slope`` x. ``low`` and ``high`` bound the fixed part, by a 95 % interval; ``fit`` is R squared,
    as is usual, of unweighted residuals."""

    fixed: float
    low: float
    high: float
    slope: float
    fit: float

    @classmethod
    def through(cls, x: Sequence[float], y: Sequence[float]) -> Line:
        """Least squares of relative residuals: a cost that is a hundred times as large is measured a hundred times as
        coarsely. ValueError with fewer than three points."""
        if len(x) < 3:
            raise ValueError("a line needs three points, to be a measurement")
        values, there = np.asarray(y, np.float64), np.stack([np.ones(len(x)), np.asarray(x, np.float64)], axis=1)
        weighted = there / values[:, None]
        covariance = np.linalg.inv(weighted.T @ weighted)
        fixed, slope = covariance @ weighted.sum(axis=0)
        relative = weighted @ np.array([fixed, slope]) - 1.0
        variance = float((relative**2).sum()) / (len(x) - 2)
        margin = float(stdtrit(len(x) - 2, 0.975)) * np.sqrt(variance * covariance[0, 0])
        left = values - there @ np.array([fixed, slope])
        fit = 1.0 - float((left**2).sum() / ((values - values.mean()) ** 2).sum())
        return cls(float(fixed), float(fixed - margin), float(fixed + margin), float(slope), fit)

    def asdict(self) -> dict[str, float]:
        return asdict(self)
