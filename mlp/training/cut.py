"""Cuts a generation into populations, so that no worker waits long for the last one.

The cut changes no result: a trial trains the same in any population.
"""

from collections.abc import Sequence
from itertools import pairwise

from mlp.config import RunConfig

# The first populations take half of an equal share of what is left, and so on: early ones are wide,
# which the engine likes, late ones are small, so that all workers end at about the same time.
_SHARE_AHEAD = 2
# A population has its own fixed costs; one this small leaves 1/16 of a worker's time idle at most.
_FINEST = 16


# A pass over the pixels takes as long for one column of a tile as for all of them, see
# `mlp.engine.layout.tile_columns`; so populations end where a tile does.
_TILE_BYTES, _NARROW_BYTES = 128, 64


def cut(
    costs: Sequence[float],
    *,
    n_slots: int,
    most: int | None = None,
    columns: Sequence[int] | None = None,
    item_bytes: int = 4,
) -> list[list[int]]:
    """Parts trials into populations for workers that each take the next one when they are free.

    Guided self-scheduling (Polychronopoulos and Kuck 1987) over trials in falling order of cost; a
    population that would leave part of a tile empty takes further trials that fit there.

    Args:
        costs: one a trial, in any unit, not negative.
        n_slots: populations that train side by side; 1 or more.
        most: trials in one population at most; None: no such limit.
        columns: units of the first layer, one number a trial; None: tiles are of no interest.
        item_bytes: of a weight.

    Returns:
        The numbers of the trials of each population, the population to begin with first. Each trial
        is in one of them.

    Example:
        >>> cut([1.0] * 8, n_slots=2)
        [[0, 1], [2], [3], [4], [5], [6], [7]]
    """
    order = sorted(range(len(costs)), key=lambda number: (-costs[number], number))
    left = total = sum(costs)
    finest = total / (_FINEST * n_slots)
    populations: list[list[int]] = []
    while order:
        share = max(left / (_SHARE_AHEAD * n_slots), finest)
        taken = [order.pop(0)]
        filled = costs[taken[0]]
        while order and filled + costs[order[0]] <= share and len(taken) != most:
            taken.append(order.pop(0))
            filled += costs[taken[-1]]
        if columns is not None:
            room = _room(sum(columns[number] for number in taken), item_bytes)
            for number in [*order]:
                if len(taken) != most and columns[number] <= room:
                    order.remove(number)
                    taken.append(number)
                    room -= columns[number]
                    filled += costs[number]
        populations.append(taken)
        left -= filled
    return populations


def _room(n_columns: int, item_bytes: int) -> int:
    """Columns that a population has free in its last tile."""
    narrow, wide = _NARROW_BYTES // item_bytes, _TILE_BYTES // item_bytes
    return narrow - n_columns if n_columns <= narrow else -n_columns % wide


def cost(config: RunConfig, *, n_examples: int, n_entries: int) -> float:
    """Products of a whole training, about: what its time grows with.

    Args:
        config: of the trial.
        n_examples: it is trained on.
        n_entries: non-zero pixels of these examples.
    """
    widths = (*config.model.layer_widths, 2)
    products = n_entries * widths[0]
    products += n_examples * sum(a * b for a, b in pairwise(widths))
    batch = min(config.training.batch_size or n_examples, n_examples)
    return config.training.steps * products * batch / n_examples
