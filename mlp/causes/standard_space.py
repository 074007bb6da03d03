"""What may be changed in a run, and how far, where no study says so."""

from mlp.config import RunConfig
from mlp.settings import settings_of
from mlp.study.domain import Choice, Range
from mlp.study.space import Entry, Space

_FACTOR = 1000.0  # how far a number may go from the run's own
_MOST_MOMENTUM = 0.99


def standard_space(config: RunConfig) -> Space:
    """The settings that may be changed in a run, with bounds, where no study says so.

    Seeds, data, steps and dtype are left alone: they are not why a run oscillates, or changing them
    changes the question.
    """
    choices = {
        "gradient.derivative": ("exact", "question"),
        "gradient.normalization": ("mean", "sum", "unit", "clip"),
        "initialization.scheme": ("lecun_normal", "glorot_uniform", "he_normal", "orthogonal"),
        "model.activation": ("sigmoid", "tanh", "relu"),
    }
    entries = [Entry(path, {"": Choice(values)}, None, False) for path, values in choices.items()]
    settings = settings_of(config)
    for path in ("optimizer.learning_rate", "initialization.scale", "gradient.clip_norm"):
        value = settings[path]
        assert isinstance(value, int | float)
        domain = Range(value / _FACTOR, value * _FACTOR, True, None, False)
        entries.append(Entry(path, {"": domain}, None, False))
    momentum = Range(0.0, _MOST_MOMENTUM, False, None, False)
    entries.append(Entry("optimizer.momentum", {"": momentum}, None, False))
    depth = Range(1, config.model.depth + 1, False, None, True)
    entries.append(Entry("model.depth", {"": depth}, None, False))
    widths = Range(1, 2 * max(config.model.layer_widths), False, None, True)
    entries.append(Entry("model.widths", {"": widths}, None, each_layer=True))
    return tuple(entries)
