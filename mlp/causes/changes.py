"""What can be changed in a run, one setting at a time, and what a change does to the step.

A change of the normalization that keeps the effective step needs a learning rate that depends on
the length of the first gradient, and so on the seed.
"""

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any, TypeGuard

from mlp.config import Execution, Own, RunConfig, Tracking, Value, digest
from mlp.curve import CHANCE_LOSS, Judgement
from mlp.errors import SettingError
from mlp.program import Argument, Program
from mlp.settings import seeds_of, settings_for_seeds, settings_of, with_settings
from mlp.stability.ratio import step_factor
from mlp.study.space import Choice, Domain, Entry, Range, Space, bounds_around, typed

GradientNorm = Callable[[Sequence[RunConfig]], Sequence[float]]
"""Configs -> L2 norm of the gradient of the mean loss at their first weights."""

Train = Callable[[Sequence[RunConfig]], Sequence[Judgement]]
"""Trains each config and judges its loss curve."""

NORMALIZATION, LEARNING_RATE = "gradient.normalization", "optimizer.learning_rate"
DEPTH, WIDTHS = "model.depth", "model.widths"
SEEDS = ("training.seed", "training.order_seed")

# The length and precision of a training are part of what is asked, and measuring changes nothing.
_LEFT_ALONE = {"data.name", "data.validation_fraction", "data.split_seed", *SEEDS} | {
    f"training.{name}" for name in ("steps", "dtype", "evaluate_every", "sharpness_points")
}
_SEEDS_OF_A_RUN = 256  # apart; 2 to the 28 seeds in all, of 2 to the 32
_TEN = 10.0
_FARTHEST = 1000.0  # times a number of the run, larger or smaller
_MOST_MOMENTUM = 0.99


def step_example(config: RunConfig, n_examples: int, gradient_norm: GradientNorm) -> str | None:
    """The first step of a run in words; None where that is its learning rate, or is not known.

    Args:
        n_examples: in the training part.
        gradient_norm: asked only if the normalization is `unit` or `clip`.
    """
    normalization, rate = config.gradient.normalization, config.optimizer.rate
    if normalization == "mean" or config.own is not None:
        return None
    norm = gradient_norm([config])[0] if normalization in ("unit", "clip") else 1.0
    factor = float(step_factor(config, norm, n_examples)) if norm > 0 else 1.0
    if factor == 1 or math.isnan(factor):
        return None
    return f"{rate:.3g} on the {normalization} is a step of {rate * factor:.3g} on the mean"


@dataclass(frozen=True, order=True)
class Factor:
    """What is tested as a cause: a setting.

    Attributes:
        setting: its path.
        keeps_step: of the normalization: whether the learning rate changes with it, so that the
            effective step at the start stays the same. Other settings change alone.
    """

    setting: str
    keeps_step: bool = False

    def __str__(self) -> str:
        return f"{self.setting}{' at the same effective step' if self.keeps_step else ''}"


Values = tuple[tuple[str, Value | tuple[int, ...]], ...]


@dataclass(frozen=True)
class Change:
    """One factor set to another value.

    Attributes:
        text: the change as it is typed, such as `model.depth=2`.
        values: setting -> value, with the run's own seed.
        distance: how far it goes, as a share of the setting's domain; 1 for another choice.
        by_seed: the values with the so many-th seed, where they depend on it; no values where it
            cannot be changed.
    """

    factor: Factor
    text: str
    values: Values
    distance: float
    by_seed: Callable[[int], Values] | None = field(default=None, compare=False)

    def of_seed(self, seed: int) -> Values:
        """The values with the so many-th seed, 0 for the run's own."""
        return self.values if self.by_seed is None else self.by_seed(seed)


def change_to(values: Values, distance: float) -> Change:
    """The first of the settings set to its value; what follows goes with it."""
    path, value = values[0]
    return Change(Factor(path), f"{path}={shown_value(value)}", values, distance)


Order = Callable[[str, Value], float]
"""Parameter name, value -> how soon an alternative is tried; the lowest first."""


def plain(config: RunConfig) -> RunConfig:
    """The config with everything that changes no result at its default: the key of a result.

    Example:
        >>> near, far = RunConfig(execution=Execution(threads=1)), RunConfig()
        >>> near == far, plain(near) == plain(far)
        (False, True)
    """
    here = with_settings(config, {"data.root": None, WIDTHS: config.model.layer_widths})
    return replace(here, tracking=Tracking(), execution=Execution())


