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
from mlp.causes.plan import (
    Pick,
    Plan,
    Results,
    Side,
    is_screened,
    judged_after,
    missing,
    strongest,
    turns,
)
from mlp.config import RunConfig
from mlp.curve import Judgement

PAIR_ERROR_RATE = ERROR_RATE / 4  # the rest is for single settings and for the effective step

_MOST_RUNS = 6  # that one dependence is tried in
_SHARED = 1 / 3  # of the runs that one setting cures must be cured by the other, to ask at all
_SEARCHED_RUNS = 3  # in which all pairs of settings are tried
_TIMES_SEEDS = 2  # as many seeds as wanted: a pair must beat three others, over all pairs
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
        _confirming_pairs(plan, results),
    ):
        if batch := missing(stage, results):
            return batch
    return ()


def dependences(plan: Plan, causes: Sequence[Factor], results: Results) -> tuple[Dependence, ...]:
    """For each two causes that often cure the same runs: does one bring the swings back alone?"""
    found = []
    for factor, without in _two_of(causes):
        runs = _either_cures(plan, factor, without, results)
        enough = min(_MOST_RUNS, _SHARED * _n_cured(plan, factor, results))
        if runs and len(runs) >= enough:
            found.append(_dependence(factor, without, runs, results))
    return tuple(found)


def pair_cures(plan: Plan, results: Results) -> tuple[PairCure, ...]:
    """For runs that no single change cures: the two settings that most often cure together."""
    uncured = _uncured(plan, results)
    n_hypotheses = len(_factor_pairs(plan.on(Side.STOPS)))
    return tuple(
        _pair_cure(factors, uncured, n_hypotheses, results)
        for factors in _candidates(plan, results)
    )


def _two_of(causes: Sequence[Factor]) -> Iterator[tuple[Factor, Factor]]:
    """Each two causes, but for those that both change the step: each undoes what the other does."""
    for one, other in permutations(causes, 2):
        if {one.setting, other.setting} != {NORMALIZATION, LEARNING_RATE}:
            yield one, other


def _either_cures(
    plan: Plan, factor: Factor, other: Factor, results: Results
) -> list[tuple[Pick, Change]]:
    """Runs that either change cures with the own seed, and the cure of the other factor."""
    found = []
    for pick in plan.on(Side.STOPS):
        cures = [strongest(pick, either, results) for either in (factor, other)]
        if all(cure is not None and turns(pick, [cure], results) for cure in cures):
            assert cures[1] is not None
            found.append((pick, cures[1]))
    return found[:_MOST_RUNS]


def _n_cured(plan: Plan, factor: Factor, results: Results) -> int:
    """How many runs the factor cures with their own seed."""
    cures = ((pick, strongest(pick, factor, results)) for pick in plan.on(Side.STOPS))
    return sum(cure is not None and turns(pick, [cure], results) for pick, cure in cures)


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

    def n_seeds(pick: Pick, bond: Dependence) -> int:
        is_in_doubt = bond.is_needed is None and bond.n_pairs > 0
        return len(pick.configs) - 1 if is_in_doubt else pick.n_seeds

    for bond in dependences(plan, causes, results):
        for pick, cure in _either_cures(plan, bond.factor, bond.without, results):
            change = _likeliest_return(pick, bond.factor, cure, results)
            for seed in range(1, n_seeds(pick, bond) + 1) if change else ():
                assert change is not None
                yield pick.changed([cure, change], seed)
                yield pick.changed([cure], seed)
                yield pick.configs[seed]


def _likeliest_return(pick: Pick, factor: Factor, cure: Change, results: Results) -> Change | None:
    """The change that swings most beside the cure, with the own seed."""

    def swings(judged: Judgement) -> tuple[bool, float]:
        return judged.verdict is pick.asked, judged.amplitude

    seen = [
        (swings(judged), change)
        for change in pick.of_factor(factor)
        if (judged := judged_after(pick, [cure, change], 0, results)) is not None
    ]
    return max(seen, key=lambda pair: pair[0])[1] if seen else None


def _dependence(
    factor: Factor, without: Factor, runs: Sequence[tuple[Pick, Change]], results: Results
) -> Dependence:
    n_pairs = n_returned = 0
    for pick, cure in runs:
        change = _likeliest_return(pick, factor, cure, results)
        for seed in range(1, len(pick.configs)) if change else ():
            assert change is not None
            unchanged = results.get(pick.configs[seed])
            cured = judged_after(pick, [cure], seed, results) if unchanged else None
            both = judged_after(pick, [cure, change], seed, results) if cured else None
            if unchanged is None or cured is None or both is None:
                continue
            is_cure = pick.is_wanted(cured.verdict) and pick.is_picked(unchanged.verdict)
            n_pairs += is_cure
            n_returned += is_cure and pick.is_picked(both.verdict)
    is_needed = None
    if capital(n_pairs - n_returned, n_returned) >= _SURE:
        is_needed = True
    elif capital(n_returned, n_pairs - n_returned) >= _SURE:
        is_needed = False
    return Dependence(factor, without, n_pairs, n_returned, is_needed)


