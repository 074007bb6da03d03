"""The edge of a number: how far it can go before a run ends badly, by bisection with all seeds."""

import math
from dataclasses import dataclass, field

_POINTS = 4  # between what is known; they train side by side
_TOLERANCE = 0.1  # of the value (log), or of the whole way
_FARTHEST = -1.5  # so far beyond the value that was good with the run's own seed, in whole ways


@dataclass(frozen=True)
class Edge:
    """Between which values of a setting a run begins to end badly.

    Attributes:
        setting: its path.
        good: up to here it ended well with each seed.
        bad: from here on it ended badly with one of them, or more.
        n_seeds: with which it was tried, the run's own among them.
    """

    setting: str
    good: float
    bad: float
    n_seeds: int


@dataclass
class Bisection:
    """The search of one edge, on the way from a value that is good to the run's own, which is not.

    A place on the way is 0 at the good value, 1 at the run's own, and below 0 beyond the good one.
    Values are evenly spaced by their logarithm where both ends are above 0. Of each seed, what lies
    before a good place counts as good; of all of them, what lies after a bad one as bad.

    Attributes:
        good: ends well with the run's own seed.
        start: of the run itself.
        ends: for each seed, place -> whether the run ended well there.
    """

    good: float
    start: float
    ends: list[dict[float, bool]] = field(default_factory=list)

    @property
    def is_log(self) -> bool:
        """Whether values are spaced by their logarithm."""
        return min(self.good, self.start) > 0

    def value(self, place: float) -> float:
        """The value at a place, to three digits, so that it can be typed.

        Example:
            >>> Bisection(0.1, 10.0).value(0.5)
            1.0
        """
        if place in (0, 1):
            return self.start if place else self.good
        if self.is_log:
            value = self.good ** (1 - place) * self.start**place
        else:
            value = self.good + (self.start - self.good) * place
        return float(f"{value:.3g}")

    @property
    def bad_place(self) -> float:
        """The first place where any seed ends badly."""
        return min((self._first_bad(seed) for seed in range(len(self.ends))), default=math.inf)

    @property
    def good_place(self) -> float | None:
        """The last place up to which each seed ends well; None where one has no such place."""
        lasts = [self._last_good(seed) for seed in range(len(self.ends))]
        known = [last for last in lasts if last is not None]
        return min(known) if len(known) == len(lasts) else None

    def wanted(self) -> list[tuple[int, float]]:
        """Seeds and places to train next; none where the edge is known, or beyond reach."""
        bad, good = self.bad_place, self.good_place
        if good is not None and (bad - good) * self._length <= _TOLERANCE:
            # What lies before a good place is good as a rule, not always.
            return [(seed, good) for seed, own in enumerate(self.ends) if good not in own]
        low = good
        if low is None:
            back = min(0.5, math.log(10) / self._length) if self.is_log else 0.5
            low = 0.0 if bad > 0 else bad - back
            if low < (_FARTHEST if self.is_log else 0.0):
                return []
        places = [low + (bad - low) * i / (_POINTS + 1) for i in range(_POINTS + 1)]
        asked = []
        for seed, own in enumerate(self.ends):
            last = self._last_good(seed)
            asked += [(seed, p) for p in places if p not in own and (last is None or p > last)]
        return asked

    def edge(self, setting: str) -> Edge | None:
        """What is known of the edge; None where no value is known that is good with each seed."""
        good, bad = self.good_place, self.bad_place
        if good is None or not good < bad < math.inf:
            return None
        return Edge(setting, self.value(good), self.value(bad), len(self.ends))

    @property
    def _length(self) -> float:
        return abs(math.log(self.start / self.good)) if self.is_log else 1.0

    def _first_bad(self, seed: int) -> float:
        return min((p for p, is_good in self.ends[seed].items() if not is_good), default=math.inf)

    def _last_good(self, seed: int) -> float | None:
        first_bad = self._first_bad(seed)
        good = [p for p, is_good in self.ends[seed].items() if is_good and p < first_bad]
        return max(good, default=None)
