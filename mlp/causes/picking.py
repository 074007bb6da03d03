"""Which runs of a study are rerun: spread over the space, the same ones every time."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mlp.causes.change import SEEDS, domain_of, is_active, position
from mlp.causes.observed import StudyRun
from mlp.config import RunConfig
from mlp.settings import settings_of
from mlp.study.domain import Range, typed
from mlp.study.space import Space


def spread(runs: Sequence[StudyRun], space: Space, n: int) -> list[int]:
    """Picks runs that lie far from each other.

    The first is the one with the smallest mean distance to all others, each next one the farthest
    from those picked so far (ties: the earlier run), so that the picks of a smaller n are the first
    ones of a larger n. Runs that differ in their seeds alone, or in what does nothing in them,
    count once.

    Args:
        runs: to pick from, in the order of the study.
        space: the settings by which distance is measured.
        n: how many at most.

    Returns:
        Positions in `runs`, in the order of picking.

    References:
        Gonzalez 1985, "Clustering to minimize the maximum intercluster distance"; Johnson, Moore
        and Ylvisaker 1990, "Minimax and maximin distance designs"; Gower 1971, "A general
        coefficient of similarity and some of its properties".
    """
    groups = {_without_seeds(run.config): i for i, run in reversed(list(enumerate(runs)))}
    candidates = sorted(groups.values())
    if not candidates:
        return []
    apart = _distances([runs[i].config for i in candidates], space)
    picked = [int(np.argmin(apart.mean(axis=1)))]
    while len(picked) < min(n, len(candidates)):
        nearest = apart[:, picked].min(axis=1)
        nearest[picked] = -1.0
        picked.append(int(np.argmax(nearest)))
    return [candidates[i] for i in picked]


def _without_seeds(config: RunConfig) -> str:
    settings = settings_of(config).items()
    return typed([v for path, v in settings if path not in SEEDS and is_active(config, path)])


def _distances(configs: Sequence[RunConfig], space: Space) -> NDArray[np.float64]:
    """Gower's distance of each pair, `(run, run)`, 0 to 1: the mean over the settings.

    Two numbers of one range are as far apart as their share of it; two choices, or numbers of
    different branches, are 1 apart.
    """
    apart = np.zeros((len(configs), len(configs)))
    settings = [settings_of(config) for config in configs]
    for entry in space:
        if entry.path in SEEDS:
            continue
        kinds: list[str] = []
        places: list[float] = []
        for config, values in zip(configs, settings, strict=True):
            found = domain_of(config, entry)
            branch, domain = found if found else ("no domain", None)
            value = values[entry.path]
            if entry.each_layer or isinstance(value, list):
                value = float(np.mean(config.model.layer_widths))
            kinds.append(branch if isinstance(domain, Range) else f"{branch} {typed(value)}")
            places.append(position(domain, value) if domain else 0.0)
        spots, names = np.array(places), np.array(kinds)
        numbers = np.abs(spots[:, None] - spots[None, :])
        apart += np.where(names[:, None] == names[None, :], numbers, 1.0)
    return apart / max(1, len(space))