def _uncured(plan: Plan, results: Results) -> list[Pick]:
    """Runs that no single change cures with their own seed, all changes being trained."""
    return [
        pick
        for pick in plan.on(Side.STOPS)
        if pick.factors
        and all(
            is_screened(pick, factor, results)
            and not any(turns(pick, [change], results) for change in pick.of_factor(factor))
            for factor in pick.factors
        )
    ]


def _factor_pairs(picks: Sequence[Pick]) -> list[tuple[Factor, Factor]]:
    factors = sorted({factor for pick in picks for factor in pick.factors})
    return [(a, b) for a, b in combinations(factors, 2) if a.setting != b.setting]


def _combinations(
    pick: Pick, factors: tuple[Factor, Factor], results: Results
) -> list[tuple[Change, Change]]:
    """Both settings changed: the change that is tried first and the strongest one, of each."""
    sides: list[list[Change]] = []
    for factor in factors:
        of_factor = pick.of_factor(factor)
        best = strongest(pick, factor, results)
        sides.append(list(dict.fromkeys([*of_factor[:1], *([best] if best else [])])))
    return list(product(*sides))  # type: ignore[arg-type]


def _screening_uncured(plan: Plan, results: Results) -> Iterator[RunConfig | None]:
    """Every change of the runs that none has cured so far."""
    for pick in plan.on(Side.STOPS):
        if not any(turns(pick, [change], results) for change in pick.changes):
            yield from (pick.changed([change], 0) for change in pick.changes)


def _screening_pairs(plan: Plan, results: Results) -> Iterator[RunConfig | None]:
    for place, pick in enumerate(_uncured(plan, results)):
        is_searched = place < _SEARCHED_RUNS
        for factors in _factor_pairs([pick]) if is_searched else _candidates(plan, results):
            for changes in _combinations(pick, factors, results):
                yield pick.changed(changes, 0)


def _candidates(plan: Plan, results: Results) -> list[tuple[Factor, Factor]]:
    """The pair of settings that cures most of the searched runs, with their own seeds."""
    hits: Counter[tuple[Factor, Factor]] = Counter()
    for pick in _uncured(plan, results)[:_SEARCHED_RUNS]:
        hits.update(
            factors for factors in _factor_pairs([pick]) if curing_pair(pick, factors, results)
        )
    return [factors for factors, _ in hits.most_common(1)]


def curing_pair(
    pick: Pick, factors: tuple[Factor, Factor], results: Results
) -> tuple[Change, Change] | None:
    """The first changes of both settings that cure the run with its own seed."""
    return next(
        (both for both in _combinations(pick, factors, results) if turns(pick, both, results)),
        None,
    )


def _confirming_pairs(plan: Plan, results: Results) -> Iterator[RunConfig | None]:
    for factors in _candidates(plan, results):
        for pick in _uncured(plan, results):
            both = curing_pair(pick, factors, results)
            n_seeds = min(_TIMES_SEEDS * pick.n_seeds, len(pick.configs) - 1)
            for seed in range(1, n_seeds + 1) if both else ():
                assert both is not None
                yield pick.configs[seed]
                for changes in (both, both[:1], both[1:]):
                    yield pick.changed(changes, seed)


def _pair_cure(
    factors: tuple[Factor, Factor], uncured: Sequence[Pick], n_hypotheses: int, results: Results
) -> PairCure:
    # Pairs that differ as expected, and the other way: against nothing, the first, the second.
    counts = [Counter[bool]() for _ in range(3)]
    n_pairs = n_cured = n_runs = 0
    texts: list[str] = []
    for pick in uncured:
        both = curing_pair(pick, factors, results)
        if both is None:
            continue
        n_runs += 1
        texts.append(" ".join(change.text for change in both))
        for seed in range(1, len(pick.configs)):
            judged = judged_after(pick, both, seed, results)
            others = [results.get(pick.configs[seed])]
            others += [judged_after(pick, [change], seed, results) for change in both]
            if judged is None or None in others:
                continue
            n_pairs += 1
            n_cured += judged.verdict in HEALTHY
            for count, other in zip(counts, others, strict=True):
                assert other is not None
                before, after = other.verdict, judged.verdict
                count[True] += pick.is_picked(before) and pick.is_wanted(after)
                count[False] += pick.is_wanted(before) and pick.is_picked(after)
    largest = max(p_value_of(capital(count[True], count[False])) for count in counts)
    p_value = min(1.0, max(1, n_hypotheses) * largest)
    conclusion = Conclusion.CAUSE if p_value <= PAIR_ERROR_RATE else Conclusion.TOO_LITTLE
    return PairCure(
        factors, n_runs, len(uncured), n_pairs, n_cured, p_value, tuple(texts), conclusion
    )
