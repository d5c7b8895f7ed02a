"""The mean of a few measurements and how sure it is: a 95 % interval by Student's t distribution. Knows nothing about what was measured."""

from typing import NamedTuple

import numpy as np

# 97.5 % quantiles of Student's t distribution for 1, 2, … degrees of freedom; beyond them that of the next smaller entry, which is a little wider
_T_QUANTILES = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131),
    *(2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)
SMALLEST = 1e-300  # stands for zero where a logarithm is taken


class Interval(NamedTuple):
    """A mean with the ends of its 95 % interval, arrays of one shape; without an interval where there was one measurement."""

    mean: np.ndarray
    low: np.ndarray | None
    high: np.ndarray | None


def mean_interval(values: np.ndarray) -> Interval:
    """The mean over the first axis of `values` (n, …), n at least 1, and its interval: mean ± t · standard deviation / √n."""
    n, mean = len(values), values.mean(0)
    if n < 2:
        return Interval(mean, None, None)
    reach = _T_QUANTILES[min(n - 1, len(_T_QUANTILES)) - 1] * values.std(0, ddof=1) / np.sqrt(n)
    return Interval(mean, mean - reach, mean + reach)


def geometric_interval(values: np.ndarray) -> Interval:
    """The geometric mean of positive `values` (n, …) and its interval, that of the logarithms' mean: for what spans orders of magnitude."""
    mean, low, high = mean_interval(np.log(np.maximum(values, SMALLEST)))
    most = np.log(1 / SMALLEST)  # beyond which an end of a wide interval would be infinite
    return Interval(np.exp(mean), None if low is None else np.exp(low), None if high is None else np.exp(np.minimum(high, most)))
