"""Two settings that act only together, in the two ways in which that happens.

First way: each of two changes cures a run, since it takes both settings to make it swing (or end in
another bad way that is asked about). Once one of them is cured, no value of the other brings the
swings back. Second way: no single change cures, since each setting makes it swing by itself. Then
only both changes together cure.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, permutations, product

from mlp.causes.changes import LEARNING_RATE, NORMALIZATION, Change, Factor
from mlp.causes.evidence import ERROR_RATE, Conclusion, capital, p_value_of
from mlp.causes.observed import HEALTHY
from mlp.causes.plan import Pick, Plan, Results, Side
from mlp.config import RunConfig
from mlp.curve import Judgement

PAIR_ERROR_RATE = ERROR_RATE / 4  # the rest is for single settings and for the effective step

_MOST_RUNS = 6  # that one dependence is tried in
_SHARED = 1 / 3  # of the runs that one setting cures must be cured by the other, to ask at all
_SEARCHED_RUNS = 3  # in which all pairs of settings are tried
_SURE = 20.0  # which of two settings needs the other is told at 5 %, however often one looks


@dataclass(frozen=True)
class Dependence:
    """Whether a setting makes a run swing while another one is cured, over further seeds.

    Attributes:
        factor: the setting whose every change is tried.
        without: the setting that stays cured.
        n_pairs: further seeds of these runs in which the unchanged run swings and the cure of
            `without` works.
        n_returned: of these, in which a change of `factor` beside that cure brings the swings back.
        is_needed: whether `factor` needs `without`: with that cured, it brings the swings back in
            less than half of these seeds. None: not settled.
    """

    factor: Factor
    without: Factor
    n_pairs: int
    n_returned: int
    is_needed: bool | None


@dataclass(frozen=True)
class PairCure:
    """What changing two settings did in runs that no single change cures, over further seeds.

    Attributes:
        factors: the two.
        n_runs: runs in which the two together cured, with the run's own seed.
        n_uncured: runs that no single change cured.
        n_pairs: reruns with both changed.
        n_cured: of these, ended learning or converged.
        p_value: the largest of three, that both together do no more than nothing, than the first
            alone, than the second alone; corrected for all pairs of settings.
        changes: as typed, one a run.
    """

    factors: tuple[Factor, Factor]
    n_runs: int
    n_uncured: int
    n_pairs: int
    n_cured: int
    p_value: float
    changes: tuple[str, ...]
    conclusion: Conclusion


Both = tuple[Factor, Factor]


def next_pair_batch(
    plan: Plan, causes: Sequence[Factor], results: Results
) -> tuple[RunConfig, ...]:
    """What to train next about pairs of settings, once all single changes are answered.

    Args:
        causes: the settings that cure alone.
    """
    for stage in (
        _screening_uncured(plan, results),
        _screening_returns(plan, causes, results),
        _confirming_returns(plan, causes, results),
        _screening_pairs(plan, results),
        _confirming_pair(plan, results),
    ):
        if batch := tuple(dict.fromkeys(c for c in stage if c is not None and c not in results)):
            return batch
    return ()


# Each of two changes cures


def dependences(plan: Plan, causes: Sequence[Factor], results: Results) -> tuple[Dependence, ...]:
    """For each two causes that often cure the same runs: does one bring the swings back alone?"""
    found = []
    for factor, without in _two_of(causes):
        runs = _either_cures(plan, factor, without, results)
        n_cured = sum(_cure(pick, factor, results) is not None for pick in plan.on(Side.STOPS))
        if runs and len(runs) >= min(_MOST_RUNS, _SHARED * n_cured):
            found.append(_dependence(factor, without, runs, results))
    return tuple(found)


def _two_of(causes: Sequence[Factor]) -> Iterator[Both]:
    """Each two causes, but for those that both change the step: each undoes what the other does."""
    for one, other in permutations(causes, 2):
        if {one.setting, other.setting} != {NORMALIZATION, LEARNING_RATE}:
            yield one, other


def _cure(pick: Pick, factor: Factor, results: Results) -> Change | None:
    """The change of a factor that cures the run with its own seed."""
    best = pick.by_strength(factor, results)[:1]
    return best[0] if best and pick.is_turned(best, results) else None


def _either_cures(
    plan: Plan, factor: Factor, other: Factor, results: Results
) -> list[tuple[Pick, Change]]:
    """Runs that either change cures with the own seed, and the cure of the other factor."""
    found = [
        (pick, cure)
        for pick in plan.on(Side.STOPS)
        if _cure(pick, factor, results) and (cure := _cure(pick, other, results))
    ]
    return found[:_MOST_RUNS]


def _screening_returns(
    plan: Plan, causes: Sequence[Factor], results: Results
) -> Iterator[RunConfig | None]:
    for factor, without in _two_of(causes):
        for pick, cure in _either_cures(plan, factor, without, results):
            for change in pick.of_factor(factor):
                yield pick.changed([cure, change], 0)


def _confirming_returns(
    plan: Plan, causes: Sequence[Factor], results: Results
) -> Iterator[RunConfig | None]:
    """All wanted seeds, and all there are where those did not settle it."""
    for bond in dependences(plan, causes, results):
        is_in_doubt = bond.is_needed is None and bond.n_pairs > 0
        for pick, cure in _either_cures(plan, bond.factor, bond.without, results):
            n_seeds = len(pick.configs) - 1 if is_in_doubt else pick.n_seeds
            for change in _likeliest_return(pick, bond.factor, cure, results):
                for seed in range(1, n_seeds + 1):
                    yield pick.changed([cure, change], seed)
                    yield pick.changed([cure], seed)
                    yield pick.configs[seed]


def _likeliest_return(pick: Pick, factor: Factor, cure: Change, results: Results) -> list[Change]:
    """The change that swings most beside the cure, with the own seed; none before any is known."""

    def swings(judged: Judgement) -> tuple[bool, float]:
        return judged.verdict is pick.asked, judged.amplitude

    seen = [
        (swings(judged), change)
        for change in pick.of_factor(factor)
        if (judged := pick.judged([cure, change], 0, results)) is not None
    ]
    return [max(seen, key=lambda pair: pair[0])[1]] if seen else []


def _dependence(
    factor: Factor, without: Factor, runs: Sequence[tuple[Pick, Change]], results: Results
) -> Dependence:
    n_pairs = n_returned = 0
    for pick, cure in runs:
        for change in _likeliest_return(pick, factor, cure, results):
            for seed in range(1, len(pick.configs)):
                before = pick.judged([], seed, results)
                cured = before and pick.judged([cure], seed, results)
                both = cured and pick.judged([cure, change], seed, results)
                if not (before and cured and both):
                    continue
                is_cure = before.verdict in pick.start and cured.verdict in pick.goal
                n_pairs += is_cure
                n_returned += is_cure and both.verdict in pick.start
    is_needed = None
    if capital(n_pairs - n_returned, n_returned) >= _SURE:
        is_needed = True
    elif capital(n_returned, n_pairs - n_returned) >= _SURE:
        is_needed = False
    return Dependence(factor, without, n_pairs, n_returned, is_needed)


# Only both changes cure


def pair_cures(plan: Plan, results: Results) -> tuple[PairCure, ...]:
    """For runs that no single change cures: the two settings that most often cure together."""
    uncured = _uncured(plan, results)
    n_hypotheses = len(_factor_pairs(plan.on(Side.STOPS)))
    best = _most_curing(uncured, results)
    return tuple(_pair_cure(factors, uncured, n_hypotheses, results) for factors in best)


def _uncured(plan: Plan, results: Results) -> list[Pick]:
    """Runs that no single change cures with their own seed, all changes being trained."""
    return [
        pick
        for pick in plan.on(Side.STOPS)
        if pick.changes
        and all(
            (own := pick.judged([change], 0, results)) is not None and own.verdict not in pick.goal
            for change in pick.changes
        )
    ]


def _factor_pairs(picks: Sequence[Pick]) -> list[Both]:
    factors = sorted({factor for pick in picks for factor in pick.by_factor})
    return [(a, b) for a, b in combinations(factors, 2) if a.setting != b.setting]


def _combinations(pick: Pick, factors: Both, results: Results) -> Iterator[tuple[Change, ...]]:
    """Both settings changed: the change that is tried first and the strongest one, of each."""
    sides = (
        dict.fromkeys([*pick.of_factor(own)[:1], *pick.by_strength(own, results)[:1]])
        for own in factors
    )
    return product(*sides)


def _curing(pick: Pick, factors: Both, results: Results) -> tuple[Change, ...]:
    """The first changes of both settings that cure the run with its own seed; else none."""
    both = _combinations(pick, factors, results)
    return next((changes for changes in both if pick.is_turned(changes, results)), ())


def _most_curing(uncured: Sequence[Pick], results: Results) -> list[Both]:
    """The pair of settings that cures most of the searched runs, with their own seeds, if any."""
    hits = Counter(
        factors
        for pick in uncured[:_SEARCHED_RUNS]
        for factors in _factor_pairs([pick])
        if _curing(pick, factors, results)
    )
    return [factors for factors, _ in hits.most_common(1)]


def _screening_uncured(plan: Plan, results: Results) -> Iterator[RunConfig | None]:
    """Every change of the runs that none has cured so far, where two settings can be changed."""
    for pick in plan.on(Side.STOPS):
        is_cured = any(pick.is_turned([change], results) for change in pick.changes)
        if _factor_pairs([pick]) and not is_cured:
            yield from (pick.changed([change], 0) for change in pick.changes)


def _screening_pairs(plan: Plan, results: Results) -> Iterator[RunConfig | None]:
    uncured = _uncured(plan, results)
    for place, pick in enumerate(uncured):
        is_searched = place < _SEARCHED_RUNS
        for factors in _factor_pairs([pick]) if is_searched else _most_curing(uncured, results):
            for changes in _combinations(pick, factors, results):
                yield pick.changed(changes, 0)


def _confirming_pair(plan: Plan, results: Results) -> Iterator[RunConfig | None]:
    """With twice the wanted seeds: a pair must beat three others, over all pairs."""
    uncured = _uncured(plan, results)
    for factors in _most_curing(uncured, results):
        for pick in uncured:
            both = _curing(pick, factors, results)
            for seed in pick.seeds_in_doubt if both else ():
                yield pick.configs[seed]
                for changes in (both, both[:1], both[1:]):
                    yield pick.changed(changes, seed)


def _pair_cure(
    factors: Both, uncured: Sequence[Pick], n_hypotheses: int, results: Results
) -> PairCure:
    # Pairs that differ as expected, and the other way: against nothing, the first, the second.
    counts = [Counter[bool]() for _ in range(3)]
    n_pairs = n_cured = 0
    curing = {pick: both for pick in uncured if (both := _curing(pick, factors, results))}
    for pick, both in curing.items():
        for seed in range(1, len(pick.configs)):
            ways = (both, (), both[:1], both[1:])
            judged = [pick.judged(changes, seed, results) for changes in ways]
            ends = [own.verdict for own in judged if own is not None]
            if len(ends) < len(ways):
                continue
            n_pairs += 1
            n_cured += ends[0] in HEALTHY
            for count, other in zip(counts, ends[1:], strict=True):
                count[True] += other in pick.start and ends[0] in pick.goal
                count[False] += other in pick.goal and ends[0] in pick.start
    largest = max(p_value_of(capital(count[True], count[False])) for count in counts)
    p_value = min(1.0, max(1, n_hypotheses) * largest)
    return PairCure(
        factors=factors,
        n_runs=len(curing),
        n_uncured=len(uncured),
        n_pairs=n_pairs,
        n_cured=n_cured,
        p_value=p_value,
        changes=tuple(" ".join(change.text for change in both) for both in curing.values()),
        conclusion=Conclusion.CAUSE if p_value <= PAIR_ERROR_RATE else Conclusion.TOO_LITTLE,
    )
