"""What a study would be, before it starts: its first trials, how long it takes, what it needs.

Nothing is written: the search lives in memory, and what is trained for the estimate is forgotten.
"""

import dataclasses
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mlp.config import RunConfig, SweepConfig, Value
from mlp.data.dataset import Dataset, parts_of
from mlp.errors import counted
from mlp.settings import with_settings
from mlp.stability.ratio import sharpness_steps
from mlp.study import search
from mlp.study.identity import identity, study_name
from mlp.study.search import Search, Trial
from mlp.study.space import Domain, describe, draw, typed
from mlp.study.storage import storage_in_memory
from mlp.tracking.display import own_file
from mlp.training.train_runs import n_threads, train_runs

N_SHOWN = 5  # trials that are listed
_CALIBRATION_S = 2.0
_MEASURED_TRIALS = 4  # whose sharpness is measured for the estimate
_ONE_STEP = {"training.steps": 1, "training.sharpness_points": 0}


@dataclass(frozen=True)
class Rehearsal:
    """What a study would be.

    Attributes:
        n_trials: in all; of a grid at most its points.
        n_together: trials that are trained at once.
        domains: parameter name -> the values it is drawn from.
        first: the trials that the study begins with, five of them or all.
        training_s: seconds that all trials take to be trained, by a calibration of two seconds; a
            pruner makes it less.
        measured_s: seconds of training that this was taken from.
        threads: that train.
        needed_bytes: memory for the largest trials of the space, so many at once.
        free_bytes: memory that can still be used.
    """

    name: str
    n_trials: int
    n_together: int
    domains: Mapping[str, Domain]
    first: Sequence[Trial]
    training_s: float
    measured_s: float
    threads: int
    needed_bytes: int
    free_bytes: int


def rehearse(config: SweepConfig, data: Dataset) -> Rehearsal:
    """Asks the first trials of a study and trains them for two seconds."""
    from mlp.engine.population import available_bytes  # it imports compiled code

    what = identity(config, data.name, data.digest)
    shown = dataclasses.replace(config.study, generation=max(config.study.generation, N_SHOWN))
    opened = search.open_search(storage_in_memory(), dataclasses.replace(config, study=shown), what)
    asked = search.ask(opened)
    execution, n_trials = config.base.execution, search.n_planned(opened)
    generation = config.study.generation
    n_together = min(execution.population or generation, generation, n_trials)
    configs = [trial.config for trial in asked[:n_together]]
    apart = _trained_apart(configs)
    measured = [_training_seconds(alike, data, _CALIBRATION_S / len(apart)) for alike in apart]
    for_training, measured_s = (sum(seconds) for seconds in zip(*measured, strict=True))
    for_sharpness = _sharpness_seconds(configs, data)
    return Rehearsal(
        name=study_name(config, what),
        n_trials=n_trials,
        n_together=n_together,
        domains=search.domains(opened),
        first=asked[:N_SHOWN],
        training_s=(for_training + for_sharpness) * n_trials / len(configs),
        measured_s=measured_s,
        threads=n_threads(execution),
        needed_bytes=n_together * _largest_bytes(opened, data),
        free_bytes=available_bytes(),
    )


def render_rehearsal(found: Rehearsal, config: SweepConfig, data: Dataset) -> list[str]:
    """The lines that a person reads."""
    study, own = config.study, config.base.own
    of_what = counted(config.base.training.steps, "step") if own is None else own_file(own)
    width = max(map(len, found.domains), default=0)
    memory = (
        f"memory: at most {_size_of(found.needed_bytes)} for "
        f"{counted(found.n_together, 'trial')} at once, {_size_of(found.free_bytes)} are free"
    )
    return [
        f"study {found.name}: {counted(found.n_trials, 'trial')} of {of_what}, "
        f"{study.sampler} for {config.objective}",
        *search.size_note(study, found.n_trials),
        *([parts_of(data)] if own is None else []),
        "space:",
        *(f"  {name:<{width}}  {describe(domain)}" for name, domain in found.domains.items()),
        "the first trial:" if len(found.first) == 1 else f"the first {len(found.first)} trials:",
        *(
            f"  {trial.number}: " + ", ".join(f"{k}={_short(v)}" for k, v in trial.params.items())
            for trial in found.first
        ),
        _time(found),
        *([memory] if own is None else []),
        "a dry run: nothing was stored",
    ]


