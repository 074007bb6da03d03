"""Every point that can be drawn, where what is drawn first decides what is drawn next."""

import functools
from collections.abc import Callable, Iterator, Sequence

from mlp.config import Value
from mlp.study.domain import Domain

Suggest = Callable[[str, Domain], Value]


def every_point(
    draw: Callable[[Suggest], object], values: Callable[[str, Domain], Sequence[Value]]
) -> Iterator[dict[str, Value]]:
    """Every point that can be drawn with the listed values of each parameter.

    Args:
        draw: asks for one parameter after the other, each by its name and domain.
        values: name, domain -> the values to go through.

    Yields:
        Parameter name -> value, the last parameter varying fastest.

    Example:
        >>> depths = {"depth": [1, 2], "width": [3, 5]}
        >>> def draw(suggest):
        ...     if suggest("depth", None) == 2:
        ...         suggest("width", None)
        >>> list(every_point(draw, lambda name, _: depths[name]))
        [{'depth': 1}, {'depth': 2, 'width': 3}, {'depth': 2, 'width': 5}]
    """
    indices: list[int] | None = []  # of the value that each parameter takes; 0 beyond the end
    while indices is not None:
        taken: dict[str, Value] = {}
        sizes: list[int] = []
        draw(functools.partial(_take, values, indices, taken, sizes))
        yield taken
        indices = _next_indices(indices, sizes)


def _take(
    values: Callable[[str, Domain], Sequence[Value]],
    indices: list[int],
    taken: dict[str, Value],
    sizes: list[int],
    name: str,
    domain: Domain,
) -> Value:
    """Takes the value that the next index says and notes how many there were."""
    listed = values(name, domain)
    taken[name] = listed[indices[len(sizes)] if len(sizes) < len(indices) else 0]
    sizes.append(len(listed))
    return taken[name]


def _next_indices(indices: list[int], sizes: list[int]) -> list[int] | None:
    """Counts on like an odometer whose number of wheels changes; None after the last."""
    wheels = indices + [0] * (len(sizes) - len(indices))
    while wheels and wheels[-1] + 1 == sizes[len(wheels) - 1]:
        wheels.pop()
    return [*wheels[:-1], wheels[-1] + 1] if wheels else None