def is_seed(config: RunConfig, path: str) -> bool:
    """Whether a setting only says which random numbers a run draws."""
    return path in SEEDS or path in seeds_of(config)


def left_alone(config: RunConfig) -> set[str]:
    """Settings of a run that are no cause: its seeds, its data, how long it trains."""
    if config.own is None:
        return _LEFT_ALONE
    return {*_LEFT_ALONE, *seeds_of(config), f"own.{config.own.program.role('steps')}"}


def own_seed(config: RunConfig) -> int:
    """The seed of a run; 0 where it has none."""
    seed = settings_of(config)[seeds_of(config)[0]]
    return seed if isinstance(seed, int) else 0


def with_further_seeds(
    config: RunConfig, n: int, above: int | None = None
) -> tuple[RunConfig, ...]:
    """The run, and the same with `n` further seeds, which no run with other settings shares.

    Args:
        above: the largest seed of its study; None: of the run alone.
    """
    block = int(digest(settings_for_seeds(config))[:5], 16) * _SEEDS_OF_A_RUN
    first = 1 + (own_seed(config) if above is None else above) + block
    paths = seeds_of(config)
    further = (with_settings(config, dict.fromkeys(paths, first + k)) for k in range(n))
    return (config, *further)


def chance_of(config: RunConfig) -> float:
    """The loss of a network that knows nothing; of an own function nobody knows it: infinite."""
    return CHANCE_LOSS if config.own is None else math.inf


def rerun(config: RunConfig, changes: Sequence[Change], seed: int) -> RunConfig | None:
    """The config with changes made; None where they collide or the schema refuses them.

    Args:
        config: with the seed that `seed` counts.
        changes: of different factors.
    """
    each = [change.of_seed(seed) for change in changes]
    is_colliding = any(dict(a).keys() & dict(b).keys() for a, b in combinations(each, 2))
    if is_colliding or not all(each):
        return None
    return _changed(config, tuple(pair for values in each for pair in values))


@functools.lru_cache(maxsize=50_000)
def _changed(config: RunConfig, values: Values) -> RunConfig | None:
    try:
        changed = with_settings(config, dict(values))
    except SettingError:
        return None
    return with_settings(changed, {WIDTHS: changed.model.layer_widths})


def changes_of(
    configs: Sequence[RunConfig],
    space: Space,
    *,
    n_examples: int,
    gradient_norm: Callable[[int], float],
    targets: Mapping[str, float],
    order: Order,
    to_bounds: bool = False,
) -> tuple[Change, ...]:
    """Every change of one setting that is tried on a run.

    Choices: all others. Numbers: the target and a factor of ten either way, within the bounds (from
    zero: the bounds). Integers: the target and both neighbours. Depth: both neighbours; deeper
    repeats the last width, shallower leaves out the last ones. The normalization comes twice, with
    the learning rate kept and with the effective step at the start kept. Seeds, settings that do
    nothing in this run, and values that the schema refuses are left out.

    Args:
        configs: the run with each seed, its own first.
        space: the settings that may be changed, and their bounds.
        gradient_norm: of the mean gradient at the start, of each seed; asked for when a rerun needs
            it.
        targets: parameter name -> the number to try first, such as the quiet runs' median.
        to_bounds: whether numbers go to both their bounds first, since no run shows where to go.

    Returns:
        Changes by factor, those of a factor in the order in which they are tried.
    """
    config = configs[0]
    settings, changes = settings_of(config), list[Change]()
    for entry in space:
        drawn = domain_of(config, entry)
        if drawn is None or is_seed(config, entry.path) or not is_active(config, entry.path):
            continue
        _, domain = drawn
        for name, value, set_to in places(config, settings, entry):
            target = None if entry.path == DEPTH else targets.get(name)
            for other in _alternatives(domain, value, name, target, order, to_bounds):
                distance = distance_between(domain, value, other) or 1.0
                changes.append(change_to(set_to(other), distance))
        if entry.path == NORMALIZATION:
            changes += _at_same_step(configs, domain, n_examples, gradient_norm, order)
    return tuple(c for c in changes if rerun(config, [c], 0) not in (None, plain(config)))