def _time(found: Rehearsal) -> str:
    if math.isnan(found.training_s):
        return f"training: longer than {found.measured_s:.1f} s, the time of this trial"
    return (
        f"training: about {_duration(found.training_s)} on {counted(found.threads, 'thread')}, "
        f"by a trial of {found.measured_s:.1f} s; the runs are recorded meanwhile"
    )


def _short(value: Value) -> str:
    return f"{value:.3g}" if isinstance(value, float) else typed(value)


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _size_of(n_bytes: int) -> str:
    return f"{math.ceil(n_bytes / 1e6)} MB" if n_bytes < 1e9 else f"{n_bytes / 1e9:.1f} GB"


def _trained_apart(configs: Sequence[RunConfig]) -> list[list[RunConfig]]:
    """The trials by what the engine cannot train together."""
    from mlp.engine.population import shared_settings  # compiled code

    if configs[0].own is not None:
        return [list(configs)]
    groups: dict[tuple[object, ...], list[RunConfig]] = {}
    for config in configs:
        groups.setdefault(shared_settings(config), []).append(config)
    return list(groups.values())


def _training_seconds(
    configs: Sequence[RunConfig], data: Dataset, most_s: float
) -> tuple[float, float]:
    """Seconds that these trials take to be trained, and seconds that were spent to find out.

    What comes before the first step is counted as it is; the steps, by the share that was done.
    """
    execution = configs[0].execution
    plain = [with_settings(config, {"training.sharpness_points": 0}) for config in configs]
    if configs[0].own is None:  # compiles
        train_runs([with_settings(config, _ONE_STEP) for config in configs], data, execution)
    started = time.perf_counter()
    seen: list[tuple[float, float]] = []  # seconds, share of the trials' steps

    def watch(trials_done: float, _losses: object) -> None:
        seconds = time.perf_counter() - started
        seen.append((seconds, trials_done / len(configs)))
        # On a busy machine nothing may have moved by then; a function may never say that it does.
        has_moved = seen[-1][1] > seen[0][1] or configs[0].own is not None
        if seconds > most_s and len(seen) > 1 and has_moved:
            raise TimeoutError

    try:
        train_runs(plain, data, execution, progress=watch)
    except TimeoutError:  # that is enough
        (first_s, first_share), (last_s, last_share) = seen[0], seen[-1]
        if last_share == first_share:  # a function that does not say how far it is
            return math.nan, last_s
        pace = (last_s - first_s) / (last_share - first_share)
        return last_s + (1 - last_share) * pace, last_s
    whole = time.perf_counter() - started
    return whole, whole


def _sharpness_seconds(configs: Sequence[RunConfig], data: Dataset) -> float:
    """Seconds that it takes to measure the sharpness of these trials, by a few measurements."""
    n_points = len(sharpness_steps(configs[0]))
    if n_points == 0 or configs[0].own is not None:
        return 0.0
    two_points = {"training.steps": 1, "training.sharpness_points": 2}
    few = [with_settings(config, two_points) for config in configs[:_MEASURED_TRIALS]]
    train_runs(few[:1], data, configs[0].execution)  # compiles
    started = time.perf_counter()
    train_runs(few, data, configs[0].execution)
    n_measured = 2 * len(few)
    return (time.perf_counter() - started) / n_measured * n_points * len(configs)


def _largest_bytes(opened: Search, data: Dataset) -> int:
    """Memory that the largest trial of the space takes; 0 where nobody knows."""
    if opened.base.own is not None:
        return 0
    from mlp.engine.population import trial_bytes

    drawn = draw(opened.space, opened.base, lambda _, domain: max(domain.corners(), key=_size))
    largest = with_settings(opened.base, drawn)
    n_examples, n_inputs = data.train.pixels.shape
    threads = n_threads(opened.base.execution)
    return trial_bytes(largest, n_inputs=n_inputs, n_examples=n_examples, threads=threads)


def _size(value: Value) -> float:
    """How large a value makes the network, where it is a size."""
    if isinstance(value, list):
        return float(sum(width for width in value if isinstance(width, int)))
    return float(value) if isinstance(value, int | float) else 0.0
