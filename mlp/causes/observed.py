"""What was observed: how runs were set, how their loss ended, and whether one was repaired."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mlp.causes.changes import DEPTH, SEEDS, WIDTHS, domain_of, plain
from mlp.config import RunConfig, Value
from mlp.curve import CHANCE_LOSS, Judgement, Verdict
from mlp.settings import seeds_of, settings_of
from mlp.study.space import Choice, Domain, Entry, Range, Space, typed

HEALTHY = frozenset({Verdict.LEARNING, Verdict.CONVERGED})  # what a cure ends in

# The length and precision of a training are part of what is asked, and measuring changes nothing.
_NO_CAUSE = (
    "training.steps",
    "training.dtype",
    "training.evaluate_every",
    "training.sharpness_points",
)
_LIKELY_LOG = 20.0  # numbers that span more than this were most likely drawn by their logarithm


@dataclass(frozen=True)
class StudyRun:
    """One run of a study.

    Attributes:
        config: in the form that `plain` gives.
        params: parameter name -> value, those that exist in this run: `model.widths[3]` only where
            there is a third layer.
    """

    config: RunConfig
    params: Mapping[str, Value]
    verdict: Verdict

    @property
    def is_oscillating(self) -> bool:
        """Whether it ended oscillating."""
        return self.verdict is Verdict.OSCILLATING


def is_repair(before: Judgement, after: Judgement, chance: float = CHANCE_LOSS) -> bool:
    """Whether a changed run repairs the unchanged one.

    It ends learning or converged, no higher than the unchanged run, and below the loss of a network
    that knows nothing.

    Args:
        chance: that loss; infinite where nobody knows it.
    """
    highest = min(before.tail_loss, chance)
    return after.verdict in HEALTHY and after.tail_loss <= highest


def observe(
    configs: Sequence[RunConfig], verdicts: Sequence[Verdict], space: Space
) -> tuple[StudyRun, ...]:
    """The runs of a study, with the parameters of a space as `complete_space` gives it."""
    return tuple(
        StudyRun(plain(config), parameters_of(config, space), verdict)
        for config, verdict in zip(configs, verdicts, strict=True)
    )


def parameters_of(config: RunConfig, space: Space) -> dict[str, Value]:
    """Parameter name -> value of everything that varies in a space and exists in a run."""
    settings = settings_of(config)
    found: dict[str, Value] = {}
    for entry in space:
        drawn = domain_of(config, entry)
        if drawn is None:
            continue
        branch, domain = drawn
        if entry.each_layer:
            for layer, width in enumerate(config.model.layer_widths, start=1):
                found[entry.parameter(branch, layer)] = width
        elif entry.path == WIDTHS and isinstance(domain, Range):
            found[entry.parameter(branch, None)] = config.model.layer_widths[0]
        else:
            found[entry.parameter(branch, None)] = settings[entry.path]
    return found


def complete_space(configs: Sequence[RunConfig], space: Space = ()) -> Space:
    """The space with every further setting in which the runs differ.

    An enqueued trial can differ in settings outside its study's space, and runs that no study made
    have no space at all: the domain is then what was seen.
    """
    known = {entry.path for entry in space} | {*SEEDS, *_NO_CAUSE}
    if configs and configs[0].own is not None:
        steps = configs[0].own.program.role("steps")
        known |= {*seeds_of(configs[0]), f"own.{steps}"}
    seen = [settings_of(plain(config)) for config in configs]
    varied = [
        path
        for path in (seen[0] if seen else ())
        if path not in known
        and (path == "data.scale" or not path.startswith("data."))
        and len({typed(settings[path]) for settings in seen}) > 1
    ]
    widths = [width for config in configs for width in config.model.layer_widths]
    further = []
    for path in varied:
        if path != WIDTHS:
            further.append(_seen_entry(path, [settings[path] for settings in seen]))
        elif len(set(widths)) > 1:  # a list of one width that only differs in length is depth
            further.append(Entry(WIDTHS, {"": _seen_range(widths)}, None, each_layer=True))
    return (*space, *further)


def _seen_entry(path: str, values: Sequence[Value]) -> Entry:
    numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    is_range = len(numbers) == len(values) and (path == DEPTH or len(set(numbers)) > 2)
    domain: Domain
    if is_range:
        domain = _seen_range(numbers)
    else:
        domain = Choice(tuple({typed(value): value for value in values}.values()))
    return Entry(path, {"": domain}, None, each_layer=False)


def _seen_range(numbers: Sequence[float]) -> Range:
    low, high = min(numbers), max(numbers)
    is_integer = all(isinstance(number, int) for number in numbers)
    return Range(low, high, low > 0 and high > _LIKELY_LOG * low, None, is_integer)
