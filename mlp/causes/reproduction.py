"""Whether runs of another program come out alike when their settings are trained again, unchanged.

A rerun says something about a run only if it is a rerun: if a program has a mistake, or does
something that none of its settings says, then what ends the swings in another program says nothing
about it. So before a cause is looked for, settings are trained again with further seeds. If the
program does the same, its run is one more draw of what the reruns are drawn from. It is unlike them
if it ends in another way than any of them, or if its loss leaves the range of theirs.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special  # its stats take a second and a half to import

from mlp.curve import CHANCE_LOSS, Judgement, Verdict

_LEVEL = 0.01  # chance of calling a program another one that is none
_STRETCH = 1.3  # a program may learn so much faster or slower: it has other examples, or more
_RELATIVE = 0.3  # of a loss, as far as it may be outside: on other examples a sum is another step
_ABSOLUTE = 0.02 * CHANCE_LOSS
_SHARE_OUTSIDE = 0.15  # of the points of a curve that may be farther outside
_POINTS = 40  # of a curve that are looked at
_GROUPED = {  # how far a run got, and whether it climbs while it swings, is seen in the curve
    Verdict.CONVERGED: Verdict.LEARNING,
    Verdict.STALLED: Verdict.LEARNING,
    Verdict.CLIMBING: Verdict.OSCILLATING,
}


@dataclass(frozen=True, eq=False)
class JudgedCurve:
    """How the loss of a run went.

    Attributes:
        loss: `(entry,)`; from its first non-finite entry on nothing is looked at.
        step: `(entry,)`, rising.
    """

    verdict: Verdict
    loss: NDArray[np.float64]
    step: NDArray[np.int64]


@dataclass(frozen=True)
class SeedComparison:
    """Runs of one setting of everything, beside reruns with further seeds.

    Attributes:
        settings: those in which the runs differ from each other, as typed.
        own: verdict -> runs.
        reruns: verdict -> reruns.
        n_unlike: runs that are unlike the reruns.
        chance: how often a rerun is unlike the other reruns.
        levels: lowest and highest loss at the end of the runs, and of the reruns.
    """

    settings: str
    own: Mapping[Verdict, int]
    reruns: Mapping[Verdict, int]
    n_unlike: int
    chance: float
    levels: tuple[float, float, float, float]

    @property
    def n_own(self) -> int:
        """All runs."""
        return sum(self.own.values())

    @property
    def n_reruns(self) -> int:
        """All reruns."""
        return sum(self.reruns.values())

    @property
    def p_value(self) -> float:
        """Chance that so many are unlike, or end in one way so often, where they are drawn alike.

        How often a verdict comes out is compared by Fisher's exact test, one-sided.
        """
        n_all = self.n_own + self.n_reruns
        ends = [
            _fisher(n, n_all, n + self.reruns.get(verdict, 0), self.n_own)
            for verdict, n in self.own.items()
        ]
        unlike = _tail(self.n_unlike, self.n_own, self.chance)
        return min(1.0, 2 * min(unlike, len(ends) * min(ends, default=1.0)))


@dataclass(frozen=True)
class Reproduction:
    """What the comparisons say together: each is of one setting of everything."""

    comparisons: tuple[SeedComparison, ...]

    @property
    def n_own(self) -> int:
        """Runs that were compared."""
        return sum(own.n_own for own in self.comparisons)

    @property
    def n_reruns(self) -> int:
        """Reruns that they were compared with."""
        return sum(own.n_reruns for own in self.comparisons)

    @property
    def n_unlike(self) -> int:
        """Runs that came out otherwise than the reruns."""
        return sum(own.n_unlike for own in self.comparisons)

    @property
    def p_value(self) -> float:
        """Chance of such a difference, where the program does the same.

        One that stands out is enough, and so are many small ones.
        """
        n, expected = self.n_own, sum(own.n_own * own.chance for own in self.comparisons)
        over_all = _tail(self.n_unlike, n, expected / n) if n else 1.0
        singles = (len(self.comparisons) * own.p_value for own in self.comparisons)
        return min(1.0, 2 * min(over_all, *singles, 1.0))

    @property
    def is_alike(self) -> bool:
        """Whether reruns can be asked about these runs: also of those that swing most are alike."""
        swinging = [own for own in self.comparisons if Verdict.OSCILLATING in own.own]
        n_unlike = sum(own.n_unlike for own in swinging)
        return self.p_value > _LEVEL and 2 * n_unlike <= sum(own.n_own for own in swinging)


def compare_curves(
    settings: str, runs: Sequence[JudgedCurve], reruns: Sequence[JudgedCurve]
) -> SeedComparison:
    """Compares runs with reruns of the same settings.

    A run is unlike the reruns if it ends as none of them, or if its loss leaves their range: that
    of all of them, at the step and somewhat before and after it.

    Args:
        runs: of the other program, one or more.
        reruns: with further seeds, of this program, taken at the steps of the runs; three or more.

    Example:
        >>> steps = np.arange(50)
        >>> def run(rate):
        ...     return JudgedCurve(Verdict.LEARNING, 0.7 * rate**steps, steps)
        >>> reruns = [run(rate) for rate in (0.96, 0.97, 0.98)]
        >>> compare_curves("", [run(0.97), run(1.0)], reruns).n_unlike
        1
    """
    longest = max((run.step for run in runs), key=len)
    steps = longest[np.unique(np.linspace(0, longest.size - 1, _POINTS).round().astype(int))]
    ranges = np.array([_ranges(rerun, steps) for rerun in reruns])
    ends = [_kind(rerun) for rerun in reruns]

    def is_unlike(course: JudgedCurve, among: NDArray[np.intp]) -> bool:
        if _kind(course) not in {ends[i] for i in among}:
            return True
        lowest, highest = ranges[among, 0].min(axis=0), ranges[among, 1].max(axis=0)
        lost = course.step[~np.isfinite(course.loss)].min(initial=steps[-1] + 1)
        seen = steps < min(lost, course.step[-1] + 1)
        loss = np.interp(steps[seen], course.step, course.loss)
        is_below = loss < lowest[seen] / (1 + _RELATIVE) - _ABSOLUTE
        is_above = loss > highest[seen] * (1 + _RELATIVE) + _ABSOLUTE
        return bool(seen.any()) and float((is_below | is_above).mean()) > _SHARE_OUTSIDE

    everyone = np.arange(len(reruns))
    n_apart = sum(is_unlike(own, np.delete(everyone, i)) for i, own in enumerate(reruns))
    return SeedComparison(
        settings=settings,
        own=Counter(run.verdict for run in runs),
        reruns=Counter(rerun.verdict for rerun in reruns),
        n_unlike=sum(is_unlike(run, everyone) for run in runs),
        chance=(n_apart + 1) / (len(reruns) + 1),
        levels=_levels([_last(run) for run in runs], [_last(rerun) for rerun in reruns]),
    )


def compare_ends(
    settings: str, runs: Sequence[Judgement], reruns: Sequence[Judgement]
) -> SeedComparison:
    """As `compare_curves`, by nothing but whether they end swinging."""
    among = {own.verdict is Verdict.OSCILLATING for own in reruns}
    return SeedComparison(
        settings=settings,
        own=Counter(own.verdict for own in runs),
        reruns=Counter(own.verdict for own in reruns),
        n_unlike=sum((own.verdict is Verdict.OSCILLATING) not in among for own in runs),
        chance=1 / (len(reruns) + 1),
        levels=_levels([own.tail_loss for own in runs], [own.tail_loss for own in reruns]),
    )


def _levels(own: Sequence[float], reruns: Sequence[float]) -> tuple[float, float, float, float]:
    return min(own), max(own), min(reruns), max(reruns)


def unlike_sentences(found: Reproduction, defaults: Sequence[str]) -> tuple[str, ...]:
    """What was found where the runs did not come out alike: no cause.

    Args:
        defaults: settings that no param named.
    """
    swings = Verdict.OSCILLATING
    worst = [own for own in found.comparisons if own.n_unlike]
    worst.sort(key=lambda own: (own.p_value, -own.n_unlike))
    not_again = [own for own in worst if own.own.get(swings, 0) > own.reruns.get(swings, 0) == 0]
    only_here = [own for own in worst if own.reruns.get(swings, 0) > own.own.get(swings, 0) == 0]
    network = "in a correct network of this kind"
    if not_again:
        n = sum(own.n_reruns for own in not_again)
        lead = f"These settings do not oscillate {network}, in {n} of {n} reruns"
    elif only_here:
        n = sum(own.n_reruns for own in only_here)
        n_swinging = sum(own.reruns[swings] for own in only_here)
        lead = (
            f"These settings oscillate {network}, in {n_swinging} of {n} reruns, and not in the "
            "runs that were brought"
        )
    else:
        lead = (
            f"The losses of {found.n_unlike} of {found.n_own} runs do not go as in "
            f"{found.n_reruns} reruns of the same settings {network}"
        )
    other = f", or a setting that no param names ({', '.join(defaults)})" if defaults else ""
    shown = (not_again or only_here or worst)[:2]
    said = f"{lead}; the runs' own code differs{other}. So no cause is named."
    return (said, *(_example(own) for own in shown))


def _example(own: SeedComparison) -> str:
    low, high, low_again, high_again = own.levels
    where = f"With {own.settings}: " if own.settings else ""
    return (
        f"{where}{_counts(own.own)}, loss at the end {low:.3g} to {high:.3g}; reruns "
        f"{_counts(own.reruns)}, {low_again:.3g} to {high_again:.3g}."
    )


def _counts(verdicts: Mapping[Verdict, int]) -> str:
    return ", ".join(f"{n} {verdict.value}" for verdict, n in Counter(verdicts).most_common())


def _kind(course: JudgedCurve) -> Verdict:
    return _GROUPED.get(course.verdict, course.verdict)


def _ranges(rerun: JudgedCurve, steps: NDArray[np.int64]) -> tuple[list[float], list[float]]:
    """Lowest and highest loss somewhat before and after each step; of none, what excludes none."""
    first = np.searchsorted(rerun.step, steps / _STRETCH - 1)
    end = np.searchsorted(rerun.step, steps * _STRETCH + 1, side="right")
    finite = np.where(np.isfinite(rerun.loss), rerun.loss, np.inf)
    lows = [float(finite[a:b].min(initial=np.inf)) for a, b in zip(first, end, strict=True)]
    finite = np.where(np.isfinite(rerun.loss), rerun.loss, -np.inf)
    highs = [float(finite[a:b].max(initial=-np.inf)) for a, b in zip(first, end, strict=True)]
    return lows, highs


def _last(course: JudgedCurve) -> float:
    finite = course.loss[np.isfinite(course.loss)]
    return float(finite[-1]) if finite.size else float("nan")


def _fisher(n: int, n_all: int, n_ended: int, n_own: int) -> float:
    """Chance that `n` or more of the own runs are among all that ended so, in a random order."""
    ways = (
        math.comb(n_ended, k) * math.comb(n_all - n_ended, n_own - k)
        for k in range(n, min(n_ended, n_own) + 1)
    )
    return sum(ways) / math.comb(n_all, n_own)


def _tail(n_unlike: int, n: int, chance: float) -> float:
    """Chance of so many or more of n, each with that chance."""
    return float(special.bdtrc(n_unlike - 1, n, chance)) if n_unlike else 1.0
