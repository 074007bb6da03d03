"""How well the stability ratio at the start tells whether a run will end oscillating.

A run whose ratio at the first weights is above 1 is forecast to oscillate, any other not to. How
often that is right depends on the line at 1; how well the ratio orders the runs, oscillating ones
above the others, does not. Both are counted for each gradient normalization and for all runs.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import rankdata

from mlp.curve import Verdict
from mlp.shares import Share, wilson

THRESHOLD = 1.0  # of the ratio: above it a step leaves the present valley
_Z = 1.959963984540054  # deviations that hold 95 % of a normal distribution
_NEAR = 1e-9
ALL = "all"

Numbers = NDArray[np.float64]


class Forecast(NamedTuple):
    """One run: what was known before its first step, and what became of it."""

    normalization: str
    ratio: float
    verdict: Verdict


@dataclass(frozen=True)
class Quality:
    """How good the forecasts of some runs are.

    Attributes:
        hits: share of runs whose forecast was right.
        auc: chance that of one run that ended oscillating and one that did not, the first had the
            higher ratio, ties counting half. None where there are not both.
        missed: runs that oscillated although the ratio was not above the threshold.
        false_alarms: verdict -> runs above the threshold that ended so instead.
    """

    n_runs: int
    n_oscillating: int
    hits: Share
    auc: Share | None
    missed: int
    false_alarms: Mapping[Verdict, int]


def forecast_quality(forecasts: Iterable[Forecast]) -> dict[str, Quality]:
    """How good the forecasts are, for each normalization and under `all`.

    Args:
        forecasts: one a run; their ratios are finite.

    Returns:
        Normalization -> quality, in order of first appearance, then `all`; empty without runs.

    Example:
        >>> runs = [("mean", 0.3, "learning"), ("mean", 4.0, "oscillating")]
        >>> forecast_quality(Forecast(n, r, Verdict(v)) for n, r, v in runs)["all"].hits.value
        1.0

    References:
        Wilson 1927, "Probable inference, the law of succession, and statistical inference" (the
        hits' interval). Newcombe 2006, "Confidence intervals for an effect size measure based on
        the Mann-Whitney statistic. Part 2", method 5 (the area's interval).
    """
    runs = list(forecasts)
    names = dict.fromkeys(run.normalization for run in runs)
    groups = {name: [run for run in runs if run.normalization == name] for name in names}
    if runs:
        groups[ALL] = runs
    return {name: _quality(group) for name, group in groups.items()}


def _quality(runs: Sequence[Forecast]) -> Quality:
    ratio = np.array([run.ratio for run in runs])
    oscillates = np.array([run.verdict is Verdict.OSCILLATING for run in runs])
    is_forecast = ratio > THRESHOLD
    alarms = [run.verdict for run in runs if run.ratio > THRESHOLD]
    return Quality(
        n_runs=len(runs),
        n_oscillating=int(oscillates.sum()),
        hits=wilson(int((is_forecast == oscillates).sum()), len(runs)),
        auc=_auc(ratio[oscillates], ratio[~oscillates]),
        missed=int((oscillates & ~is_forecast).sum()),
        false_alarms={
            verdict: alarms.count(verdict)
            for verdict in Verdict
            if verdict is not Verdict.OSCILLATING and verdict in alarms
        },
    )


def _auc(positive: Numbers, negative: Numbers) -> Share | None:
    """The area under the ROC curve from ranks, as Mann and Whitney's U over the pairs.

    The interval holds all areas `t` from which the one found is at most `_Z` deviations away. The
    variance is that at `t` itself, so that a perfect order of few runs does not look certain.
    """
    n, m = positive.size, negative.size
    if not n or not m:
        return None
    ranks = rankdata(np.concatenate([positive, negative]))[:n]
    area = float((ranks.sum() - n * (n + 1) / 2) / (n * m))
    more = (n + m) / 2 - 1

    def excess(t: float) -> float:
        variance = t * (1 - t) * (1 + more * (1 - t) / (2 - t) + more * t / (1 + t)) / (n * m)
        return float(abs(area - t) - _Z * math.sqrt(variance))

    # The excess is positive at the far end of each side. Areas of 0 and 1 are roots of their own.
    low = brentq(excess, 0.0, min(area, 1 - _NEAR)) if area > 0 else 0.0
    high = brentq(excess, max(area, _NEAR), 1.0) if area < 1 else 1.0
    return Share(area, float(low), float(high))