def values_of(config: RunConfig, change: Change) -> list[Value]:
    """The values that a setting has before and after a change; of widths, each layer's."""
    path = change.factor.setting
    before = config.model.layer_widths if path == WIDTHS else settings_of(config)[path]
    both = (before, dict(change.values)[path])
    return [v for value in both for v in (value if isinstance(value, list | tuple) else [value])]


def domain_of(config: RunConfig, entry: Entry) -> tuple[str, Domain] | None:
    """The branch and domain that a run draws a setting from; None where it has none there."""
    if entry.by is None:
        return next(iter(entry.domains.items()))
    branch = typed(settings_of(config)[entry.by])
    return (branch, entry.domains[branch]) if branch in entry.domains else None


def is_active(config: RunConfig, path: str) -> bool:
    """Whether the setting can do anything in this run."""
    match path:
        case "gradient.clip_norm":
            return config.gradient.normalization == "clip"
        case "initialization.scale":
            return config.initialization.scheme != "zeros"
    return True


def places(
    config: RunConfig, settings: Mapping[str, Value], entry: Entry
) -> Iterator[tuple[str, Value, Callable[[Any], Values]]]:
    """What an entry of a space draws in a run: parameter name, value, what another value sets.

    Args:
        settings: of the run.
    """
    drawn, widths = domain_of(config, entry), config.model.layer_widths
    if drawn is None:
        return
    branch, domain = drawn

    def depth_to(other: int) -> Values:
        return (DEPTH, other), (WIDTHS, (*widths, *[widths[-1]] * other)[:other])

    def width_to(layer: int, other: int) -> Values:
        return ((WIDTHS, (*widths[: layer - 1], other, *widths[layer:])),)

    def setting_to(other: Value) -> Values:
        return ((entry.path, tuple(other) if isinstance(other, list) else other),)

    if entry.each_layer:
        for layer, width in enumerate(widths, start=1):
            yield entry.parameter(branch, layer), width, functools.partial(width_to, layer)
        return
    is_one_width = entry.path == WIDTHS and isinstance(domain, Range)  # for all layers
    value = widths[0] if is_one_width else settings[entry.path]
    yield entry.parameter(branch, None), value, depth_to if entry.path == DEPTH else setting_to


def _at_same_step(
    configs: Sequence[RunConfig],
    domain: Domain,
    n_examples: int,
    gradient_norm: Callable[[int], float],
    order: Order,
) -> Iterator[Change]:
    """The normalization and, for each seed, the learning rate that keeps the first step."""
    present = configs[0].gradient.normalization

    def keeping(other: str, seed: int) -> Values:
        config, norm = configs[seed], 1.0
        if {present, other} & {"unit", "clip"}:  # whose step depends on it
            norm = gradient_norm(seed)
        if not (math.isfinite(norm) and norm > 0):
            return ()
        target = with_settings(config, {NORMALIZATION: other})
        before, after = (float(step_factor(c, norm, n_examples)) for c in (config, target))
        rate = config.optimizer.rate * before / after
        return ((NORMALIZATION, other), (LEARNING_RATE, rate))

    for other in map(str, _alternatives(domain, present, NORMALIZATION, None, order, False)):
        if _changed(configs[0], ((NORMALIZATION, other),)) is None:
            continue
        values = keeping(other, 0)
        if values:
            rate = shown_value(dict(values)[LEARNING_RATE])
            text = f"{NORMALIZATION}={other} {LEARNING_RATE}={rate}"
            by_seed = functools.cache(functools.partial(keeping, other))
            yield Change(Factor(NORMALIZATION, keeps_step=True), text, values, 1.0, by_seed)


def position(domain: Domain, value: Value) -> float:
    """Where a number stands in its range, 0 to 1 (log: by its logarithm); 0 for a choice."""
    if not isinstance(domain, Range) or not isinstance(value, int | float):
        return 0.0
    low, high, at = domain.low, domain.high, float(value)
    if domain.log:
        low, high, at = math.log(low), math.log(high), math.log(max(at, 1e-300))
    return (at - low) / (high - low) if high > low else 0.0


def distance_between(domain: Domain, one: Value, other: Value) -> float:
    """How far two values are apart, as a share of their range; 0 for choices."""
    return abs(position(domain, one) - position(domain, other))


