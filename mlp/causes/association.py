"""What goes along with oscillation in a study: counted and correlated, nothing changed.

None of this names a cause. A sampler that looks for good runs draws settings that go along with
each other, so a setting without any effect can be as strongly associated as the one that acts; and
a cause that all runs share is associated with nothing. It says where to look. Reruns
(`mlp.causes.answer`) say what acts.

The verdict counts as oscillating or not, and every measure here is the same for both: it finds what
tells apart the runs that oscillate and, in the same breath, those that do not. (Measures made for
an objective explain one tail only, and then blame what tells good runs apart.)
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from mlp.causes.evidence import holm
from mlp.causes.observed import StudyRun
from mlp.causes.permutation import (
    Codes,
    Floats,
    between_groups,
    permuted_interaction,
    permuted_share,
)
from mlp.config import Value
from mlp.curve import Verdict
from mlp.shares import Share, wilson
from mlp.study.space import typed

CLEAR_P_VALUE = 0.05  # an association is a hint, not a verdict, so the usual level will do

_MAX_VALUES = 6  # more different numbers than this are put into ranges
_RUNS_A_RANGE, _MOST_RANGES = 8, 4
_LEAST_RUNS = 6  # of a parameter; with fewer no permutation could be clear


@dataclass(frozen=True)
class ValueCount:
    """How the runs with one value, or range, of a parameter ended.

    Attributes:
        parameter: its name, such as `model.widths[2]`.
        value: as typed, or a range such as `0.01 to 0.3`.
        counts: verdict -> runs.
        oscillating: share of them that oscillate, with Wilson's interval.
    """

    parameter: str
    value: str
    counts: Mapping[Verdict, int]
    oscillating: Share


@dataclass(frozen=True)
class Importance:
    """How much of the difference between oscillating and other runs goes along with a parameter.

    Attributes:
        parameter: its name.
        n_runs: in which it exists; a conditional parameter is compared within these alone.
        explained: share of the verdict's variance within these runs, 0 to 1, less what as many
            groups would explain by chance.
        of_study: the same as a share of the variance over all runs.
        most_often: the value or range with the largest share of oscillating runs.
        least_often: likewise the smallest.
        p_value: after correction for all parameters.
    """

    parameter: str
    n_runs: int
    explained: float
    of_study: float
    most_often: str
    least_often: str
    p_value: float

    @property
    def is_clear(self) -> bool:
        """Whether chance is an unlikely explanation."""
        return self.p_value <= CLEAR_P_VALUE


@dataclass(frozen=True)
class Interaction:
    """How much more two parameters tell together than their single effects added up.

    Attributes:
        parameters: their names.
        n_runs: in which both exist.
        explained: share of the verdict's variance beyond the sum of the two, 0 to 1.
        p_value: after correction for all pairs.
    """

    parameters: tuple[str, str]
    n_runs: int
    explained: float
    p_value: float

    @property
    def is_clear(self) -> bool:
        """Whether chance is an unlikely explanation."""
        return self.p_value <= CLEAR_P_VALUE


@dataclass(frozen=True)
class Association:
    """Everything that is only counted and correlated.

    Attributes:
        counts: every value or range of every parameter.
        importances: the largest share of the study first.
        interactions: the clearest first.
    """

    counts: tuple[ValueCount, ...]
    importances: tuple[Importance, ...]
    interactions: tuple[Interaction, ...]


def associate(runs: Sequence[StudyRun], *, seed: int = 0) -> Association:
    """Counts and correlates the verdicts of a study.

    Args:
        runs: all of the study's.
        seed: of the permutations.
    """
    random = np.random.RandomState(seed)
    names = list(dict.fromkeys(name for run in runs for name in run.params))
    return Association(
        counts=tuple(count for name in names for count in count_values(runs, name)),
        importances=rank_importances(runs, names, random),
        interactions=find_interactions(runs, names, random),
    )


def count_values(runs: Sequence[StudyRun], name: str) -> list[ValueCount]:
    """Verdicts by the values of one parameter; many numbers in ranges of about equal number.

    Example:
        >>> from mlp.config import RunConfig
        >>> verdicts = [Verdict.OSCILLATING, Verdict.OSCILLATING, Verdict.CONVERGED]
        >>> runs = [StudyRun(RunConfig(), {"a": 1}, verdict) for verdict in verdicts]
        >>> count_values(runs, "a")[0].oscillating.value
        0.6666666666666666
    """
    having = [run for run in runs if name in run.params]
    codes, labels = _grouped([run.params[name] for run in having])
    found = []
    for code, label in enumerate(labels):
        counts = Counter(run.verdict for run, own in zip(having, codes, strict=True) if own == code)
        oscillating = wilson(counts[Verdict.OSCILLATING], counts.total())
        found.append(ValueCount(name, label, dict(counts), oscillating))
    return found


def rank_importances(
    runs: Sequence[StudyRun], names: Sequence[str], random: np.random.RandomState
) -> tuple[Importance, ...]:
    """Importance of each parameter for the verdict, over all runs that have it.

    With y = 1 for an oscillating run and 0 for another one, and the runs grouped by value or range,
    the explained share is the correlation ratio, taken without its bias of k groups of n runs:

        eta^2 = sum_k n_k (mean_k - mean)^2 / sum (y - mean)^2
        explained = 1 - (1 - eta^2) (n - 1) / (n - k)

    Its p-value is the share of permutations of y, within the runs that have the parameter, with at
    least this eta^2, corrected by Holm for all parameters: exact for any number of runs. Runs that
    lack a conditional parameter are not compared with those that have it: that difference belongs
    to the setting on which it depends.

    Args:
        runs: all of the study's.
        names: the parameters.
        random: for the permutations.

    References:
        Kelley 1935, "An unbiased correlation ratio measure"; Phipson and Smyth 2010, "Permutation
        p-values should never be zero"; Hutter, Hoos and Leyton-Brown 2014, "An efficient approach
        for assessing hyperparameter importance" (shares of variance as importance).
    """
    all_y = _oscillates(runs)
    of_all = float(np.sum(np.square(all_y - all_y.mean()))) if all_y.size else 0.0
    drafts: list[tuple[str, int, float, float, list[str]]] = []
    p_values: list[float] = []
    for name in names:
        having = [run for run in runs if name in run.params]
        codes, labels = _grouped([run.params[name] for run in having])
        y = _oscillates(having)
        within = float(np.sum(np.square(y - y.mean())))
        n, k = len(having), len(labels)
        if k < 2 or n < _LEAST_RUNS or within == 0:
            continue
        shares, p_value = permuted_share(y, codes, random)
        explained = max(0.0, 1 - (1 - shares) * (n - 1) / (n - k)) if n > k else 0.0
        means = [float(y[codes == code].mean()) for code in range(k)]
        ends = [labels[int(np.argmax(means))], labels[int(np.argmin(means))]]
        drafts.append((name, n, explained, explained * within / of_all, ends))
        p_values.append(p_value)
    ranked = [
        Importance(name, n, explained, of_study, ends[0], ends[1], p_value)
        for (name, n, explained, of_study, ends), p_value in zip(
            drafts, holm(p_values), strict=True
        )
    ]
    return tuple(sorted(ranked, key=lambda own: (-own.of_study, own.p_value)))


def explained_shares(runs: Sequence[StudyRun]) -> dict[str, float]:
    """Parameter name -> its `Importance.of_study` before the bias is taken out; no p-values.

    Enough to guess what to look at first.
    """
    all_y = _oscillates(runs)
    of_all = float(np.sum(np.square(all_y - all_y.mean()))) if all_y.size else 0.0
    shares: dict[str, float] = {}
    for name in dict.fromkeys(name for run in runs for name in run.params):
        having = [run for run in runs if name in run.params]
        codes, _ = _grouped([run.params[name] for run in having])
        between = float(between_groups(_oscillates(having)[None, :], codes)[0])
        shares[name] = between / of_all if of_all > 0 else 0.0
    return shares


def find_interactions(
    runs: Sequence[StudyRun], names: Sequence[str], random: np.random.RandomState
) -> tuple[Interaction, ...]:
    """Pairs of parameters that tell more together than their single effects added up.

    Numbers are parted at their median, choices taken as they are. The additive model
    y = mean + a_i + b_j is compared with one mean for each cell (i, j); the p-value permutes the
    residuals of the additive model, which keeps the single effects as they are. It is approximate
    (residuals of a yes-or-no verdict are not exactly exchangeable), unlike that of an importance.

    Args:
        runs: all of the study's.
        names: the parameters.
        random: for the permutations.

    References:
        Freedman and Lane 1983, "A nonstochastic interpretation of reported significance levels".
    """
    drafts: list[tuple[tuple[str, str], int, float]] = []
    p_values: list[float] = []
    for names_of_pair in combinations(names, 2):
        having = [run for run in runs if set(names_of_pair) <= set(run.params)]
        if len(having) < _LEAST_RUNS:
            continue
        codes = [
            _grouped([run.params[n] for run in having], most_ranges=2)[0] for n in names_of_pair
        ]
        found = permuted_interaction(_oscillates(having), codes[0], codes[1], random)
        if found is not None:
            drafts.append((names_of_pair, len(having), found[0]))
            p_values.append(found[1])
    pairs = [
        Interaction(own, n, explained, p_value)
        for (own, n, explained), p_value in zip(drafts, holm(p_values), strict=True)
    ]
    return tuple(sorted(pairs, key=lambda pair: (pair.p_value, -pair.explained)))


def _oscillates(runs: Sequence[StudyRun]) -> Floats:
    return np.array([run.is_oscillating for run in runs], dtype=np.float64)


def _grouped(values: Sequence[Value], most_ranges: int = _MOST_RANGES) -> tuple[Codes, list[str]]:
    """The group of each value, and the groups' labels."""
    texts = [typed(value) for value in values]
    numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    if len(numbers) == len(values) and len(set(numbers)) > min(_MAX_VALUES, 3 * most_ranges // 2):
        return _ranges(np.array(numbers, dtype=np.float64), most_ranges)
    if len(numbers) == len(values):
        order = sorted(set(numbers))
        return np.array([order.index(v) for v in numbers], dtype=np.intp), [
            _shown(v) for v in order
        ]
    labels = list(dict.fromkeys(texts))
    return np.array([labels.index(text) for text in texts], dtype=np.intp), labels


def _ranges(numbers: Floats, most_ranges: int) -> tuple[Codes, list[str]]:
    """Ranges between quantiles; equal numbers stay in one range."""
    n_ranges = min(most_ranges, max(2, numbers.size // _RUNS_A_RANGE))
    edges = np.unique(np.quantile(numbers, np.arange(1, n_ranges) / n_ranges, method="lower"))
    codes = np.unique(np.searchsorted(edges, numbers, side="left"), return_inverse=True)[1]
    labels = []
    for code in range(int(codes.max()) + 1):
        own = numbers[codes == code]
        labels.append(f"{own.min():.3g} to {own.max():.3g}")
    return codes.astype(np.intp), labels


def _shown(value: float) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