def _alternatives(
    domain: Domain,
    value: Value,
    name: str,
    target: float | None,
    order: Order,
    to_bounds: bool,
) -> list[Value]:
    """Other values of a setting, in the order in which they are tried."""
    if isinstance(domain, Choice):
        others = [own for own in domain.values if typed(own) != typed(value)]
        return sorted(others, key=lambda other: order(name, other))
    assert isinstance(value, int | float)
    bounds = [domain.low, domain.high]
    if domain.integer:
        step = int(domain.step or 1)
        wanted = [value - step, value + step]
    else:  # no factor leads away from zero
        wanted = [value / _TEN, value * _TEN] if value else bounds
    wanted = sorted(wanted, key=lambda other: order(name, other))
    if target is not None:
        wanted.insert(0, round(target) if domain.integer else target)
    if to_bounds and not domain.integer:
        wanted = [*bounds, *wanted]
    within: list[Value] = []
    for number in wanted:
        bounded = min(max(number, domain.low), domain.high)
        own = int(bounded) if domain.integer else float(bounded)
        if not any(_is_near(own, other) for other in (value, *within)):
            within.append(own)
    return within


def _is_near(one: float, other: Value) -> bool:
    assert isinstance(other, int | float)
    return one == other if isinstance(one, int) else math.isclose(one, other, rel_tol=0.01)


def is_number(value: Value) -> TypeGuard[int | float]:
    """Whether it is one; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def shown_value(value: Value | tuple[int, ...]) -> str:
    """A value as it is typed, floats to four digits, lists without spaces."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return typed(list(value)) if isinstance(value, tuple) else typed(value)


def standard_space(config: RunConfig) -> Space:
    """The settings that may be changed in a run that no study belongs to, with bounds.

    Seeds, data, steps and dtype stay: they are not why a run oscillates, or they are part of what
    is asked. Inputs that are not 0 to 1, and biases that do not start at 0, may do so. Of an own
    function, every argument whose default and value say what else it can be.
    """
    if config.own is not None:
        return _space_of(config.own)
    choices: dict[str, tuple[Value, ...]] = {
        "gradient.derivative": ("exact", "question"),
        "gradient.normalization": ("mean", "sum", "unit", "clip"),
        "initialization.scheme": ("lecun_normal", "glorot_uniform", "he_normal", "orthogonal"),
        "model.activation": ("sigmoid", "tanh", "relu"),
    }
    settings = settings_of(config)
    for path, usual in (("data.scale", 1.0), ("initialization.bias", 0.0)):
        if settings[path] != usual:
            choices[path] = (usual, settings[path])
    domains: dict[str, Domain] = {path: Choice(values) for path, values in choices.items()}
    for path in ("optimizer.learning_rate", "initialization.scale", "gradient.clip_norm"):
        value = settings[path]
        assert isinstance(value, int | float)
        domains[path] = Range(value / _FARTHEST, value * _FARTHEST, True, None, False)
    domains["optimizer.momentum"] = Range(0.0, _MOST_MOMENTUM, False, None, False)
    domains[DEPTH] = Range(1, config.model.depth + 1, False, None, True)
    domains[WIDTHS] = Range(1, 2 * max(config.model.layer_widths), False, None, True)
    return tuple(entry_of(path, domain) for path, domain in domains.items())


def entry_of(path: str, domain: Domain) -> Entry:
    """A setting with its domain, which no other setting changes; a width is one of each layer."""
    each_layer = path == WIDTHS and isinstance(domain, Range)
    return Entry(path, {"": domain}, None, each_layer)


def _space_of(own: Own) -> Space:
    """What may be changed in a run of an own function; not its seed, and not how long it trains."""
    left_out = {own.program.role("seed"), own.program.role("steps")}
    domains = {
        f"own.{argument.name}": _domain_of_argument(own.program, argument, value)
        for argument, value in zip(own.program.arguments, own.values, strict=True)
        if argument.name not in left_out
    }
    return tuple(entry_of(path, domain) for path, domain in domains.items() if domain)


def _domain_of_argument(program: Program, argument: Argument, value: Value) -> Domain | None:
    """What else an argument can be; None where nobody knows."""
    if isinstance(value, bool):
        return Choice((value, not value))
    if argument.choices:
        return Choice(argument.choices)
    if isinstance(value, int) and value > 0:
        return Range(1, 10 * value, False, None, True)
    if isinstance(value, float) and value > 0:
        low, high = bounds_around(program, argument.name, value, _FARTHEST)
        return Range(low, high, True, None, False)
    default = argument.default
    return Choice((value, default)) if default not in (None, value) else None
